"""Judgement of the daily health check: figures in, issues and decisions out.

Measuring comes before and acting after; the judgement asks and does nothing, so that every rule is
a row of a table.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Annotated, Literal

import msgspec
from annotated_types import Ge, Lt

from insa_anomaly.core.bounds import Count, Positive, Share, check
from insa_anomaly.core.learning.assessment import FALSE_POSITIVE_RATE_MOST
from insa_anomaly.core.notification.event import deterministic_id
from insa_anomaly.core.notification.notice import Notice, NoticeKind, Severity

TASK = "ml_model_health_check"
DAY, HOUR = 86_400_000_000, 3_600_000_000
FEWEST_READINGS = 250  # of a day, below which its share of anomalies says nothing
FEWEST_MEASUREMENTS = 3  # of accuracy: one of them rests on 21 planted faults
SLOW_SHARE = 0.01  # p99
# Between two attempts or notices of an issue: a daily check is a little early at times.
AGAIN_HOURS = 20
SPREAD_DAYS = 20 / 24  # over which the retrainings of a check are spread
PACE_SECONDS = 60.0  # between two of them, where there is time

Figures = dict[str, float | int | str | None]
Kind = Literal["retrain", "escalate", "recover", "disable", "retire", "clean_up"]
Cause = Literal["age", "degraded", "failing", "slow", "silent", "inactive"]


class Action(StrEnum):
    """Actions of a check; the first three only look."""

    AGE = "check_model_age"
    ACCURACY = "check_model_accuracy"
    LATENCY = "check_prediction_latency"
    RETRAIN = "auto_retrain_if_needed"
    ESCALATE = "escalate_if_degraded"
    CLEAN_UP = "cleanup_inactive_models"


class HealthIssue(StrEnum):
    """Issues that a model or a daemon can have."""

    OLD = "old"
    INACCURATE = "inaccurate"
    DEGRADED = "degraded"
    FAILING = "failing"
    SLOW = "slow"
    SILENT = "silent"
    INACTIVE = "inactive"


@dataclass(frozen=True)
class Limits:
    """Limits beyond which a figure is an issue; `latency` is in seconds, the rates are shares."""

    age_days: Positive = 7.0
    accuracy: Share = 0.9
    accuracy_drop: Share = 0.05
    false_positive_rate: Share = FALSE_POSITIVE_RATE_MOST
    latency: Positive = 0.1
    failures: Count = 3
    inactive_days: Annotated[float, Ge(1), Lt(inf)] = 30.0

    def __post_init__(self) -> None:
        """Raise ParameterError for a value out of bounds."""
        check(self)


class ModelCondition(msgspec.Struct, frozen=True):
    """Condition of a serving model; times in microseconds, None where unknown.

    `readings` and `anomalies` are of the last day and since the promotion, without confirmed
    anomalies. The current accuracy is the mean of `measurements`, each made on readings that the
    model of that time had not learnt.
    """

    device_id: str
    metric_name: str
    instance: str | None  # the daemon that serves it
    model_id: str
    version: int
    trained_at: int
    learnt_at: int | None  # anew, not only on from the version before
    last_reading: int
    accuracy_at_promotion: float | None = None
    false_positive_rate_at_promotion: float | None = None
    accuracy: float | None = None
    measurements: int = 0
    readings: int = 0
    anomalies: int = 0
    failures: int = 0  # retrainings and refits in a row that made no model
    failure: str = ""
    tried_at: int | None = None
    remedied: bool = False  # a remedy is decided and to be done yet, or it is being trained
    # When it was last told that it is; None: it is not, as far as anybody was told.
    degraded_since_told: int | None = None
    failing_since_told: int | None = None

    @property
    def false_positive_rate(self) -> float | None:
        """Share of anomalous readings."""
        return self.anomalies / self.readings if self.readings >= FEWEST_READINGS else None

    def figures(self, now: int) -> Figures:
        """Return the figures that a decision rests on."""
        said = {"age_days": round(self.age_days(now), 3)}
        said |= {name: getattr(self, name) for name in _FIGURES}
        return {name: figure for name, figure in said.items() if figure is not None}

    @property
    def _learnt(self) -> int:
        return self.trained_at if self.learnt_at is None else self.learnt_at

    def age_days(self, now: int) -> float:
        """Return the days since the last retraining."""
        return _days(now - self._learnt)

    @property
    def has_news(self) -> bool:
        """Whether any reading arrived since the last learning."""
        return self.last_reading > self._learnt


_FIGURES = (
    *("accuracy", "accuracy_at_promotion", "false_positive_rate"),
    *("false_positive_rate_at_promotion", "readings", "failures"),
)


class ScoringPace(msgspec.Struct, frozen=True):
    """Pace of a daemon over the last day: batches, and the number of slow batches."""

    instance: str
    batches: int
    slow: int
    slow_since_told: int | None = None


class Idle(msgspec.Struct, frozen=True):
    """A stored model that does not serve, and since when."""

    device_id: str
    metric_name: str
    instance: str | None
    model_id: str
    version: int
    status: str
    since: int


class Decision(msgspec.Struct, frozen=True):
    """A decision about a model, with its reason."""

    kind: Kind
    cause: Cause
    reason: str
    instance: str | None
    device_id: str = ""
    metric_name: str = ""
    model_id: str | None = None
    model_version: int = 0
    figures: Figures = {}

    def id(self, run_id: str) -> str:
        """Return an id that is the same in a check that was cut off and began again."""
        subject = (self.instance, self.device_id, self.metric_name, self.model_id)
        return deterministic_id("health", run_id, self.kind, self.cause, *subject)


Finding = dict[HealthIssue, str]  # what is the matter, in words


# ------------------------------------------------------------------------------------ what is found
def examine(one: ModelCondition, actions: Collection[Action], limits: Limits, now: int) -> Finding:
    """Return the issues of a model among the `actions` asked for."""
    found: Finding = {}
    if Action.AGE in actions and (age := one.age_days(now)) >= limits.age_days:
        found[HealthIssue.OLD] = f"learnt {age:.1f} days ago, more than {limits.age_days:g}"
    if Action.ACCURACY in actions:
        found |= _accuracy(one, limits)
    if one.failures and not {Action.RETRAIN, Action.ESCALATE}.isdisjoint(actions):
        many = "trainings in a row" if one.failures > 1 else "training"
        found[HealthIssue.FAILING] = f"{one.failures} {many} made no model: {one.failure}"
    if Action.CLEAN_UP in actions and _days(now - one.last_reading) >= limits.inactive_days:
        found[HealthIssue.SILENT] = f"no reading for {_days(now - one.last_reading):.0f} days"
    return found


def _accuracy(one: ModelCondition, limits: Limits) -> Finding:
    found, worse = {}, _worse(one, limits)
    known = one.accuracy if one.accuracy is not None else one.accuracy_at_promotion
    if known is not None and known < limits.accuracy:
        found[HealthIssue.INACCURATE] = f"accuracy {known:.3f}, below {limits.accuracy:g}"
    if worse:
        found[HealthIssue.DEGRADED] = "; ".join(worse)
    return found


def _worse(one: ModelCondition, limits: Limits) -> list[str]:
    """Return how a model got worse; a rounding error makes no model worse."""
    said, then, now, rate = [], one.accuracy_at_promotion, one.accuracy, one.false_positive_rate
    if then is not None and now is not None and one.measurements >= FEWEST_MEASUREMENTS:
        points = f"{100 * (then - now):.1f} points"
        if then - now >= limits.accuracy_drop - 1e-9:
            said.append(f"accuracy {now:.3f}, {points} below the {then:.3f} at its promotion")
    if rate is not None and rate > limits.false_positive_rate:
        share, most = f"{100 * rate:.1f} %", f"{100 * limits.false_positive_rate:g} %"
        said.append(f"{share} of its {one.readings} readings stood out, more than {most}")
    return said


# ------------------------------------------------------------------------------- what is to be done
def decide(
    one: ModelCondition, found: Finding, actions: Collection[Action], limits: Limits, now: int
) -> list[Decision]:
    """Return the decisions about a model's issues, among the `actions` asked for."""
    decisions: list[tuple[Kind, Cause, str]] = []
    if not one.remedied:
        decisions += _remedies(one, found, actions, limits, now)
    if Action.ESCALATE in actions:
        decisions += _escalations(one, found, actions, limits, now)
    about = (*_about(one), one.figures(now))
    return [Decision(kind, cause, reason, *about) for kind, cause, reason in decisions]


