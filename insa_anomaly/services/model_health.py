"""The daily health check over all instances: judges every serving model and stores decisions.

A decision is carried out by the daemon that it concerns: see `remedies`.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Protocol
from uuid import uuid4

import msgspec

from insa_anomaly.core.notification.event import rfc3339
from insa_anomaly.core.operations import model_health as check
from insa_anomaly.core.operations.model_health import TASK, Action, Decision, HealthIssue, Limits
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.units import DAY
from insa_anomaly.errors import Conflict, NotFound
from insa_anomaly.instrumentation.model_health import health_checked, health_decided
from insa_anomaly.ports.anomalies import PageCursor
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.model_health import DecisionFilter, KeptDecision
from insa_anomaly.services.anomalies import paged
from insa_anomaly.services.audit import Audit, Author
from insa_anomaly.services.views import Figure, Id, Instant, instant, viewed

PAGE = 500
WORST = 20  # models that a report names
ACTIVITY_DAYS, DECISION_DAYS = 8, 730
WAITING_DAYS = 2  # after which a decision that is not carried out is void
_FIRST_ID = "00000000-0000-0000-0000-000000000000"


class Tables(Protocol):
    """Measurements and stored decisions. Any call may raise DatabaseAway or DatabaseRefused."""

    def alone(self) -> AbstractContextManager[bool]:
        """Return a block that yields whether no other check is under way."""

    def last_due(self, task: str) -> int | None:
        """Return when the latest run of this task was due; None if there was no run."""

    def begin(self, since: int, before: int, now: int) -> None:
        """Note when models were last used, and void the decisions that wait since before `before`.

        Models of devices count as used by their activity since `since`.
        """

    def standings(self, after: SeriesKey, since: int, most: int) -> list[check.ModelCondition]:
        """Return the next serving models by name, with their activity since `since`."""

    def paces(self, since: int) -> list[check.ScoringPace]:
        """Return the pace of every daemon that scored since `since`."""

    def idle(self, after: str, before: int, most: int) -> list[check.Idle]:
        """Return the next idle models by id that were last used before `before`.

        An idle model serves no series. Models with a pending cleanup are left out.
        """

    def disabled(self) -> int:
        """Count the series that have a disabled model and no serving model."""

    def decide(self, run_id: str, decisions: Sequence[Decision], at: int) -> None:
        """Store decisions."""

    def finish(
        self,
        run_id: str,
        task: str,
        report: msgspec.Struct,
        at: int,
        *,
        due: int | None,
        pace: float,
    ) -> None:
        """Spread the retrainings, `pace` seconds apart, and store the report.

        `due` is the time at which a scheduled run was due.
        """

    def forget(self, activity: int, decisions: int) -> None:
        """Drop activity, and decisions with their reports, from before these times."""

    def report(self, task: str) -> Mapping[str, Any] | None:
        """Return the newest report; None if there is none."""

    def decisions(
        self, wanted: DecisionFilter, after: PageCursor | None, most: int
    ) -> list[KeptDecision]:
        """Return at most `most` decisions that the filter admits, newest first, after a place."""


class Bad(msgspec.Struct, frozen=True):
    """A model with findings."""

    device_id: str
    metric_name: str
    model_id: Id
    accuracy: float | None
    reasons: dict[str, str]


class HealthReport(msgspec.Struct, frozen=True):
    """Result of a check: `found` counts models by finding, `decided` counts decisions by kind."""

    run_id: Id
    task_type: str
    actions: list[str]
    requested_by: str
    started_at: Instant
    seconds: float
    healthy: bool
    summary: str
    models: int
    disabled: int
    found: dict[str, int]
    decided: dict[str, int]
    worst: list[Bad]


class DecisionView(msgspec.Struct, frozen=True):
    """A decision with its reason, its figures and its outcome."""

    id: Id
    run_id: Id
    at: Instant
    kind: str
    cause: str
    reason: str
    device_id: str
    metric_name: str
    model_id: Id | None
    model_version: int
    figures: dict[str, Figure]
    status: str
    due_at: Instant | None
    settled_at: Instant | None
    outcome: str
    job_id: Id | None
    job_status: str | None
    job_outcome: str | None


class DecisionPage(msgspec.Struct, frozen=True):
    """A page of decisions, newest first."""

    decisions: list[DecisionView]
    next: str | None


@dataclass
class _Check:
    """A check and its running counts; their size does not depend on the size of the fleet."""

    actions: Collection[Action]
    author: Author
    now: int
    id: str = field(default_factory=lambda: str(uuid4()))
    models: int = 0
    lowest: tuple[float, str] | None = None
    found: Counter[str] = field(default_factory=Counter)
    decided: Counter[str] = field(default_factory=Counter)
    worst: list[tuple[float, int, Bad]] = field(default_factory=list)

    def add(self, one: check.ModelCondition, found: check.Finding) -> None:
        """Count a judged model."""
        self.models += 1
        self.found.update(str(what) for what in found)
        known = one.accuracy if one.accuracy is not None else one.accuracy_at_promotion
        if known is not None and (self.lowest is None or known < self.lowest[0]):
            self.lowest = known, f"{one.device_id}/{one.metric_name}"
        if found:
            self._keep(one, found, known)

    def _keep(
        self, one: check.ModelCondition, found: check.Finding, accuracy: float | None
    ) -> None:
        """Keep the worst models: degraded or failing first, then by accuracy."""
        urgent = not {HealthIssue.DEGRADED, HealthIssue.FAILING}.isdisjoint(found)
        weight = 2.0 * urgent - (1.0 if accuracy is None else accuracy)
        reasons = {str(what): why for what, why in found.items()}
        about = viewed(Bad, one, accuracy=accuracy, reasons=reasons)
        heappush(self.worst, (weight, -self.models, about))
        if len(self.worst) > WORST:
            heappop(self.worst)

    @property
    def healthy(self) -> bool:
        """Whether no finding needs a person's attention."""
        urgent = (HealthIssue.DEGRADED, HealthIssue.FAILING, HealthIssue.SLOW)
        return not any(self.found[what] for what in urgent)

    def summary(self, limits: Limits) -> str:
        """Return a summary of the fleet in a line."""
        others = dict(sorted(self.found.items()))
        low = others.pop(HealthIssue.INACCURATE, 0)
        said = f"{low} of {self.models} models are below accuracy {limits.accuracy:g}"
        if low and self.lowest:
            said += f", the lowest {self.lowest[1]} with {self.lowest[0]:.2f}"
        told = ", ".join(f"{count} {what}" for what, count in others.items() if count)
        return f"{said}; {told}" if told else said


