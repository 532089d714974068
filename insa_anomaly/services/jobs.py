"""Training jobs: requested, waited for, watched and cancelled."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from math import isfinite
from threading import BoundedSemaphore
from typing import Literal, Protocol
from uuid import uuid4

import msgspec

from insa_anomaly.core.notification.event import rfc3339
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import Conflict, ModelFileError, NotFound
from insa_anomaly.ports.anomalies import PageCursor
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.jobs import Job
from insa_anomaly.ports.models import ModelIndex, ModelRow
from insa_anomaly.services.anomalies import cursor
from insa_anomaly.services.audit import Audit, Author
from insa_anomaly.services.stream_view import StreamView
from insa_anomaly.services.views import Figure, Id, Instant, model_view

ENDED = frozenset({"done", "failed", "cancelled"})
WAITING_CALLERS = 4  # callers that may wait at a time; the others get the job unfinished
WAIT_SECONDS = 3.0
_LOOK_SECONDS = 0.05
EVERY_METRIC = "*"  # no metric has this name


class Jobs(Protocol):
    """Storage of jobs. Any call may raise DatabaseAway or DatabaseRefused."""

    def knows(self, key: SeriesKey) -> bool:
        """Report whether readings of this series were ever recorded."""

    def series(self) -> list[SeriesKey]:
        """Return every series with recorded readings."""

    def add(self, job: Job, most: int) -> None:
        """Queue a job.

        Raises Conflict if its series has a job, TooMany if `most` jobs are queued.
        """

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


class JobService:
    """Requests and views of jobs.

    Any call may raise DatabaseAway or DatabaseRefused; the requested change is then not made.
    """

    def __init__(
        self,
        jobs: Jobs,
        models: ModelIndex,
        stream: StreamView,
        audit: Audit,
        *,
        clock: Clock,
        interrupt: Callable[[str], None],
        most_waiting: int,
    ) -> None:
        self._jobs = jobs
        self._models = models
        self._stream = stream
        self._audit = audit
        self._clock = clock
        self._interrupt = interrupt
        self._most = most_waiting
        self._callers = BoundedSemaphore(WAITING_CALLERS)

    def train(self, key: SeriesKey, window_days: float | None, author: Author, now: int) -> JobView:
        """Request a new model for this series. Raises NotFound, Conflict, TooMany."""
        if self._stream.status(key) is None and not self._jobs.knows(key):
            raise NotFound(
                f"there is no series {key.device_id}/{key.metric_name}: it has never reported"
            )
        return self._add(
            _queued("train", *key, window_days=window_days, author=author, now=now), author
        )

    def train_fleet(
        self,
        pattern: str,
        metric_name: str | None,
        window_days: float | None,
        author: Author,
        now: int,
    ) -> JobView:
        """Request new models for the series of matching devices, and for these devices as a whole.

        Raises NotFound, Conflict, TooMany.
        """
        job = _queued(
            "fleet",
            pattern,
            metric_name or EVERY_METRIC,
            window_days=window_days,
            author=author,
            now=now,
        )
        if not any(named(job, key) for key in self._jobs.series()):
            raise NotFound(f"there is no recorded series of a device like {pattern}")
        return self._add(job, author)

    def retrain(self, model_id: str, author: Author, now: int) -> JobView:
        """Request a new version of this model, to be compared with it.

        Raises NotFound, Conflict, TooMany.
        """
        try:
            row = self._models.row(model_id)
        except ModelFileError as error:
            raise NotFound(f"there is no model {model_id}") from error
        if row.status == "deleted":
            raise Conflict(f"model {model_id} is deleted")
        key = row.key
        return self._add(
            _queued("retrain", *key, champion_id=model_id, author=author, now=now), author
        )

    def one(self, job_id: str) -> JobView:
        """Return a job. Raises NotFound."""
        return self._view(self._jobs.one(job_id))

    def page(self, status: str | None, after: PageCursor | None, most: int) -> JobPage:
        """Return a page of jobs."""
        found = self._jobs.page(status, after, most + 1)
        last = cursor(found[most - 1].created_at, found[most - 1].id) if len(found) > most else None
        return JobPage([self._view(job) for job in found[:most]], self._jobs.count(status), last)

    def cancel(self, job_id: str, author: Author, now: int) -> JobView:
        """End a job that waits or runs. Raises NotFound, Conflict."""
        job = self._jobs.one(job_id)
        if job.status in ENDED:
            raise Conflict(f"job {job_id} is {job.status}")
        self._audit.write(author.change("job.cancel", job_id, job.status, "cancelled"))
        if not self._jobs.cancel(job_id, now, f"cancelled by {author.who}"):
            raise Conflict(f"job {job_id} has ended meanwhile")
        self._interrupt(job_id)
        return self.one(job_id)

    def wait(self, job: JobView) -> JobView:
        """Return the job once it has ended, or as it is after some seconds.

        Returns at once if many callers wait already.
        """
        if not self._callers.acquire(blocking=False):
            return job
        try:
            until = self._clock.monotonic() + WAIT_SECONDS
            while job.status not in ENDED and self._clock.monotonic() < until:
                self._clock.sleep(_LOOK_SECONDS)
                job = self.one(job.job_id)
            return job
        finally:
            self._callers.release()

    def _add(self, job: Job, author: Author) -> JobView:
        about = {
            "device_id": job.device_id,
            "metric_name": job.metric_name,
            "training_window": job.window_days,
        }
        self._audit.write(
            author.change(
                f"model.{job.kind}", job.champion_id or job.id, None, {**about, "job_id": job.id}
            )
        )
        self._jobs.add(job, self._most)
        return self._view(job)

    def _view(self, job: Job) -> JobView:
        return job_view(job, self._row(job.model_id))

    def _row(self, model_id: str | None) -> ModelRow | None:
        try:
            return None if model_id is None else self._models.row(model_id)
        except ModelFileError:
            return None  # the index no longer holds a model this old


def _queued(
    kind: Literal["train", "retrain", "fleet"],
    device_id: str,
    metric_name: str,
    *,
    author: Author,
    now: int,
    window_days: float | None = None,
    champion_id: str | None = None,
) -> Job:
    return Job(
        id=str(uuid4()),
        kind=kind,
        device_id=device_id,
        metric_name=metric_name,
        window_days=window_days,
        champion_id=champion_id,
        requested_by=author.who,
        status="queued",
        progress=0,
        created_at=now,
    )


def named(job: Job, key: SeriesKey) -> bool:
    """Report whether a fleet's job covers this series.

    In the pattern, `*` stands for any characters, `?` for a single character, `[ab]` for `a` or
    `b`.
    """
    return fnmatchcase(key.device_id, job.device_id) and job.metric_name in (
        EVERY_METRIC,
        key.metric_name,
    )


def fleet_view(job: Job) -> FleetView:
    """Return the progress of a fleet's job."""
    return msgspec.convert(
        job.outcome or {"series": 0, "trained": 0, "failed": 0, "first_failure": ""}, FleetView
    )