def _about(one: ModelCondition | Idle) -> tuple[str | None, str, str, str, int]:
    return one.instance, one.device_id, one.metric_name, one.model_id, one.version


def _remedies(
    one: ModelCondition, found: Finding, actions: Collection[Action], limits: Limits, now: int
) -> list[tuple[Kind, Cause, str]]:
    """Return the remedy: silence and too many failures end a model.

    An old or worse model is retrained where there are new readings and no attempt was made lately.
    """
    if Action.CLEAN_UP in actions and HealthIssue.SILENT in found:
        return [("retire", "silent", found[HealthIssue.SILENT])]
    if Action.RETRAIN not in actions:
        return []
    if one.failures >= limits.failures:
        return [("disable", "failing", found[HealthIssue.FAILING])]
    if not one.has_news or _lately(max(one.tried_at or 0, one.learnt_at or 0), now):
        return []
    if HealthIssue.DEGRADED in found:
        return [("retrain", "degraded", found[HealthIssue.DEGRADED])]
    return [("retrain", "age", found[HealthIssue.OLD])] if HealthIssue.OLD in found else []


def _escalations(
    one: ModelCondition, found: Finding, actions: Collection[Action], limits: Limits, now: int
) -> list[tuple[Kind, Cause, str]]:
    """Return notices: a standing issue once a day, its end once; an unknown issue has neither."""
    said: list[tuple[Kind, Cause, str]] = []
    degraded, failing = one.degraded_since_told, one.failing_since_told
    rate = one.false_positive_rate if Action.ACCURACY in actions else None
    if HealthIssue.DEGRADED in found and not _lately(degraded, now):
        said.append(("escalate", "degraded", found[HealthIssue.DEGRADED]))
    elif degraded is not None and HealthIssue.DEGRADED not in found and rate is not None:
        share = f"{100 * rate:.1f} %"
        reason = f"{share} of its readings stand out, and it is as accurate as it was"
        said.append(("recover", "degraded", reason))
    if 0 < one.failures < limits.failures and not _lately(failing, now):
        said.append(("escalate", "failing", found[HealthIssue.FAILING]))
    elif failing is not None and not one.failures:
        reason = f"version {one.version} serves, and no training failed since"
        said.append(("recover", "failing", reason))
    return said


