"""Trainings that are asked for: taken, waited for, watched, cancelled."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from math import isfinite
from threading import BoundedSemaphore
from time import monotonic, sleep
from typing import Protocol
from uuid import uuid4

import msgspec

from insa_anomaly.core.notification.event import rfc3339
from insa_anomaly.errors import Conflict, ModelFileError, NotFound
from insa_anomaly.ports import Job, ModelRow, Models, Place, SeriesKey
from insa_anomaly.services.anomalies import cursor
from insa_anomaly.services.audit import Audit, Author
from insa_anomaly.services.stream_view import Live
from insa_anomaly.services.views import Figure, Id, Instant, model_view

ENDED = frozenset({"done", "failed", "cancelled"})
WAITING_CALLERS = 4  # may wait for an answer at a time; the others are told to come again
WAIT_SECONDS = 3.0
_LOOK_SECONDS = 0.05
EVERY_METRIC = "*"  # no metric has this name


class Jobs(Protocol):
    """Where jobs are kept. Any call may raise DatabaseAway or DatabaseRefused."""

    def knows(self, key: SeriesKey) -> bool:
        """Whether readings of this series were ever recorded."""

    def series(self) -> list[SeriesKey]:
        """Every series with recorded readings."""

    def add(self, job: Job, most: int) -> None:
        """Let it wait its turn. Raises Conflict where its series has one, TooMany where `most` wait already."""

    def one(self, job_id: str) -> Job:
        """A job by its id. Raises NotFound."""

    def page(self, status: str | None, after: Place | None, most: int) -> list[Job]:
        """The newest `most`, or those after a place."""

    def count(self, status: str | None) -> int:
        """How many there are."""

    def begin(self, now: int) -> Job | None:
        """The oldest that waits for us begins; None where none does."""

    def progress(self, job_id: str, percent: int) -> None:
        """It has come so far."""

    def advance(self, job: Job) -> bool:
        """One of many series has come as far as it says; False where it was cancelled meanwhile."""

    def end(self, job: Job) -> bool:
        """It is done or failed, as it says; False where it was cancelled meanwhile."""

    def cancel(self, job_id: str, now: int, reason: str) -> bool:
        """It waits or runs no longer; False where it had ended before."""

    def resume(self) -> None:
        """What was under way when the daemon ended waits again."""


class FleetView(msgspec.Struct, frozen=True):
    """How far a training of many is: how many series and devices its pattern names, and what came of them."""

    series: int
    trained: int
    failed: int
    first_failure: str


class JobView(msgspec.Struct, frozen=True):
    """A training and what came of it. Of a retraining `model_id` is the model it was asked for, `new_model_id` the one it made.

    Of a fleet `device_id` is the pattern, and `metric_name` the metric, or `*`.
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
    """Some jobs, newest first."""

    jobs: list[JobView]
    total: int
    next: str | None


class JobService:
    """Takes jobs and shows them. Any call may raise DatabaseAway or DatabaseRefused; what changes something then changed nothing."""

    def __init__(
        self,
        jobs: Jobs,
        models: Models,
        live: Live,
        audit: Audit,
        interrupt: Callable[[str], None],
        most_waiting: int,
    ) -> None:
        self._jobs = jobs
        self._models = models
        self._live = live
        self._audit = audit
        self._interrupt = interrupt
        self._most = most_waiting
        self._callers = BoundedSemaphore(WAITING_CALLERS)

    def train(self, key: SeriesKey, window_days: float | None, author: Author, now: int) -> JobView:
        """A new model for this series. Raises NotFound, Conflict, TooMany."""
        if self._live.standing(key) is None and not self._jobs.knows(key):
            raise NotFound(f"there is no series {key[0]}/{key[1]}: it has never reported")
        return self._add(
            Job(str(uuid4()), "train", *key, window_days, None, author.who, "queued", 0, now),
            author,
        )

    def train_fleet(
        self,
        pattern: str,
        metric_name: str | None,
        window_days: float | None,
        author: Author,
        now: int,
    ) -> JobView:
        """New models for all series of devices whose id is like the pattern, and for these devices. Raises as `train`."""
        job = Job(
            str(uuid4()),
            "fleet",
            pattern,
            metric_name or EVERY_METRIC,
            window_days,
            None,
            author.who,
            "queued",
            0,
            now,
        )
        if not any(named(job, key) for key in self._jobs.series()):
            raise NotFound(f"there is no recorded series of a device like {pattern}")
        return self._add(job, author)

    def retrain(self, model_id: str, author: Author, now: int) -> JobView:
        """A new version of this model, held against it. Raises NotFound, Conflict, TooMany."""
        try:
            row = self._models.row(model_id)
        except ModelFileError as error:
            raise NotFound(f"there is no model {model_id}") from error
        if row.status == "deleted":
            raise Conflict(f"model {model_id} is deleted")
        key = (row.device_id, row.metric_name)
        return self._add(
            Job(str(uuid4()), "retrain", *key, None, model_id, author.who, "queued", 0, now), author
        )

    def one(self, job_id: str) -> JobView:
        """A job. Raises NotFound."""
        return self._view(self._jobs.one(job_id))

    def page(self, status: str | None, after: Place | None, most: int) -> JobPage:
        """A page of jobs."""
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
        """The job when it has ended, or as it is after some seconds; at once where many wait already."""
        if not self._callers.acquire(blocking=False):
            return job
        try:
            until = monotonic() + WAIT_SECONDS
            while job.status not in ENDED and monotonic() < until:
                sleep(_LOOK_SECONDS)
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
            return None  # so long ago that the index has forgotten it


def named(job: Job, key: SeriesKey) -> bool:
    """Whether a job of many names this series. In the pattern `*` stands for any characters, `?` for one, `[ab]` for one of these."""
    return fnmatchcase(key[0], job.device_id) and job.metric_name in (EVERY_METRIC, key[1])


def fleet_view(job: Job) -> FleetView:
    """How far a job of many is."""
    return msgspec.convert(
        job.outcome or {"series": 0, "trained": 0, "failed": 0, "first_failure": ""}, FleetView
    )


def job_view(job: Job, row: ModelRow | None) -> JobView:
    """A job as callers see it; `row` is the model it made."""
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


NOT_COMPARED = "the two versions were not assessed on the same holdout, so that their figures cannot be compared"


class Promotion(msgspec.Struct, frozen=True):
    """What became of a challenger; `improvement_percentage` of balanced accuracy, None with the reason where it is not known."""

    promoted: bool
    improvement_percentage: float | None
    reason: str


def promotion_of(challenger: ModelRow) -> Promotion:
    """What its training found against the version before, on one holdout with the same faults.

    The difference of figures from two holdouts would be a difference of holdouts.
    """
    measured, unknown = (
        challenger.figures.get(name) for name in ("improvement_percentage", "improvement_unknown")
    )
    improvement = (
        float(measured) if isinstance(measured, int | float) and isfinite(measured) else None
    )
    why = challenger.reason or ("" if improvement is not None else str(unknown or NOT_COMPARED))
    return Promotion(not challenger.reason, improvement, why)
