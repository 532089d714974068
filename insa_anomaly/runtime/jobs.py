"""Trainings that were asked for, one after the other, through the trainer's child; what came of each is told on MQTT."""

from collections.abc import Callable
from functools import partial
from time import monotonic

import msgspec

from insa_anomaly import instrumentation
from insa_anomaly.core.event import deterministic_id
from insa_anomaly.errors import DatabaseAway, DatabaseRefused, ModelFileError
from insa_anomaly.ports import Job, ModelRow, Models, Outgoing, State
from insa_anomaly.runtime.trainer import Answer, Order, Trainer
from insa_anomaly.services.jobs import Jobs, job_view
from insa_anomaly.services.promotion import judge

TOPICS = {"train": "insa/iiot/ml/model/trained", "retrain": "insa/iiot/ml/model/retrained"}
LOOK_SECONDS = 0.5
AWAY_SECONDS = 2.0


class JobRunner:
    """One thread of the daemon. While the database is away nothing begins, and what has ended is written when it is back."""

    def __init__(
        self, jobs: Jobs, trainer: Trainer, models: Models, state: State, offer: Callable[[list[Outgoing]], None], clock: Callable[[], int]
    ) -> None:
        self._jobs, self._trainer, self._models, self._state = jobs, trainer, models, state
        self._offer, self._clock = offer, clock
        self._resumed = False
        self._ended: Job | None = None  # not written yet
        self._next_at = 0.0

    def step(self) -> float:
        """Train the next that waits; answers how many seconds may pass before the next call."""
        if monotonic() < self._next_at:
            return LOOK_SECONDS
        try:
            return self._turn()
        except (DatabaseAway, DatabaseRefused) as error:
            instrumentation.jobs_unreachable(str(error))
            self._next_at = monotonic() + AWAY_SECONDS
            return LOOK_SECONDS

    def _turn(self) -> float:
        if not self._resumed:
            self._jobs.resume()
            self._resumed = True
        if self._ended is not None:
            self._jobs.end(self._ended)
            self._ended = None
        job = self._jobs.begin(self._clock())
        if job is None:
            return LOOK_SECONDS
        order = Order(job.device_id, job.metric_name, job.window_days)
        answer = self._trainer.train(order, job.id, partial(self._tell, job))
        if answer.model_id is None and self._trainer.closed:
            return LOOK_SECONDS  # the daemon ends: the next one begins it anew
        self._ended = self._concluded(job, answer)
        self._jobs.end(self._ended)
        self._ended = None
        return 0.0

    def _tell(self, job: Job, percent: int) -> None:
        """How far it is may be lost; a job that was cancelled before it began is ended here."""
        try:
            self._jobs.progress(job.id, percent)
            if self._jobs.one(job.id).status == "cancelled":
                self._trainer.interrupt(job.id)
        except (DatabaseAway, DatabaseRefused) as error:
            instrumentation.jobs_unreachable(str(error))

    def _concluded(self, job: Job, answer: Answer) -> Job:
        ended = msgspec.structs.replace(job, finished_at=self._clock(), seconds=answer.seconds, model_id=answer.model_id)
        row = None if answer.model_id is None else self._row(answer.model_id)
        if row is None:
            instrumentation.training_failed(job.device_id, job.metric_name, answer.reason)
            return msgspec.structs.replace(ended, status="failed", reason=answer.reason)
        instrumentation.model_trained(job.device_id, job.metric_name, row.id, answer.seconds)
        promotion = judge(row) if job.kind == "retrain" else None
        outcome = {"improvement_percentage": promotion.improvement_percentage, "promoted": promotion.promoted} if promotion else {}
        reason = promotion.reason if promotion else ""
        ended = msgspec.structs.replace(ended, status="done", progress=100, outcome=outcome, reason=reason)
        self._publish(ended, row)
        return ended

    def _publish(self, job: Job, row: ModelRow) -> None:
        event_id = deterministic_id("model", row.id, job.kind)
        said = {"event_id": event_id, **msgspec.to_builtins(job_view(job, row)), "model_version": row.version}
        self._offer(self._state.post([(TOPICS[job.kind], msgspec.json.encode(said))]))

    def _row(self, model_id: str) -> ModelRow | None:
        try:
            return self._models.row(model_id)
        except ModelFileError as error:
            instrumentation.index_unreadable(str(error))
            return None
