"""What becomes of models, told on MQTT: by way of the outbox, so that it is told at least once."""

from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from insa_anomaly.core.notification.event import deterministic_id
from insa_anomaly.core.notification.notice import Notice
from insa_anomaly.errors import StateUnwritable
from insa_anomaly.instrumentation.models import event_waits
from insa_anomaly.ports.jobs import Job
from insa_anomaly.ports.models import ModelRow
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.services.jobs import job_view

TOPIC = "insa/iiot/ml/model/"
TOPICS = {"train": f"{TOPIC}trained", "retrain": f"{TOPIC}retrained"}
BY_ITSELF = "automatic"
WAITING_MOST = 1000


class ModelEvents:
    """Puts events into the outbox. Any thread may call.

    That a model was trained is known from the index, too: while the disk does not take it, the newest of that wait in memory.
    """

    def __init__(self, state: State, enqueue: Callable[[list[Outgoing]], None]) -> None:
        self._state = state
        self._enqueue = enqueue
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=WAITING_MOST)

    def trained(self, job: Job, row: ModelRow) -> None:
        """A training that was asked for made this model."""
        self._tell(job.kind, row, msgspec.to_builtins(job_view(job, row)))

    def trained_by_itself(
        self, row: ModelRow, kind: Literal["train", "retrain"], seconds: float
    ) -> None:
        """A series, or a device, was trained without being asked for."""
        outcome = {"promoted": not row.reason} if kind == "retrain" else {}
        job = Job(
            id="",
            kind=kind,
            device_id=row.device_id,
            metric_name=row.metric_name,
            window_days=None,
            champion_id=None,
            requested_by=BY_ITSELF,
            status="done",
            progress=100,
            created_at=row.trained_at,
            model_id=row.id,
        )
        job = msgspec.structs.replace(job, seconds=seconds, outcome=outcome, reason=row.reason)
        self._tell(kind, row, {**msgspec.to_builtins(job_view(job, row)), "job_id": None})

    def notice(self, one: Notice) -> None:
        """Something about a model, or a daemon. Raises StateUnwritable."""
        self._enqueue(self._state.post([(f"{TOPIC}{one.kind}", msgspec.json.encode(one))]))

    def _tell(self, kind: str, row: ModelRow, said: dict[str, object]) -> None:
        event_id = deterministic_id("model", row.id, kind)
        self._waiting.append(
            (
                TOPICS[kind],
                msgspec.json.encode({"event_id": event_id, **said, "model_version": row.version}),
            )
        )
        try:
            while self._waiting:
                self._enqueue(self._state.post([self._waiting[0]]))
                self._waiting.popleft()
        except StateUnwritable as error:
            event_waits(str(error))
