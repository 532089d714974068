"""Training jobs: requested, waited for, watched and cancelled."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from threading import BoundedSemaphore
from typing import Any, Literal, Protocol
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import Conflict, ModelFileError, NotFound
from insa_anomaly.ports.anomalies import PageCursor
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.jobs import Job
from insa_anomaly.ports.models import ModelIndex, ModelRow
from insa_anomaly.services.anomalies import paged
from insa_anomaly.services.audit import Audit, Author
from insa_anomaly.services.models import kept_model
from insa_anomaly.services.stream_view import StreamView
from insa_anomaly.services.views import Figure, Id, Instant, instant, model_view, number, viewed

ENDED = frozenset({"done", "failed", "cancelled"})
WAITING_CALLERS = 4  # callers that may wait at a time; the others get the job unfinished
WAIT_SECONDS = 3.0
_LOOK_SECONDS = 0.05
EVERY_METRIC = "*"  # no metric has this name
Kind = Literal["train", "retrain", "fleet"]
_TIMES = ("created_at", "started_at", "finished_at")
_RATES = ("accuracy", "false_positive_rate", "true_positive_rate")
_ASSESSED = ("training_samples", *_RATES, "basis")


class Jobs(Protocol):
    """Storage of jobs. Any call may raise DatabaseAway or DatabaseRefused."""

    def knows(self, key: SeriesKey) -> bool:
        """Report whether readings of this series were ever recorded."""

    def series(self) -> list[SeriesKey]:
        """Return every series with recorded readings."""

    def add(self, job: Job, most: int) -> None:
        """Queue a job. Raises Conflict if its series has a job, TooMany if `most` jobs wait."""

    def one(self, job_id: str) -> Job:
        """Return a job by its id. Raises NotFound."""

    def page(self, status: str | None, after: PageCursor | None, most: int) -> list[Job]:
        """Return at most `most` jobs, newest first, starting after a place."""

    def count(self, status: str | None) -> int:
        """Count the jobs of this status; None counts all jobs."""

    def begin(self, now: int) -> Job | None:
        """Start the oldest job that is queued for this daemon; None if no job waits."""

    def progress(self, job_id: str, percent: int) -> None:
        """Record the job's progress in percent."""

    def advance(self, job: Job) -> bool:
        """Record the progress of a fleet's job; False if the job was cancelled meanwhile."""

    def end(self, job: Job) -> bool:
        """Record that the job is done or failed; False if the job was cancelled meanwhile."""

    def cancel(self, job_id: str, now: int, reason: str) -> bool:
        """Cancel a queued or running job; False if the job had ended before."""

    def resume(self) -> None:
        """Queue again the jobs that were under way when the daemon ended."""


class FleetView(msgspec.Struct, frozen=True):
    """Progress of a fleet's training; `series` counts the series and devices of the pattern."""

    series: int
    trained: int
    failed: int
    first_failure: str


class JobView(msgspec.Struct, frozen=True):
    """A training and its outcome.

    For a retraining, `model_id` is the model that was to be retrained, and `new_model_id` the
    result. For a fleet, `device_id` is the pattern, and `metric_name` the metric or `*`.
    """

    job_id: Id
    kind: str
    device_id: str
    metric_name: str
    training_window: float | None
    status: str
    progress: int
    requested_by: str
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    model_id: Id | None
    new_model_id: Id | None
    training_time: float | None
    training_samples: int | None
    accuracy: float | None
    false_positive_rate: float | None
    true_positive_rate: float | None
    basis: str | None
    figures: dict[str, Figure]
    improvement_percentage: float | None
    promoted: bool | None
    fleet: FleetView | None
    reason: str


class JobPage(msgspec.Struct, frozen=True):
    """A page of jobs, newest first."""

    jobs: list[JobView]
    total: int
    next: str | None


