"""Scored readings are counted as a person would, with any number of takers meanwhile."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.runtime.models.activity import Activity, ActivityCounts

KEYS: tuple[SeriesKey, ...] = tuple(SeriesKey(f"d{number}", "a") for number in range(600))
# number of its series, whether it was scored, whether its score is below 0
Reading = tuple[int, bool, bool]
_batches = st.lists(
    st.lists(st.tuples(st.sampled_from([0, 1, 7, 599]), st.booleans(), st.booleans()), max_size=20),
    max_size=8,
)


def batch(readings: list[Reading]) -> tuple[Any, Any]:
    """Build the parts of telemetry and results that are counted."""
    numbers, scored, anomalous = (
        np.array([one[place] for one in readings], int) for place in range(3)
    )
    return SimpleNamespace(keys=KEYS, key=numbers), SimpleNamespace(
        scored=scored.astype(bool), score=np.where(anomalous, -0.5, 0.5)
    )


def added(total: Counter[tuple[SeriesKey, int]], taken: ActivityCounts) -> None:
    """Add taken counts to the total."""
    for number, key in enumerate(taken.keys):
        for which in (0, 1):
            total[key, which] += int(taken.counts[which, number])


@given(_batches, st.sets(st.integers(0, 7)))
def test_law_nothing_is_lost_or_counted_twice(
    batches: list[list[Reading]], taken_after: set[int]
) -> None:
    """The counts equal a count of single readings.

    Readings between taking and forgetting are taken the next time.
    """
    activity, total = Activity(), Counter[tuple[SeriesKey, int]]()
    expected = Counter(
        (KEYS[number], which)
        for one in batches
        for number, scored, bad in one
        if scored
        for which in range(1 + bad)
    )
    for place, readings in enumerate(batches):
        taken = activity.counts()
        activity.count(*batch(readings))
        if place in taken_after:
            added(total, taken)
            activity.subtract(taken)
    added(total, activity.counts())
    assert +total == expected
