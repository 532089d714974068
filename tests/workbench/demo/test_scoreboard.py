"""The scoreboard: every alarm is attributed once, and the figures are correct."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.core.notification.event import Event, rfc3339
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.workbench.demo.plant import HOUR, MINUTE, Kind, PlantFault
from insa_anomaly.workbench.demo.scoreboard import (
    GRACE,
    RECOVERY,
    Alarm,
    alarm_of,
    cause,
    false_alarms,
    findings,
    percentile,
)

START = 1_700_000_000_000_000
FAULT = PlantFault("d", "a", Kind.DRIFT, START, START + 30 * MINUTE)


def event(kind: str, at: int) -> Event:
    """Return an event of the series d/a at this time."""
    return Event(
        event_id=f"{kind}{at}",
        kind=kind,
        episode_id="e",
        device_id="d",
        metric_name="a",
        timestamp=rfc3339(at),
        value=1.0,
        expected=0.0,
        lower=-1.0,
        upper=1.0,
        score=-0.5,
        confidence=0.5,
        reasons=[],
        model_id="m",
        model_version=1,
        started_at=rfc3339(START),
        historical=True,
    )


@pytest.mark.parametrize(
    ("at", "catches", "false"),
    [
        (-1, False, True),
        (0, True, False),
        (30 * MINUTE + GRACE - 1, True, False),
        (30 * MINUTE + GRACE, False, False),
        (30 * MINUTE + RECOVERY - 1, False, False),
        (30 * MINUTE + RECOVERY, False, True),
    ],
)
def test_an_alarm_catches_follows_or_is_false(at: int, catches: bool, false: bool) -> None:
    """An alarm within the fault and the grace after it catches the fault.

    In the hour after, it is recovery; elsewhere it is false.
    """
    alarm = Alarm(SeriesKey("d", "a"), START + at, "e")
    assert (cause(alarm, [FAULT]) is FAULT, bool(false_alarms([FAULT], [alarm]))) == (
        catches,
        false,
    )
    assert cause(Alarm(SeriesKey("d", "b"), START, "e"), [FAULT]) is None
    assert len(false_alarms([FAULT], [Alarm(SeriesKey("d", "b"), START, "e")])) == 1


@given(
    st.lists(st.tuples(st.integers(-3, 6), st.sampled_from("ab"), st.integers(0, 4)), max_size=12)
)
def test_every_episode_counts_once(said: list[tuple[int, str, int]]) -> None:
    """An episode is a single alarm, however often and in whatever order its opening is published.

    A fault is caught by its earliest alarm.
    """
    alarms = [
        Alarm(SeriesKey("d", metric), START + hours * HOUR, f"{metric}{number}{hours}")
        for hours, metric, number in said
    ]
    (finding,) = findings([FAULT], alarms)
    catching = [alarm.at for alarm in alarms if alarm.key == FAULT.key and alarm.at == START]
    assert finding.delay == (0 if catching else None)
    false = false_alarms([FAULT], alarms + alarms[::-1])
    assert (
        len(false)
        == len({alarm.episode_id for alarm in false})
        <= len({alarm.episode_id for alarm in alarms})
    )
    assert {alarm.episode_id for alarm in false} == {
        a.episode_id for a in alarms if a.key != FAULT.key or not 0 <= a.at - START <= HOUR
    }


def test_an_episode_is_where_it_opened() -> None:
    """An episode that opened without a fault stays a false alarm, even if repeated in a fault."""
    alarms = [Alarm(SeriesKey("d", "a"), START + at, "e") for at in (MINUTE, -HOUR, 2 * MINUTE)]
    assert false_alarms([FAULT], alarms) == [alarms[1]]


def test_only_an_opening_is_an_alarm() -> None:
    """Only an opening is an alarm; later transitions belong to a counted episode."""
    assert alarm_of(event("opened", START)) == Alarm(SeriesKey("d", "a"), START, "e")
    assert [alarm_of(event(kind, START)) for kind in ("worsened", "closed")] == [None, None]


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.sampled_from([1.0, 50.0, 99.0, 100.0])
)
def test_percentiles_are_values_that_were_measured(values: list[float], percent: float) -> None:
    """A percentile is the least value that this share of the values does not exceed."""
    found = percentile(values, percent)
    enough = math.ceil(percent / 100 * len(values))
    assert found == min(v for v in values if sum(w <= v for w in values) >= enough)
    assert percentile([], percent) is None
