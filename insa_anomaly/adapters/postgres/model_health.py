"""Activity that the health check measures by, and its decisions: tables that all daemons share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from msgspec import Struct
from msgspec.structs import asdict

from insa_anomaly.adapters.postgres.pool import PooledTables
from insa_anomaly.adapters.postgres.text import document, storable
from insa_anomaly.core.operations.model_health import Decision, Idle, ModelCondition, ScoringPace
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.anomalies import PageCursor
from insa_anomaly.ports.model_health import DecisionFilter, KeptDecision, ScoringCounts


class PostgresHealth(PooledTables):
    """The tables of the health check."""

    # ------------------------------------------------------------------------------------ the check
    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Yield whether no other daemon runs the check while the block runs.

        The lock ends with its connection, however the connection ends.
        """
        with self._pool.apart() as connection:
            with connection.session() as session:
                granted = session.execute(self._statements["health_alone"]).fetchone()
            yield granted == (True,)

    def last_due(self, task: str) -> int | None:
        """Return when this task's latest run was due; None if the task never ran."""
        found = self._rows("schedule_of", (task,))
        return found[0][0] if found else None

    def begin(self, since: int, before: int, now: int) -> None:
        """Record when models were last used, and void decisions that wait since before `before`.

        A device's model counts as used by the device's activity from `since` on.
        """
        self._change("use_models")
        self._change("use_device_models", {"since": since})
        self._change("void_decisions", {"before": before, "now": now})

    def standings(self, after: SeriesKey, since: int, most: int) -> list[ModelCondition]:
        """Return the next `most` serving models by name, with their record from `since` on."""
        asked = {"device_id": after[0], "metric_name": after[1], "since": since, "most": most}
        return [ModelCondition(*row) for row in self._rows("standings", asked)]

    def paces(self, since: int) -> list[ScoringPace]:
        """Return the pace of every daemon that scored since then."""
        return [ScoringPace(*row) for row in self._rows("paces", {"since": since})]

    def idle(self, after: str, before: int, most: int) -> list[Idle]:
        """Return the next `most` models by id that do not serve and were last used `before`.

        Models that are already due for removal are left out.
        """
        rows = self._rows("idle_models", {"after": after, "before": before, "most": most})
        return [Idle(*row) for row in rows]

    def disabled(self) -> int:
        """Return the number of series with a disabled model and no serving model."""
        return int(self._rows("disabled_models")[0][0])

    def decide(self, run_id: str, decisions: Sequence[Decision], at: int) -> None:
        """Store the decisions of a run."""
        said = [
            {**asdict(one), "id": one.id(run_id), "reason": storable(one.reason)}
            for one in decisions
        ]
        self._change("add_decisions", {"run_id": run_id, "at": at, "decisions": document(said)})

    def finish(
        self, run_id: str, task: str, report: Struct, at: int, *, due: int | None, pace: float
    ) -> None:
        """Spread the retrainings, `pace` seconds apart, and store the report.

        `due` is the time at which a scheduled run was due.
        """
        said = {"run_id": run_id, "task": task, "at": at, "report": document(report), "pace": pace}
        with self._pool.session() as session, session.transaction():
            session.execute(self._statements["spread_decisions"], said)
            session.execute(self._statements["put_report"], said)
            if due is not None:
                done = {"task": task, "due": due, "run": at}
                session.execute(self._statements["put_schedule"], done)

    def forget(self, activity: int, decisions: int) -> None:
        """Delete activity, and decisions with their reports, from before the given times.

        The activity of series is large and is deleted a day at a time.
        """
        for name in ("forget_instance_activity", "forget_decisions", "forget_reports"):
            self._change(name, {"activity": activity, "decisions": decisions})
        while self._change("forget_series_activity", {"activity": activity}):
            pass

    # ----------------------------------------------------------------------------- decisions
    def report(self, task: str) -> Mapping[str, Any] | None:
        """Return the newest report of the task; None if there is no report."""
        found = self._rows("newest_report", (task,))
        return found[0][0] if found else None

    def decisions(
        self, wanted: DecisionFilter, after: PageCursor | None, most: int
    ) -> list[KeptDecision]:
        """Return the newest `most` decisions that are wanted, or the `most` after a place."""
        return [_kept(row) for row in self._page("decisions", asdict(wanted), after, most)]

    def due(self, instance: UUID, now: int, most: int) -> list[KeptDecision]:
        """Return decisions that are due and wait for this daemon or for any daemon."""
        asked = {"instance": instance, "now": now, "most": most}
        return [_kept(row) for row in self._rows("due_decisions", asked)]

    def settle(
        self, decision_id: str, status: str, outcome: str, job_id: str | None, now: int
    ) -> None:
        """Close a decision as carried out or as void."""
        said = {"status": status, "outcome": storable(outcome), "job_id": job_id}
        self._change("settle_decision", {"id": decision_id, **said, "now": now})

    # -------------------------------------------------------------------------------- activity
    def note(self, instance: UUID, counted: ScoringCounts, now: int) -> None:
        """Add this daemon's counts of scored readings."""
        said = {
            **asdict(counted),
            "instance": instance,
            "now": now,
            "devices": [key.device_id for key in counted.keys],
            "metrics": [key.metric_name for key in counted.keys],
        }
        with self._pool.session() as session, session.transaction():
            session.execute(self._statements["add_series_activity"], said)
            session.execute(self._statements["add_instance_activity"], said)


def _kept(row: Sequence[Any]) -> KeptDecision:
    decision_id, run_id, at, *rest = row
    return KeptDecision(decision_id, run_id, at, Decision(*rest[:9]), *rest[9:])
