"""Judgements of the model health check as tables: each row of a table is a rule."""

from collections.abc import Collection
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.core.operations import model_health
from insa_anomaly.core.operations.model_health import (
    DAY,
    HOUR,
    Action,
    Decision,
    HealthIssue,
    Idle,
    Limits,
    ModelCondition,
    ScoringPace,
    decide,
    examine,
    judge_idle,
    judge_pace,
    notice,
)

NOW = 1_800_000_000_000_000
ALL, LIMITS = tuple(Action), Limits()
GOOD = ModelCondition(
    device_id="PUMP-101",
    metric_name="temperature",
    instance="i",
    model_id="m",
    version=7,
    trained_at=NOW - DAY,
    learnt_at=NOW - 2 * DAY,
    last_reading=NOW - HOUR,
    accuracy_at_promotion=0.93,
    false_positive_rate_at_promotion=0.01,
    accuracy=0.92,
    measurements=7,
    readings=86_400,
    anomalies=86,
    tried_at=NOW - 2 * DAY,
)
ASKED = NOW - 21 * HOUR


def changed(**figures: Any) -> ModelCondition:  # noqa: ANN401 - of any type
    """Return the healthy model with some figures changed."""
    return msgspec.structs.replace(GOOD, **figures)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({}, set()),
        ({"learnt_at": NOW - 7 * DAY}, {HealthIssue.OLD}),
        ({"learnt_at": NOW - 7 * DAY + 1}, set()),
        ({"learnt_at": None, "trained_at": NOW - 8 * DAY}, {HealthIssue.OLD}),
        # A refit since then makes the model no younger.
        ({"learnt_at": NOW - 8 * DAY, "trained_at": NOW - HOUR}, {HealthIssue.OLD}),
        ({"accuracy": 0.89}, {HealthIssue.INACCURATE}),
        ({"accuracy": 0.90}, set()),
        ({"accuracy": None, "accuracy_at_promotion": 0.8}, {HealthIssue.INACCURATE}),
        ({"accuracy": None, "accuracy_at_promotion": None}, set()),
        ({"accuracy": 0.88}, {HealthIssue.INACCURATE, HealthIssue.DEGRADED}),
        ({"accuracy": 0.881}, {HealthIssue.INACCURATE}),
        # The model never was good, so it is not worse than at its promotion.
        ({"accuracy": 0.80, "accuracy_at_promotion": 0.82}, {HealthIssue.INACCURATE}),
        # Two measurements may be chance.
        ({"accuracy": 0.80, "measurements": 2}, {HealthIssue.INACCURATE}),
        ({"anomalies": 4320}, set()),
        ({"anomalies": 4321}, {HealthIssue.DEGRADED}),
        ({"readings": 249, "anomalies": 249}, set()),
        ({"readings": 250, "anomalies": 250}, {HealthIssue.DEGRADED}),
        ({"failures": 1, "failure": "too few"}, {HealthIssue.FAILING}),
        ({"last_reading": NOW - 30 * DAY}, {HealthIssue.SILENT}),
        ({"last_reading": NOW - 29 * DAY}, set()),
    ],
)
def test_what_is_the_matter(figures: dict[str, Any], expected: set[HealthIssue]) -> None:
    """Each figure is a finding exactly beyond its limit."""
    found = examine(changed(**figures), ALL, LIMITS, NOW)
    assert found.keys() == expected
    assert all(found.values())


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({}, []),
        ({"learnt_at": NOW - 8 * DAY}, [("retrain", "age")]),
        ({"learnt_at": NOW - 8 * DAY, "remedied": True}, []),
        ({"learnt_at": NOW - 8 * DAY, "tried_at": NOW - HOUR}, []),  # tried just now
        # There is no new reading to learn from.
        ({"learnt_at": NOW - 8 * DAY, "last_reading": NOW - 9 * DAY}, []),
        ({"anomalies": 9000}, [("retrain", "degraded"), ("escalate", "degraded")]),
        (
            {"anomalies": 9000, "learnt_at": NOW - 8 * DAY},
            [("retrain", "degraded"), ("escalate", "degraded")],
        ),
        ({"anomalies": 9000, "learnt_at": NOW - HOUR}, [("escalate", "degraded")]),
        (
            {"anomalies": 9000, "degraded_since_told": ASKED},
            [("retrain", "degraded"), ("escalate", "degraded")],
        ),
        ({"anomalies": 9000, "degraded_since_told": NOW - HOUR}, [("retrain", "degraded")]),
        ({"degraded_since_told": ASKED}, [("recover", "degraded")]),
        ({"degraded_since_told": ASKED, "readings": 100}, []),  # too few readings to judge
        ({"accuracy": 0.7}, [("retrain", "degraded"), ("escalate", "degraded")]),
        ({"failures": 1}, [("escalate", "failing")]),
        (
            {"failures": 2, "learnt_at": NOW - 9 * DAY, "failing_since_told": ASKED},
            [("retrain", "age"), ("escalate", "failing")],
        ),
        ({"failures": 2, "failing_since_told": NOW - HOUR}, []),
        (
            {"failures": 3, "learnt_at": NOW - 10 * DAY, "failing_since_told": ASKED},
            [("disable", "failing")],
        ),
        ({"failing_since_told": ASKED}, [("recover", "failing")]),
        ({"last_reading": NOW - 31 * DAY, "learnt_at": NOW - 40 * DAY}, [("retire", "silent")]),
    ],
)
def test_what_is_to_be_done(figures: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """Findings lead to these kinds and causes of decisions, each with a reason and figures."""
    one = changed(**figures)
    decisions = decide(one, examine(one, ALL, LIMITS, NOW), ALL, LIMITS, NOW)
    assert [(each.kind, each.cause) for each in decisions] == expected
    assert all(
        each.reason and each.figures["age_days"] is not None and each.model_id == "m"
        for each in decisions
    )


WORST = changed(learnt_at=NOW - 9 * DAY, accuracy=0.5, anomalies=50_000, failures=1)


@pytest.mark.parametrize(
    ("actions", "found", "decided"),
    [
        ([Action.AGE], {HealthIssue.OLD}, set()),
        ([Action.ACCURACY], {HealthIssue.INACCURATE, HealthIssue.DEGRADED}, set()),
        ([Action.LATENCY], set(), set()),
        ([Action.RETRAIN], {HealthIssue.FAILING}, set()),
        (
            [Action.AGE, Action.RETRAIN],
            {HealthIssue.OLD, HealthIssue.FAILING},
            {("retrain", "age")},
        ),
        (
            [Action.ACCURACY, Action.ESCALATE],
            {HealthIssue.INACCURATE, HealthIssue.DEGRADED, HealthIssue.FAILING},
            {("escalate", "degraded"), ("escalate", "failing")},
        ),
        ([Action.ESCALATE], {HealthIssue.FAILING}, {("escalate", "failing")}),
        ([Action.CLEAN_UP], set(), set()),
    ],
)
def test_only_what_is_asked_for(
    actions: list[Action], found: set[HealthIssue], decided: set[tuple[str, str]]
) -> None:
    """A check without actions changes no model, and an action needs the check that it rests on."""
    said = examine(WORST, actions, LIMITS, NOW)
    assert said.keys() == found
    assert {
        (each.kind, each.cause) for each in decide(WORST, said, actions, LIMITS, NOW)
    } == decided


@given(
    st.builds(
        ModelCondition,
        device_id=st.just("d"),
        metric_name=st.just("m"),
        instance=st.none(),
        model_id=st.just("x"),
        version=st.integers(1, 9),
        trained_at=st.integers(0, NOW),
        learnt_at=st.none() | st.integers(0, NOW),
        last_reading=st.integers(0, NOW),
        accuracy_at_promotion=st.none() | st.floats(0, 1),
        accuracy=st.none() | st.floats(0, 1),
        measurements=st.integers(0, 7),
        readings=st.integers(0, 1000),
        anomalies=st.integers(0, 1000),
        failures=st.integers(0, 5),
        tried_at=st.none() | st.integers(0, NOW),
        remedied=st.booleans(),
        degraded_since_told=st.none() | st.integers(0, NOW),
        failing_since_told=st.none() | st.integers(0, NOW),
    ),
    st.sets(st.sampled_from(ALL)),
)
def test_no_figures_lead_to_contradictions(
    one: ModelCondition, actions: Collection[Action]
) -> None:
    """Any figures lead to at most 1 remedy per model, and to no contradiction per cause.

    Checks without actions lead to no decision.
    """
    found = examine(one, actions, LIMITS, NOW)
    decisions = decide(one, found, actions, LIMITS, NOW)
    assert sum(each.kind in {"retrain", "disable", "retire"} for each in decisions) <= 1
    for cause in ("degraded", "failing"):
        assert (
            sum(
                each.cause == cause and each.kind in {"escalate", "recover", "disable"}
                for each in decisions
            )
            <= 1
        )
    if not {Action.RETRAIN, Action.ESCALATE, Action.CLEAN_UP} & set(actions):
        assert decisions == []


@pytest.mark.parametrize(
    ("pace", "found", "kinds"),
    [
        (ScoringPace("i", 1000, 10), False, []),
        (ScoringPace("i", 1000, 11), True, ["escalate"]),
        (ScoringPace("i", 1000, 11, NOW - HOUR), True, []),
        (ScoringPace("i", 1000, 11, ASKED), True, ["escalate"]),
        (ScoringPace("i", 1000, 0, ASKED), False, ["recover"]),
        (ScoringPace("i", 0, 0, ASKED), False, []),
    ],
)
def test_a_daemon_that_is_slow(pace: ScoringPace, found: bool, kinds: list[str]) -> None:
    """A daemon is slow if more than 1 in 100 batches exceed the limit: its p99 exceeds it."""
    said, decisions = judge_pace(pace, ALL, LIMITS, NOW)
    assert (bool(said), [each.kind for each in decisions]) == (found, kinds)


@pytest.mark.parametrize(
    ("kind", "cause", "expected"),
    [
        ("escalate", "degraded", ("degraded", "warning", "degraded:a/b", True)),
        ("recover", "degraded", ("recovered", "info", "degraded:a/b", False)),
        ("escalate", "failing", ("failing", "warning", "failing:a/b", True)),
        ("disable", "failing", ("disabled", "critical", "failing:a/b", True)),
        ("recover", "failing", ("recovered", "info", "failing:a/b", False)),
        ("escalate", "slow", ("slow", "warning", "slow:i", True)),
        ("recover", "slow", ("recovered", "info", "slow:i", False)),
        ("retrain", "age", None),
        ("retire", "silent", None),
        ("clean_up", "inactive", None),
    ],
)
def test_what_is_told(kind: Any, cause: Any, expected: object) -> None:  # noqa: ANN401 - words of a table
    """Every notice about a cause carries the same name of the cause."""
    said = notice(
        "e",
        Decision(
            kind=kind,
            cause=cause,
            reason="why",
            instance="i",
            device_id="a",
            metric_name="b",
            model_id="m",
            model_version=1,
        ),
        NOW,
    )
    assert (None if said is None else (said.kind, said.severity, said.cause, said.open)) == expected


def test_unused_models_go() -> None:
    """Unused models are cleaned up, and the reason states the days without use."""
    decision = judge_idle(
        Idle(
            device_id="a",
            metric_name="b",
            instance=None,
            model_id="m",
            version=3,
            status="archived",
            since=NOW - 31 * DAY,
        ),
        NOW,
    )
    assert (decision.kind, decision.cause, decision.reason) == (
        "clean_up",
        "inactive",
        "archived and unused for 31 days",
    )


@pytest.mark.parametrize(
    ("fleet", "seconds"), [(0, 60.0), (1, 60.0), (1200, 60.0), (10_000, 7.2), (72_000, 1.0)]
)
def test_a_large_fleet_is_retrained_over_the_day(fleet: int, seconds: float) -> None:
    """The last model of any fleet begins its retraining within 20 hours."""
    assert model_health.pace_seconds(fleet) == pytest.approx(seconds)
    assert fleet * model_health.pace_seconds(fleet) <= 20 * 3600


@given(st.integers(0, 2**52), st.integers(0, 23))
def test_the_slot_is_the_newest_of_its_hour(now: int, hour: int) -> None:
    """A slot is at the full hour, not later than now, and less than a day ago."""
    at = model_health.slot(now, hour)
    assert at <= now < at + DAY
    assert at % DAY == hour * HOUR


def test_a_decision_is_known_by_what_it_is_about() -> None:
    """The id of a decision is the same in a repeated check, and differs in another check."""
    one, other = (
        Decision(
            kind="retrain",
            cause="age",
            reason=why,
            instance="i",
            device_id="a",
            metric_name="b",
            model_id="m",
            model_version=1,
        )
        for why in ("7 days", "7.1 days")
    )
    assert one.id("run") == other.id("run") != one.id("another")
