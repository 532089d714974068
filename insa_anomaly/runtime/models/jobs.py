"""Requested trainings, one after the other, through the trainer's child; results go to MQTT."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial

from msgspec.structs import asdict, replace

from insa_anomaly.core.device.detector import FEWEST_METRICS
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import DatabaseAway, DatabaseRefused, ModelFileError
from insa_anomaly.instrumentation import models as instruments
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.jobs import Job
from insa_anomaly.ports.models import ModelIndex, ModelRow
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.runtime.models import child
from insa_anomaly.runtime.models.child import FleetTrainingReply, TrainingReply
from insa_anomaly.runtime.models.events import ModelEvents
from insa_anomaly.runtime.models.trainer import Trainer
from insa_anomaly.runtime.step import Step
from insa_anomaly.services import jobs as requested
from insa_anomaly.services.jobs import EVERY_METRIC, FleetView, Jobs, fleet_view

LOOK_SECONDS = 0.5
AWAY_SECONDS = 2.0
AT_ONCE = 32  # of many series: half a minute on two cores


@dataclass(eq=False)
class JobRunner(Step):
    """Thread of requested trainings.

    While the database is unreachable no training begins; ended ones are written once it is back.
    With `devices` a training of many series makes models of devices as well.
    """

    jobs: Jobs
    trainer: Trainer
    models: ModelIndex
    state: State
    enqueue: Callable[[list[Outgoing]], None]
    _: KW_ONLY
    clock: Clock
    devices: bool = True

    def __post_init__(self) -> None:
        self._events = ModelEvents(self.state, self.enqueue)
        self._resumed = False
        self._ended: Job | None = None  # not written yet
        self._many: list[Job] = []  # of many series each, under way: the first is trained on
        self._next_at = 0.0

    def step(self, _: float) -> float:
        """Train the next waiting job; return the seconds until the next step."""
        if self.clock.monotonic() < self._next_at:
            return LOOK_SECONDS
        try:
            return self._turn()
        except (DatabaseAway, DatabaseRefused) as error:
            instruments.jobs_unreachable(str(error))
            self._next_at = self.clock.monotonic() + AWAY_SECONDS
            return LOOK_SECONDS

    def _turn(self) -> float:
        if not self._resumed:
            self.jobs.resume()
            self._resumed = True
        if self._ended is not None:
            self.jobs.end(self._ended)
            self._ended = None
        job = self.jobs.begin(self.clock.now())
        if job is not None and job.kind != "fleet":
            return self._train(job)
        self._many += [] if job is None else [job]
        return self._train_some(self._many[0]) if self._many else LOOK_SECONDS

    def _train(self, job: Job) -> float:
        order = child.TrainingOrder(job.device_id, job.metric_name, job.window_days)
        answer = self.trainer.train(order, job.id, partial(self._tell, job))
        if answer.model_id is None and self.trainer.closed:
            return LOOK_SECONDS  # the daemon ends: the next one begins it anew
        self._end(self._concluded(job, answer))
        return 0.0

    def _train_some(self, job: Job) -> float:
        """Train the next of many series: other jobs run between, and a restart continues there."""
        keys = self._named(job)
        rest = keys[bisect_right(keys, _reached(job), key=_order) :]
        if not rest:
            self._many.pop(0)
            self._end(self._all_done(job))
            return 0.0
        order = child.FleetTrainingOrder(tuple(rest[:AT_ONCE]), job.window_days)
        answers = self.trainer.train_many(order, job.id)
        if self.trainer.closed:
            return LOOK_SECONDS
        self._many[0] = self._advanced(job, rest[:AT_ONCE], answers, len(keys))
        if not self.jobs.advance(self._many[0]):
            self._many.pop(0)  # cancelled
        return 0.0

    def _named(self, job: Job) -> list[SeriesKey]:
        """Return the job's series in training order: of each device its series, then the device."""
        keys = [key for key in self.jobs.series() if requested.named(job, key)]
        counts = Counter(key.device_id for key in keys)
        if self.devices and job.metric_name == EVERY_METRIC:
            devices = [name for name, count in counts.items() if count >= FEWEST_METRICS]
            keys += map(SeriesKey.of_device, devices)
        return sorted(keys, key=_order)

    def _advanced(
        self, job: Job, keys: Sequence[SeriesKey], answers: Sequence[FleetTrainingReply], of: int
    ) -> Job:
        """Return the job with the results of some series."""
        known = {one.key: one.answer for one in answers}
        missing = TrainingReply(0.0, None, "its training was cut short")
        found = [(key, known.get(key, missing)) for key in keys]
        trained = sum(self._told(job, key, answer) for key, answer in found)
        before = fleet_view(job)
        failures = (f"{'/'.join(key)}: {one.reason}" for key, one in found if one.model_id is None)
        failure = before.first_failure or next(failures, "")
        now = FleetView(of, before.trained + trained, before.failed + len(found) - trained, failure)
        last = dict(zip(("last_device", "last_metric"), keys[-1], strict=True))
        progress = min(99, 100 * (now.trained + now.failed) // of)
        return replace(job, outcome=asdict(now) | last, progress=progress)

    def _told(self, job: Job, key: SeriesKey, answer: TrainingReply) -> bool:
        """Report a series as if it had been requested alone; return whether there is a model."""
        alone = replace(job, kind="train", **key._asdict(), outcome={})
        return self._concluded(alone, answer).status == "done"

    def _all_done(self, job: Job) -> Job:
        said = fleet_view(job)
        reason = f"{said.failed} of {said.series} were not trained; the first: {said.first_failure}"
        now = self.clock.now()
        return replace(
            job,
            status="done" if said.trained or not said.failed else "failed",
            progress=100,
            finished_at=now,
            seconds=None if job.started_at is None else (now - job.started_at) / 1e6,
            reason=reason if said.failed else "",
        )

    def _end(self, job: Job) -> None:
        self._ended = job
        self.jobs.end(job)
        self._ended = None

    def _tell(self, job: Job, percent: int) -> None:
        """Report the progress, which may be lost; end a job that was cancelled before it began."""
        try:
            self.jobs.progress(job.id, percent)
            if self.jobs.one(job.id).status == "cancelled":
                self.trainer.interrupt(job.id)
        except (DatabaseAway, DatabaseRefused) as error:
            instruments.jobs_unreachable(str(error))

    def _concluded(self, job: Job, answer: TrainingReply) -> Job:
        now, model_id = self.clock.now(), answer.model_id
        ended = replace(job, finished_at=now, seconds=answer.seconds, model_id=model_id)
        row = None if model_id is None else self._row(model_id)
        if row is None:
            instruments.training_failed(job.device_id, job.metric_name, answer.reason)
            return replace(ended, status="failed", reason=answer.reason)
        instruments.model_trained(job.device_id, job.metric_name, row.id, answer.seconds)
        promotion = requested.promotion_of(row) if job.kind == "retrain" else None
        names = ("improvement_percentage", "promoted") if promotion else ()
        outcome = {name: getattr(promotion, name) for name in names}
        reason = promotion.reason if promotion else ""
        ended = replace(ended, status="done", progress=100, outcome=outcome, reason=reason)
        self._events.trained(ended, row)
        return ended

    def _row(self, model_id: str) -> ModelRow | None:
        try:
            return self.models.row(model_id)
        except ModelFileError as error:
            instruments.index_unreadable(str(error))
            return None


def _order(key: SeriesKey) -> tuple[str, bool, str]:
    """Return the sort key by which a device's series come before the device."""
    return key.device_id, key.is_device, key.metric_name


def _reached(job: Job) -> tuple[str, bool, str]:
    """Return the sort key of the last trained series."""
    names = (str(job.outcome.get(name, "")) for name in ("last_device", "last_metric"))
    return _order(SeriesKey(*names))
