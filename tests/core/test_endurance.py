"""Endurance: memory stays flat, because states have a fixed size and results are not stored."""

import os

import numpy as np
import pytest

from insa_anomaly.core.scoring import episodes, status
from insa_anomaly.core.series import detector, features
from insa_anomaly.core.series.detector import SeriesBatch, advance
from insa_anomaly.core.units import Floats, Ints
from tests.benchmarks.process import resident_bytes
from tests.core.streams import MINUTE, SMALL, START, models

SERIES, AT_ONCE = 4, 10_000  # three of the series have models
PER_SERIES = AT_ONCE // SERIES


def batch(number: int, random: np.random.Generator) -> tuple[Ints, Floats]:
    """Return times and values of the readings of a call, series by series, with some faults."""
    at = np.tile(np.arange(number * PER_SERIES, (number + 1) * PER_SERIES, dtype=np.int64), SERIES)
    values = 20 + 3 * np.sin(2 * np.pi * at / 1440) + random.normal(0, 0.3, AT_ONCE)
    values[random.integers(AT_ONCE, size=50)] += 9.0
    return START + at * MINUTE, values


@pytest.mark.parametrize(
    "readings",
    [300_000, pytest.param(10_000_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
)
def test_memory_is_flat(readings: int) -> None:
    """Resident memory grows by less than 4 MB after the first third of the readings."""
    random, held, states = np.random.default_rng(1), models(), features.empty(SERIES)
    which, own = np.repeat(np.arange(SERIES), PER_SERIES), np.zeros(AT_ONCE, np.int64)
    held.learnt[:, detector.REFIT_STEP] = PER_SERIES
    rows, scored, early = np.where(which < SERIES - 1, which, -1), 0, 0
    for number in range(readings // AT_ONCE):
        if number == readings // AT_ONCE // 3:
            early = resident_bytes(os.getpid())
        times, values = batch(number, random)
        states, results = advance(
            states,
            SeriesBatch(
                series=which,
                models=rows,
                values=values,
                times=times,
                discriminators=own,
                qualities=own,
            ),
            held,
            episodes.Policy(),
            SMALL,
        )
        scored += int((results.status == status.Status.SCORED).sum())
    assert scored > 0.7 * readings
    assert resident_bytes(os.getpid()) - early < 4_000_000
