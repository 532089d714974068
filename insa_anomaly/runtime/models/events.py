"""Events about models, published through the outbox, so that each is published at least once."""

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

Kind = Literal["train", "retrain"]
TOPIC = "insa/iiot/ml/model/"
TOPICS = {"train": f"{TOPIC}trained", "retrain": f"{TOPIC}retrained"}
BY_ITSELF = "automatic"
WAITING_MOST = 1000


class ModelEvents:
    """Writer of model events into the outbox; any thread may call.

    A training is known from the index too: while the disk does not take its event, the newest
    events wait in memory.
    """

    def __init__(self, state: State, enqueue: Callable[[list[Outgoing]], None]) -> None:
        self._state = state
        self._enqueue = enqueue
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=WAITING_MOST)

    def trained(self, job: Job, row: ModelRow) -> None:
        """Report the model of a requested training."""
        self._tell(job.kind, row, msgspec.to_builtins(job_view(job, row)))

    def trained_by_itself(self, row: ModelRow, kind: Kind, seconds: float) -> None:
        """Report a model of a series or device that was trained without a request."""
        outcome = {"promoted": not row.reason} if kind == "retrain" else {}
        job = Job(
            id="",
            kind=kind,
            **row.key._asdict(),
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
        """Report a notice about a model or a daemon. Raises StateUnwritable."""
        self._enqueue(self._state.post([(f"{TOPIC}{one.kind}", msgspec.json.encode(one))]))

    def _tell(self, kind: str, row: ModelRow, said: dict[str, object]) -> None:
        event_id = deterministic_id("model", row.id, kind)
        event = {"event_id": event_id, **said, "model_version": row.version}
        self._waiting.append((TOPICS[kind], msgspec.json.encode(event)))
        try:
            while self._waiting:
                self._enqueue(self._state.post([self._waiting[0]]))
                self._waiting.popleft()
        except StateUnwritable as error:
            event_waits(str(error))
