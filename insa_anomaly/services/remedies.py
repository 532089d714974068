"""Decisions of the health check, carried out by the daemon whose models they concern.

A model is retrained, put aside or removed; a notice reports the decision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from insa_anomaly.core.notification.notice import Notice
from insa_anomaly.core.operations.model_health import Decision, notice
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import Conflict, NotFound, TooMany
from insa_anomaly.instrumentation.model_health import health_acted
from insa_anomaly.ports.model_health import KeptDecision
from insa_anomaly.ports.models import ModelIndex, ModelRow
from insa_anomaly.services.audit import Audit, Author
from insa_anomaly.services.jobs import JobService
from insa_anomaly.services.model_changes import ModelChangeService

AT_ONCE = 100  # decisions a turn


class Decided(Protocol):
    """Storage of decisions. Any call may raise DatabaseAway or DatabaseRefused."""

    def due(self, instance: UUID, now: int, most: int) -> list[KeptDecision]:
        """Return the waiting decisions, of this daemon or of any daemon, that are due."""

    def settle(
        self, decision_id: str, status: str, outcome: str, job_id: str | None, now: int
    ) -> None:
        """Record that the decision is carried out, or void."""


@dataclass(frozen=True)
class Remedies:
    """Execution of decisions.

    An interrupted decision is carried out again: its events have the same ids, and completed
    changes are recognised.
    """

    decided: Decided
    models: ModelIndex
    jobs: JobService
    changes: ModelChangeService
    audit: Audit
    tell: Callable[[Notice], None]  # stores a notice until it is published, or StateUnwritable

    def step(self, instance: UUID, now: int) -> int:
        """Carry out the decisions that are due, and return how many are settled.

        Raises DatabaseAway, DatabaseRefused, StateUnwritable, ModelFileError: the other decisions
        wait.
        """
        settled = 0
        for one in self.decided.due(instance, now, AT_ONCE):
            try:
                done = self._carry_out(one, now)
            except TooMany:
                break  # retrainings come last: the others wait for room
            settled += done
        return settled

    def _carry_out(self, kept: KeptDecision, now: int) -> bool:
        one = kept.decision
        if one.kind in {"escalate", "recover"}:
            subject = one.model_id or one.instance or ""
            self.audit.write(_author(kept).change(f"health.{one.kind}", subject, None, one))
            return self._settled(kept, "told", None, now)
        row = self._row(one)
        if row is None:
            if one.instance is None:
                return False  # another daemon may have the model
            self.decided.settle(kept.id, "void", "there is no such model any more", None, now)
            return True
        try:
            outcome, job_id = self._changed(kept, row, now)
        except (Conflict, NotFound) as error:
            self.decided.settle(kept.id, "void", str(error), None, now)
            return True
        return self._settled(kept, outcome, job_id, now)

    def _row(self, one: Decision) -> ModelRow | None:
        """Return the model that serves the series by now, which may be a later refit.

        For a cleanup, return the idle model itself.
        """
        found = self.models.of_series(SeriesKey(one.device_id, one.metric_name))
        if one.kind == "clean_up":
            idle = (row for row in found if row.status not in {"active", "shadow", "deleted"})
            return next((row for row in idle if row.id == one.model_id), None)
        newest = {row.status: row for row in reversed(found)}
        # A model may be disabled already, but not reported.
        return newest.get("active") or (newest.get("disabled") if one.kind == "disable" else None)

    def _changed(self, kept: KeptDecision, row: ModelRow, now: int) -> tuple[str, str | None]:
        """Change the model; return the outcome and its job. Raises Conflict, NotFound, TooMany."""
        one, author = kept.decision, _author(kept)
        match one.kind:
            case "retrain":
                job = self.jobs.retrain(row.id, author, now)
                return f"queued: job {job.job_id}", job.job_id
            case "disable":
                if row.status != "disabled":
                    self.changes.put_aside(row.id, "disabled", one.reason, author)
                return f"version {row.version} is disabled", None
            case "retire":
                self.changes.put_aside(row.id, "archived", one.reason, author)
                return f"version {row.version} is archived", None
            case _:
                self.changes.delete(row.id, author)
                return f"version {row.version} is deleted", None

    def _settled(self, kept: KeptDecision, outcome: str, job_id: str | None, now: int) -> bool:
        said = notice(kept.id, kept.decision, kept.at)
        if said is not None:
            self.tell(said)
        self.decided.settle(kept.id, "done", outcome, job_id, now)
        health_acted(kept.decision, outcome)
        return True


def _author(kept: KeptDecision) -> Author:
    return Author("health check", f"decision {kept.id}")
