"""Tuning: each setting is learnt from the older part of a series and tried on the newer."""

from dataclasses import replace

import numpy as np
import pytest

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series.training import SeriesLearner
from insa_anomaly.core.series.tuning import Series, Setting, Tried, tried
from insa_anomaly.core.units import Ints
from insa_anomaly.errors import NotEnoughData
from tests.core.streams import SMALL, daily

OLDER = 2100  # of 3000 readings


def history(n: int = 3000) -> Series:
    """Return a series of `n` readings."""
    return Series(SeriesKey("D", "m"), *daily(n))


def of(rate: float, alpha: float = 1e-2, series: Series | None = None) -> Tried:
    """Return the outcome of a setting on the series."""
    return tried(series or history(), Setting(rate, alpha), SMALL, Policy())


def test_the_more_alarms_are_accepted_the_more_is_told() -> None:
    """A higher rate of accepted alarms lowers the threshold and raises the reports.

    Episodes and reported faults never become fewer; caught faults do not depend on the rate.
    """
    few, some, many = of(0.05), of(1.0), of(20.0)
    assert few.threshold >= some.threshold >= many.threshold
    assert few.threshold > many.threshold
    assert few.episodes_per_day <= some.episodes_per_day <= many.episodes_per_day
    assert few.faults_told <= some.faults_told <= many.faults_told <= many.faults_caught
    assert few.faults_caught == many.faults_caught
    assert few.false_positive_rate == many.false_positive_rate
    assert (few.readings, few.faults) == (3000 - OLDER - 60, 21)


def test_a_lower_line_calls_less_anomalous() -> None:
    """A lower alpha leads to fewer false positives and to no more caught faults."""
    low, high = of(1.0, 1e-3), of(1.0, 5e-2)
    assert low.false_positive_rate <= high.false_positive_rate
    assert low.faults_caught <= high.faults_caught


def test_the_threshold_knows_nothing_of_what_it_is_tried_on() -> None:
    """The threshold is learnt from the older part alone, independent of the newer part."""
    series = history()
    spoilt = replace(series, values=np.where(np.arange(3000) >= OLDER, 1000.0, series.values))
    own = replace(SMALL, alpha=1e-2)
    policy = Policy(false_alarms_per_day=0.5)
    alone = SeriesLearner(
        key=SeriesKey("D", "m"), id="id", version=1, parameters=own, policy=policy
    ).fit(series.times[:OLDER], series.values[:OLDER])
    assert of(0.5).threshold == of(0.5, series=spoilt).threshold == alone.model.threshold


def test_too_little_is_refused() -> None:
    """Fewer than 2000 readings are refused with the number needed."""
    times: Ints = history(1999).times
    assert len(times) == 1999
    with pytest.raises(NotEnoughData, match="1999 readings; at least 2000"):
        of(1.0, series=history(1999))
