"""Figures of accuracy: the textbook's numbers, with events counted as an operator would."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from insa_anomaly.core.units import Bools
from insa_anomaly.workbench.recordings.accuracy import (
    Alarms,
    ConfusionCounts,
    average_precision,
    count,
    figures,
    runs,
)

MINUTE = 60_000_000
flags = st.lists(st.booleans(), min_size=1, max_size=80)


def rows(n: int, *spans: tuple[int, int]) -> Bools:
    """Return `n` rows, of which these spans (last row included) are set."""
    out = np.zeros(n, np.bool_)
    for first, last in spans:
        out[first : last + 1] = True
    return out


def counted(truth: Bools, flagged: Bools, *, gap: int = 12, recovery: int = 0) -> ConfusionCounts:
    """Count at a reading a minute, where each run of flags is an episode."""
    times, scores = np.arange(len(truth)) * MINUTE, np.where(flagged, -0.5, 0.5)
    return count(
        times, scores, truth, told=Alarms(flagged, runs(flagged, gap)), gap=gap, recovery=recovery
    )


@given(truth=flags, data=st.data())
def test_law_average_precision_is_scikit_learns(truth: list[bool], data: st.DataObject) -> None:
    """Average precision equals scikit-learn's on any labels and any scores, ties among them."""
    strangeness = np.array(
        data.draw(st.lists(st.integers(-5, 5), min_size=len(truth), max_size=len(truth))),
        np.float64,
    )
    labelled = np.array([*truth[1:], True])
    assert average_precision(labelled, strangeness) == pytest.approx(
        average_precision_score(labelled, strangeness)
    )


@given(truth=flags, data=st.data(), gap=st.integers(0, 5), recovery=st.integers(0, 9))
def test_law_counts_fit_together(
    truth: list[bool], data: st.DataObject, gap: int, recovery: int
) -> None:
    """Each reading is counted once, and no more events are caught, or alarms false, than exist."""
    n = len(truth)
    flagged = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    counts = counted(np.array(truth), flagged, gap=gap, recovery=recovery)
    points, told = counts.points, counts.told
    assert points.tp + points.fp + points.fn + points.tn == n
    assert points.tp + points.fn == sum(truth)
    assert len(told.delays) <= told.events
    assert told.false_alarms <= told.episodes
    assert all(delay >= 0 for delay in told.delays)
    assert counts.told == counts.flagged


@given(flags=flags, gap=st.integers(0, 6))
def test_law_runs_are_every_flag_and_lie_apart(flags: list[bool], gap: int) -> None:
    """A run begins and ends at a flag, and is at least `gap` rows from the next."""
    found = runs(np.array(flags), gap)
    assert sum(flags[first : last + 1].count(True) for first, last in found) == sum(flags)
    assert all(flags[first] and flags[last] for first, last in found)
    assert all(after - before - 1 >= max(gap, 1) for (_, before), (after, _) in pairwise(found))


def test_an_event_is_caught_only_from_inside() -> None:
    """An episode right before an event does not catch it.

    The delay runs from the event's start to the first flag in it.
    """
    truth = rows(200, (50, 59), (120, 129))
    figure = figures([counted(truth, rows(200, (45, 47), (124, 126)))])
    assert (figure.told.events, figure.told.caught, figure.told.median_delay_s) == (2, 1, 240.0)
    assert (figure.told.episodes, figure.told.false_alarms, figure.told.precision) == (2, 1, 0.5)


def test_recovery_is_neither_caught_nor_false() -> None:
    """An episode right after an event is no false alarm, and its time is no normal running."""
    truth, flagged = rows(1440, (100, 109)), rows(1440, (115, 116))
    strict, lenient = (
        figures([counted(truth, flagged)]),
        figures([counted(truth, flagged, recovery=60)]),
    )
    assert (strict.told.caught, strict.told.false_alarms) == (0, 1)
    assert (lenient.told.caught, lenient.told.false_alarms) == (0, 0)
    assert strict.normal_days == pytest.approx(1430 / 1440)
    assert lenient.normal_days == pytest.approx(1370 / 1440)


def test_a_false_alarm_rate_is_for_the_time_that_was_normal() -> None:
    """Four alarms in two unlabelled days are a rate of two a day.

    Without a labelled reading there is no recall.
    """
    figure = figures(
        [counted(rows(2880), rows(2880, (10, 10), (700, 705), (1500, 1500), (2000, 2001)))]
    )
    assert figure.told.false_alarms_per_day == pytest.approx(2.0)
    assert (figure.tpr, figure.auc_pr, figure.told.recall, figure.balanced_accuracy) == (
        None,
        None,
        None,
        None,
    )


def test_flagging_everything_is_no_skill() -> None:
    """Flagging everything has a balanced accuracy of a half, however good its F1 looks."""
    truth = rows(100, (40, 93))
    figure = figures([counted(truth, np.ones(100, np.bool_))])
    assert figure.f1 == pytest.approx(2 * 54 / (2 * 54 + 46))
    assert (figure.fpr, figure.tpr, figure.balanced_accuracy) == (1.0, 1.0, 0.5)


def test_series_are_added_before_a_rate_is_taken() -> None:
    """A long series counts for more than a short series."""
    long, short = (
        counted(rows(900, (0, 99)), rows(900, (0, 49))),
        counted(rows(90, (0, 9)), rows(90)),
    )
    assert figures([long, short]).tpr == pytest.approx(50 / 110)
    assert figures([long, short]).told.recall == 0.5