@dataclass(frozen=True)
class HealthService:
    """Runs of the check, and their results. Any call may raise DatabaseAway or DatabaseRefused."""

    tables: Tables
    audit: Audit
    limits: Limits
    hour: int | None  # (UTC) of the daily run; None disables the daily run
    clock: Clock

    def due(self, now: int) -> int | None:
        """Return when the pending daily run was due, even if missed; None if no run is pending."""
        if self.hour is None:
            return None
        newest, last = check.slot(now, self.hour), self.tables.last_due(TASK)
        return None if last is not None and last >= newest else newest

    def run_due(self, now: int) -> HealthReport | None:
        """Run the daily check, if it is due and no other daemon runs it."""
        if self.due(now) is None:
            return None
        with self.tables.alone() as alone:
            # Asked again, because another daemon may have run the check just now.
            due = self.due(now) if alone else None
            run = _Check(tuple(Action), Author("health check", "schedule"), now)
            return None if due is None else self._checked(run, due)

    def run(self, actions: Collection[Action], author: Author, now: int) -> HealthReport:
        """Run a requested check. Raises Conflict if another check is under way."""
        with self.tables.alone() as alone:
            if not alone:
                raise Conflict("a health check is under way")
            return self._checked(_Check(actions, author, now), None)

    def report(self) -> HealthReport:
        """Return the newest report. Raises NotFound."""
        found = self.tables.report(TASK)
        if found is None:
            raise NotFound("no health check has run yet")
        return msgspec.convert(found, HealthReport)

    def decisions(
        self, wanted: DecisionFilter, after: PageCursor | None, most: int
    ) -> DecisionPage:
        """Return a page of decisions with their outcomes."""
        found = self.tables.decisions(wanted, after, most + 1)
        page, last = paged(found, most, lambda one: PageCursor(one.at, one.id))
        return DecisionPage([decision_view(one) for one in page], last)

    def _checked(self, run: _Check, due: int | None) -> HealthReport:
        began, now = self.clock.monotonic(), run.now
        actions = {"actions": [str(action) for action in run.actions]}
        self.audit.write(run.author.change("health.check", run.id, None, actions))
        self.tables.begin(now - WAITING_DAYS * DAY, now - WAITING_DAYS * DAY, now)
        self._models(run)
        self._others(run)
        report = self._report(run, self.clock.monotonic() - began)
        pace = check.pace_seconds(run.decided["retrain"])
        self.tables.finish(run.id, TASK, report, now, due=due, pace=pace)
        self.tables.forget(now - ACTIVITY_DAYS * DAY, now - DECISION_DAYS * DAY)
        health_checked(report.summary, report.seconds, healthy=report.healthy)
        return report

    def _models(self, run: _Check) -> None:
        """Judge models page by page, so that memory does not grow with the fleet."""
        after = SeriesKey("", "")
        while page := self.tables.standings(after, run.now - DAY, PAGE):
            decisions: list[Decision] = []
            for one in page:
                found = check.examine(one, run.actions, self.limits, run.now)
                run.add(one, found)
                decisions += check.decide(one, found, run.actions, self.limits, run.now)
            self._decided(run, decisions)
            after = SeriesKey(page[-1].device_id, page[-1].metric_name)

    def _others(self, run: _Check) -> None:
        """Judge the daemons, and the models that serve no series."""
        for pace in self.tables.paces(run.now - DAY):
            found, decisions = check.judge_pace(pace, run.actions, self.limits, run.now)
            run.found.update(str(what) for what in found)
            self._decided(run, decisions)
        after, before = _FIRST_ID, run.now - int(self.limits.inactive_days * DAY)
        while Action.CLEAN_UP in run.actions and (page := self.tables.idle(after, before, PAGE)):
            run.found.update([str(HealthIssue.INACTIVE)] * len(page))
            self._decided(run, [check.judge_idle(one, run.now) for one in page])
            after = page[-1].model_id

    def _decided(self, run: _Check, decisions: list[Decision]) -> None:
        if not decisions:
            return
        self.tables.decide(run.id, decisions, run.now)
        for one in decisions:
            run.decided[one.kind] += 1
            health_decided(one)

    def _report(self, run: _Check, seconds: float) -> HealthReport:
        disabled = self.tables.disabled()
        return HealthReport(
            run_id=run.id,
            task_type=TASK,
            actions=[str(action) for action in run.actions],
            requested_by=run.author.who,
            started_at=rfc3339(run.now),
            seconds=round(seconds, 3),
            healthy=run.healthy and not disabled,
            summary=run.summary(self.limits) + (f"; {disabled} disabled" if disabled else ""),
            models=run.models,
            disabled=disabled,
            found=dict(sorted(run.found.items())),
            decided=dict(sorted(run.decided.items())),
            worst=[bad for _, _, bad in sorted(run.worst, reverse=True)],
        )


def decision_view(kept: KeptDecision) -> DecisionView:
    """Return a decision as callers see it."""
    times = {name: instant(getattr(kept, name)) for name in ("at", "due_at", "settled_at")}
    return viewed(DecisionView, kept.decision, kept, **times)
