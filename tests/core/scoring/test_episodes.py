"""Episodes: readings open, worsen and close them by rule, in any batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.core.scoring.episodes import Policy, Transition, Verdicts, judge, threshold_for
from insa_anomaly.core.units import Floats
from tests.core import oracle

POLICY = Policy(merge_gap_readings=3, worsen_step=0.2)
NONE, OPENED, WORSENED, CLOSED = Transition
scores = st.sampled_from([1.0, 0.5, 0.0, -0.1, -0.3, -0.5, -0.7, -1.0])


def judged(
    episodes: Floats, values: list[float], threshold: float = 0.2, start: int = 0
) -> tuple[Floats, Verdicts]:
    """Judge a single series, a reading a microsecond."""
    n = len(values)
    return judge(
        episodes=episodes,
        which=np.zeros(n, np.int64),
        times=np.arange(start, start + n, dtype=np.float64),
        scores=np.array(values),
        thresholds=np.full(n, threshold),
        policy=POLICY,
    )


@given(values=st.lists(scores, max_size=40), threshold=st.sampled_from([0.0, 0.2, 0.4, 0.9]))
def test_law_the_verdict_is_the_naive_verdict(values: list[float], threshold: float) -> None:
    """The verdict on every reading equals the naive verdict."""
    _, verdicts = judged(np.zeros((1, 5)), values, threshold)
    assert verdicts.transitions.tolist() == oracle.transitions(values, threshold, POLICY)


@given(values=st.lists(scores, max_size=40))
def test_law_opened_and_closed_alternate(values: list[float]) -> None:
    """An episode opens, may worsen, and closes before the next episode opens."""
    _, verdicts = judged(np.zeros((1, 5)), values)
    is_open = False
    for transition in verdicts.transitions.tolist():
        assert transition in ({NONE, WORSENED, CLOSED} if is_open else {NONE, OPENED})
        is_open = (is_open or transition == OPENED) and transition != CLOSED


@given(values=st.lists(st.tuples(st.integers(0, 2), scores), max_size=40), cut=st.integers(0, 40))
def test_law_batches_and_other_series_change_nothing(
    values: list[tuple[int, float]], cut: int
) -> None:
    """Verdicts do not depend on batches or on other series, and no input is modified."""
    values.sort(key=lambda one: one[0])
    which, given_scores = (
        np.array([v[0] for v in values], np.int64),
        np.array([v[1] for v in values]),
    )
    times, thresholds, before = (
        np.arange(len(values), dtype=np.float64),
        np.full(len(values), 0.2),
        np.zeros((3, 5)),
    )
    after, whole = judge(
        episodes=before,
        which=which,
        times=times,
        scores=given_scores,
        thresholds=thresholds,
        policy=POLICY,
    )
    assert not before.any()
    first, second = slice(cut), slice(cut, None)
    between, head = judge(
        episodes=before,
        which=which[first],
        times=times[first],
        scores=given_scores[first],
        thresholds=thresholds[first],
        policy=POLICY,
    )
    last, tail = judge(
        episodes=between,
        which=which[second],
        times=times[second],
        scores=given_scores[second],
        thresholds=thresholds[second],
        policy=POLICY,
    )
    assert after.tobytes() == last.tobytes()
    for name in ("transitions", "started", "readings", "peaks"):
        assert (
            np.concatenate([getattr(head, name), getattr(tail, name)]).tolist()
            == getattr(whole, name).tolist()
        )
    for row in range(3):
        at = which == row
        alone = judge(
            episodes=np.zeros((1, 5)),
            which=which[at] * 0,
            times=times[at],
            scores=given_scores[at],
            thresholds=thresholds[at],
            policy=POLICY,
        )[1]
        assert alone.transitions.tolist() == whole.transitions[at].tolist()


def test_an_episode_from_beginning_to_end() -> None:
    """An episode opens at the threshold, holds faint readings, worsens and closes.

    Worsening takes a confidence 0.2 above the last report; closing takes three quiet
    readings.
    """
    values = [-0.1, 0.5, -0.3, -0.1, 0.2, -0.45, -0.5, 0.1, 0.1, 0.1, 0.1, -0.1]
    episodes, verdicts = judged(np.zeros((1, 5)), values)
    assert verdicts.transitions.tolist() == [
        NONE,
        NONE,
        OPENED,
        NONE,
        NONE,
        NONE,
        WORSENED,
        NONE,
        NONE,
        CLOSED,
        NONE,
        NONE,
    ]
    assert verdicts.started.tolist() == [0, 0, *[2] * 8, 0, 0]
    assert verdicts.readings.tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 4, 4, 0, 0]
    np.testing.assert_allclose(verdicts.peaks[2:10], [0.3, 0.3, 0.3, 0.45, 0.5, 0.5, 0.5, 0.5])
    assert not episodes.any()


@given(
    values=st.lists(scores, min_size=1, max_size=300),
    days=st.floats(0.01, 60),
    rate=st.sampled_from([0.03, 0.14, 1.0]),
)
def test_law_the_threshold_keeps_the_promised_rate(
    values: list[float], days: float, rate: float
) -> None:
    """Held-out readings open at most `rate` episodes a day at the threshold below the highest."""
    policy = Policy(merge_gap_readings=3, false_alarms_per_day=rate)
    threshold = threshold_for(np.array(values), days, policy)
    assert 0 <= threshold <= policy.highest_threshold
    opened = oracle.transitions(values, threshold, policy).count(OPENED)
    assert opened <= int(rate * days) or threshold == policy.highest_threshold


def test_the_threshold_of_a_short_history_is_higher() -> None:
    """A shorter history leads to a higher threshold, and a history of no length to the highest."""
    quiet = np.ones(100)
    by_length = [threshold_for(quiet, days, Policy()) for days in (0.1, 1, 5, 30)]
    assert by_length == sorted(by_length, reverse=True)
    assert by_length[-1] == 0
    assert threshold_for(quiet, 0, Policy()) == Policy().highest_threshold


def test_the_accepted_episodes_are_the_faintest_threshold() -> None:
    """A threshold with room for a single episode lies just above the second strongest."""
    values = np.ones(1000)
    values[[100, 300, 500]] = -0.2, -0.5, -0.35
    assert threshold_for(values, 14.2, Policy()) == pytest.approx(0.35, abs=0.005)