def job_view(job: Job, row: ModelRow | None) -> JobView:
    """Return a job as callers see it; `row` is the model that the job made."""
    about = None if row is None else model_view(row)
    improvement, promoted = job.outcome.get("improvement_percentage"), job.outcome.get("promoted")
    return JobView(
        job_id=job.id,
        kind=job.kind,
        device_id=job.device_id,
        metric_name=job.metric_name,
        training_window=job.window_days,
        status=job.status,
        progress=job.progress,
        requested_by=job.requested_by,
        created_at=rfc3339(job.created_at),
        started_at=None if job.started_at is None else rfc3339(job.started_at),
        finished_at=None if job.finished_at is None else rfc3339(job.finished_at),
        model_id=job.champion_id or job.model_id,
        new_model_id=job.model_id if job.kind == "retrain" else None,
        training_time=job.seconds,
        training_samples=about.training_samples if about else None,
        accuracy=about.accuracy if about else None,
        false_positive_rate=about.false_positive_rate if about else None,
        true_positive_rate=about.true_positive_rate if about else None,
        basis=about.basis if about else None,
        figures={} if row is None else row.figures,
        improvement_percentage=improvement if isinstance(improvement, float) else None,
        promoted=promoted if isinstance(promoted, bool) else None,
        fleet=None if job.kind != "fleet" else fleet_view(job),
        reason=job.reason,
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
    measured, unknown = (
        challenger.figures.get(name) for name in ("improvement_percentage", "improvement_unknown")
    )
    improvement = (
        float(measured) if isinstance(measured, int | float) and isfinite(measured) else None
    )
    why = challenger.reason or ("" if improvement is not None else str(unknown or NOT_COMPARED))
    return Promotion(not challenger.reason, improvement, why)
