"""Requested trainings: they wait, run and end in a table, so that a restart forgets no job."""

from uuid import UUID

from msgspec.structs import asdict

from insa_anomaly.adapters.postgres.pool import Pool, PooledTables
from insa_anomaly.adapters.postgres.text import document, storable
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import Conflict, NotFound, TooMany
from insa_anomaly.ports.anomalies import PageCursor
from insa_anomaly.ports.jobs import Job


class PostgresJobs(PooledTables):
    """The table `training_jobs` as a single daemon sees it."""

    def __init__(self, pool: Pool, instance: UUID) -> None:
        """Bind the table to the daemon whose log has the id `instance`."""
        super().__init__(pool)
        self._instance = instance

    def knows(self, key: SeriesKey) -> bool:
        """Return whether readings of this series were ever recorded."""
        return bool(self._rows("series_exists", key)[0][0])

    def series(self) -> list[SeriesKey]:
        """Return every series with recorded readings."""
        return [SeriesKey(*row) for row in self._rows("series_with_readings")]

    def add(self, job: Job, most: int) -> None:
        """Add a waiting job.

        Raises Conflict if its series has a job under way, TooMany if `most` jobs wait already.
        """
        values = {**asdict(job), "requested_by": storable(job.requested_by)}
        if self._change("add_job", {**values, "instance": self._instance, "most": most}):
            return
        under_way = self._rows("job_of_series", (job.device_id, job.metric_name))
        if under_way:
            raise Conflict(f"job {under_way[0][0]} trains this series already")
        raise TooMany(f"{most} jobs wait already", retry_seconds=10.0)

    def one(self, job_id: str) -> Job:
        """Return a job by its id. Raises NotFound."""
        found = self._page("jobs", {"id": job_id, "status": None}, None, 1)
        if not found:
            raise NotFound(f"there is no job {job_id}")
        return Job(*found[0])

    def page(self, status: str | None, after: PageCursor | None, most: int) -> list[Job]:
        """Return the newest `most` jobs, or the `most` jobs after a place."""
        rows = self._page("jobs", {"id": None, "status": status}, after, most)
        return [Job(*row) for row in rows]

    def count(self, status: str | None) -> int:
        """Return the number of jobs, of this status if a status is named."""
        return int(self._rows("count_jobs", {"status": status})[0][0])

    def begin(self, now: int) -> Job | None:
        """Start the oldest job that waits for this daemon and return it; None if no job waits."""
        found = self._rows("begin_job", {"instance": self._instance, "now": now})
        return self.one(found[0][0]) if found else None

    def progress(self, job_id: str, percent: int) -> None:
        """Record the job's progress in percent."""
        self._change("progress_job", (percent, job_id))

    def advance(self, job: Job) -> bool:
        """Record progress and outcome of a job over many series; False if it was cancelled."""
        values = (job.progress, document(job.outcome), job.id)
        return self._change("advance_job", values) > 0

    def end(self, job: Job) -> bool:
        """Record the job as done or failed, by its status; False if it was cancelled meanwhile."""
        said = {"outcome": document(job.outcome), "reason": storable(job.reason)}
        return self._change("end_job", {**asdict(job), **said}) > 0

    def put_ended(self, job: Job) -> None:
        """Store a job that no user requested, in its final state; a repetition changes no row."""
        said = {"instance": self._instance, "reason": storable(job.reason)}
        self._change("put_ended_job", {**asdict(job), **said})

    def cancel(self, job_id: str, now: int, reason: str) -> bool:
        """Cancel a waiting or running job; False if it had ended before."""
        return self._change("cancel_job", (now, storable(reason), job_id)) > 0

    def resume(self) -> None:
        """Let the jobs that ran when the daemon ended wait again."""
        self._change("resume_jobs", (self._instance,))