@dataclass(frozen=True)
class JobService:
    """Requests and views of jobs.

    Any call may raise DatabaseAway or DatabaseRefused; the requested change is then not made.
    """

    jobs: Jobs
    models: ModelIndex
    stream: StreamView
    audit: Audit
    clock: Clock
    interrupt: Callable[[str], None]
    most_waiting: int
    _callers: BoundedSemaphore = field(
        init=False, default_factory=partial(BoundedSemaphore, WAITING_CALLERS)
    )

    def train(self, key: SeriesKey, window_days: float | None, author: Author, now: int) -> JobView:
        """Request a new model for this series. Raises NotFound, Conflict, TooMany."""
        if self.stream.status(key) is None and not self.jobs.knows(key):
            raise NotFound(f"there is no series {'/'.join(key)}: it has never reported")
        return self._add(_queued("train", key, author, now, window_days), author)

    def train_fleet(
        self, pattern: str, metric: str | None, window_days: float | None, author: Author, now: int
    ) -> JobView:
        """Request new models for the series of matching devices, and for these devices as a whole.

        Raises NotFound, Conflict, TooMany.
        """
        key = SeriesKey(pattern, metric or EVERY_METRIC)
        job = _queued("fleet", key, author, now, window_days)
        if not any(named(job, key) for key in self.jobs.series()):
            raise NotFound(f"there is no recorded series of a device like {pattern}")
        return self._add(job, author)

    def retrain(self, model_id: str, author: Author, now: int) -> JobView:
        """Request a new version of this model, to be compared with it.

        Raises NotFound, Conflict, TooMany.
        """
        key = kept_model(self.models, model_id).key
        job = replace(_queued("retrain", key, author, now), champion_id=model_id)
        return self._add(job, author)

    def one(self, job_id: str) -> JobView:
        """Return a job. Raises NotFound."""
        return self._view(self.jobs.one(job_id))

    def page(self, status: str | None, after: PageCursor | None, most: int) -> JobPage:
        """Return a page of jobs."""
        found = self.jobs.page(status, after, most + 1)
        page, last = paged(found, most, lambda job: PageCursor(job.created_at, job.id))
        return JobPage([self._view(job) for job in page], self.jobs.count(status), last)

    def cancel(self, job_id: str, author: Author, now: int) -> JobView:
        """End a job that waits or runs. Raises NotFound, Conflict."""
        job = self.jobs.one(job_id)
        if job.status in ENDED:
            raise Conflict(f"job {job_id} is {job.status}")
        self.audit.write(author.change("job.cancel", job_id, job.status, "cancelled"))
        if not self.jobs.cancel(job_id, now, f"cancelled by {author.who}"):
            raise Conflict(f"job {job_id} has ended meanwhile")
        self.interrupt(job_id)
        return self.one(job_id)

    def wait(self, job: JobView) -> JobView:
        """Return the job once ended, or as it is: after some seconds, or if many callers wait."""
        if not self._callers.acquire(blocking=False):
            return job
        try:
            until = self.clock.monotonic() + WAIT_SECONDS
            while job.status not in ENDED and self.clock.monotonic() < until:
                self.clock.sleep(_LOOK_SECONDS)
                job = self.one(job.job_id)
            return job
        finally:
            self._callers.release()

    def _add(self, job: Job, author: Author) -> JobView:
        about: dict[str, object] = {"device_id": job.device_id, "metric_name": job.metric_name}
        about |= {"training_window": job.window_days, "job_id": job.id}
        subject = job.champion_id or job.id
        self.audit.write(author.change(f"model.{job.kind}", subject, None, about))
        self.jobs.add(job, self.most_waiting)
        return self._view(job)

    def _view(self, job: Job) -> JobView:
        try:
            return job_view(job, self.models.row(job.model_id) if job.model_id else None)
        except ModelFileError:
            return job_view(job, None)  # the index no longer holds a model this old


def _queued(
    kind: Kind, key: SeriesKey, author: Author, now: int, window_days: float | None = None
) -> Job:
    asked = {"window_days": window_days, "champion_id": None, "requested_by": author.who}
    about: dict[str, Any] = key._asdict() | asked
    return Job(id=str(uuid4()), kind=kind, **about, status="queued", progress=0, created_at=now)


def named(job: Job, key: SeriesKey) -> bool:
    """Report whether a fleet's job covers this series.

    In the pattern, `*` stands for any characters, `?` for a single character, `[ab]` for `a` or
    `b`.
    """
    metrics = (EVERY_METRIC, key.metric_name)
    return job.metric_name in metrics and fnmatchcase(key.device_id, job.device_id)


def fleet_view(job: Job) -> FleetView:
    """Return the progress of a fleet's job."""
    unknown = {"series": 0, "trained": 0, "failed": 0, "first_failure": ""}
    return msgspec.convert(job.outcome or unknown, FleetView)


def job_view(job: Job, row: ModelRow | None) -> JobView:
    """Return a job as callers see it; `row` is the model that the job made."""
    about = None if row is None else model_view(row)
    improvement, promoted = job.outcome.get("improvement_percentage"), job.outcome.get("promoted")
    return viewed(
        JobView,
        job,
        **{name: getattr(about, name, None) for name in _ASSESSED},
        **{name: instant(getattr(job, name)) for name in _TIMES},
        job_id=job.id,
        training_window=job.window_days,
        model_id=job.champion_id or job.model_id,
        new_model_id=job.model_id if job.kind == "retrain" else None,
        training_time=job.seconds,
        figures={} if row is None else row.figures,
        improvement_percentage=improvement if isinstance(improvement, float) else None,
        promoted=promoted if isinstance(promoted, bool) else None,
        fleet=None if job.kind != "fleet" else fleet_view(job),
    )


NOT_COMPARED = (
    "the two versions were not assessed on the same holdout,"
    " so that their figures cannot be compared"
)


class Promotion(msgspec.Struct, frozen=True):
    """Outcome of a challenger.

    `improvement_percentage` refers to balanced accuracy; if unknown, it is None with a reason.
    """

    promoted: bool
    improvement_percentage: float | None
    reason: str


def promotion_of(challenger: ModelRow) -> Promotion:
    """Return the comparison that the challenger's training made with the previous version.

    Both versions were assessed on the same holdout with the same faults: the difference of figures
    from two holdouts would be a difference of holdouts.
    """
    improvement = number(challenger.figures.get("improvement_percentage"))
    unknown = str(challenger.figures.get("improvement_unknown") or NOT_COMPARED)
    why = challenger.reason or ("" if improvement is not None else unknown)
    return Promotion(not challenger.reason, improvement, why)