def judge_pace(
    one: ScoringPace, actions: Collection[Action], limits: Limits, now: int
) -> tuple[Finding, list[Decision]]:
    """Judge whether a daemon scores fast enough; return the decision about it."""
    if Action.LATENCY not in actions or not one.batches:
        return {}, []
    share, late = one.slow / one.batches, f"took longer than {1000 * limits.latency:g} ms to score"
    figures: Figures = {"slow_share": share, "batches": one.batches}
    kind: Kind = "recover"
    found, told = Finding(), one.slow_since_told is not None
    reason = f"{100 * share:.2f} % of the batches {late}"
    if share > SLOW_SHARE:
        kind, told = "escalate", not _lately(one.slow_since_told, now)
        reason = f"{100 * share:.1f} % of the batches {late}: the p99 is above it"
        found[HealthIssue.SLOW] = reason
    decision = Decision(kind, "slow", reason, one.instance, figures=figures)
    return found, [decision] if told and Action.ESCALATE in actions else []


def judge_idle(one: Idle, now: int) -> Decision:
    """Return the decision to remove the files of a model that has not served for long."""
    days = _days(now - one.since)
    reason = f"{one.status} and unused for {days:.0f} days"
    return Decision("clean_up", "inactive", reason, *_about(one), {"unused_days": round(days, 3)})


def pace_seconds(retrainings: int) -> float:
    """Return the seconds between retrainings, spread over the day as the stream goes first."""
    return min(PACE_SECONDS, SPREAD_DAYS * 86_400 / max(1, retrainings))


# ------------------------------------------------------------------------------- what is told of it
def notice(event_id: str, decision: Decision, at: int) -> Notice | None:
    """Return the notice of a decision; None for a decision of the daemon's own concern."""
    kind, severity = _told_as(decision)
    if kind is None:
        return None
    series = f"{decision.device_id}/{decision.metric_name}"
    about = decision.instance if decision.cause == "slow" else series
    return Notice(
        event_id=event_id,
        kind=kind,
        severity=severity,
        cause=f"{decision.cause}:{about}",
        open=decision.kind != "recover",
        at=at,
        device_id=decision.device_id,
        metric_name=decision.metric_name,
        model_id=decision.model_id or "",
        model_version=decision.model_version,
        reason=decision.reason,
        figures=decision.figures,
    )


def _told_as(decision: Decision) -> tuple[NoticeKind | None, Severity]:
    match decision.kind, decision.cause:
        case "recover", _:
            return "recovered", "info"
        case "disable", _:
            return "disabled", "critical"
        case "escalate", "degraded" | "failing" | "slow" as cause:
            return cause, "warning"
        case _:
            return None, "info"


def slot(now: int, hour: int) -> int:
    """Return the newest time at which a daily check at this hour (UTC) was due."""
    since = hour * HOUR
    return (now - since) // DAY * DAY + since


def _days(microseconds: int) -> float:
    return microseconds / DAY


def _lately(at: int | None, now: int) -> bool:
    return at is not None and now - at < AGAIN_HOURS * HOUR
