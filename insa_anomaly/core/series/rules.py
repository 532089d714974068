"""Rules that need no statistics: values beyond the range ever seen, and known sensor failures.

A rule that speaks makes a reading as surprising as p = 1e-8; a rule that only names gives an alarm
of the charts its name. A known level speaks for a reading: a tag that takes a few levels, a switch
or a setpoint, is at one of them.
"""

from enum import IntFlag

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.layout import Layout, LearntRows
from insa_anomaly.core.series.features import Pushed
from insa_anomaly.core.units import DAY, FLAT_CAP, Bools, Floats, Ints

SURPRISE = 8.0  # -log10 p
RELIEF = 3.0  # decades by which a known level lowers the surprise of the charts
# Of the range ever learnt, if it was learnt in a day; of half a day's range twice as much, etc.
EXTREME_SHARE = 0.05
LEVELS_MOST = 8

LEARNT = Layout(
    {
        "low": 1,  # of all values that were given to training
        "high": 1,
        "from": 1,  # time of the first and the last of them, microseconds
        "through": 1,
        "stuck_after": 1,  # repetitions in a row the sensor never has by itself; inf: it repeats
        "drops": 1,  # 1: zero lies outside its range
        "rate": 1,  # largest possible jump from a reading to the next
        "levels": LEVELS_MOST,  # the few values it takes, NaN where there are fewer or no levels
        "constant": 1,  # 1: it never took but a single value
    }
)
LOW, HIGH, FROM, THROUGH = map(LEARNT.column, ("low", "high", "from", "through"))
STUCK_AFTER, DROPS, RATE = map(LEARNT.column, ("stuck_after", "drops", "rate"))
LEVELS, CONSTANT = LEARNT.part("levels"), LEARNT.column("constant")
EVER = [LOW, HIGH, FROM, THROUGH]

_LEVEL_SHARE = 0.002
_LEVELS_COVER = 0.99
_FEWEST_OF_A_LEVEL = 5
_REPEATING = 0.5
_STUCK_LEAST, _STUCK_FACTOR = 30, 4
_USUAL_RUN = 0.999
_RATE_FACTOR = 3.0
_SATURATED_AFTER = 5


class Rule(IntFlag):
    """Patterns that the rules find in a reading."""

    NEW_EXTREME = 1
    MOVED = 2  # a constant that is another value now
    STUCK = 4
    DROPOUT = 8
    SATURATED = 16
    IMPOSSIBLE_RATE = 32


SPEAK = Rule.NEW_EXTREME | Rule.MOVED | Rule.STUCK | Rule.DROPOUT

Rules = npt.NDArray[np.uint8]


def learn(values: Floats, flats: Floats, ever: Floats) -> LearntRows:
    """Learn from ordinary readings in time order: values [n], repetitions before each [n].

    `ever` [4] are low, high, from and through of all readings that there ever were.
    """
    learnt = np.empty(LEARNT.width)
    learnt[EVER] = ever
    repeating = float((flats > 0).mean())
    stuck_after = max(_STUCK_LEAST, _STUCK_FACTOR * usual_run(flats))
    sticks = repeating < _REPEATING and stuck_after < FLAT_CAP
    learnt[STUCK_AFTER] = stuck_after if sticks else np.inf
    low, high = np.quantile(values, [1 - _USUAL_RUN, _USUAL_RUN]).tolist()
    learnt[DROPS] = not low <= 0 <= high
    with np.errstate(over="ignore"):
        learnt[RATE] = _RATE_FACTOR * float(np.abs(np.diff(values)).max(initial=0.0))
    learnt[CONSTANT] = values.min() == values.max()
    levels, counts = np.unique(values, return_counts=True)
    levels = levels[counts >= max(_FEWEST_OF_A_LEVEL, _LEVEL_SHARE * len(values))]
    learnt[LEVELS] = np.nan
    if len(levels) <= LEVELS_MOST and np.isin(values, levels).mean() >= _LEVELS_COVER:
        learnt[LEVELS][: len(levels)] = levels
    return LearntRows(learnt)


def usual_run(flats: Floats) -> float:
    """Return the repetitions in a row that 1 reading in 1000 exceeds."""
    return float(np.quantile(flats, _USUAL_RUN, method="lower"))


def seen(
    pushed: Pushed, ready: Ints, times: Floats, flat_free: Floats, learnt: LearntRows
) -> Rules:
    """Return the rules [k] that the readings `ready` [k] of a batch break.

    times [k], flat_free [k]: `features.FLAT_FREE` of each, learnt [k, LEARNT.width].
    """
    value, before, flats = pushed.windows[ready, -1], pushed.windows[ready, -2], pushed.flats[ready]
    low, high = learnt[:, LOW], learnt[:, HIGH]
    with np.errstate(over="ignore", invalid="ignore"):
        span = np.clip(np.maximum(times, learnt[:, THROUGH]) - learnt[:, FROM], 1.0, DAY)
        beyond = np.maximum(value - high, low - value) > EXTREME_SHARE * DAY / span * (high - low)
        too_fast = np.abs(value - before) > learnt[:, RATE]
    long_flat = flats >= np.maximum(_SATURATED_AFTER, flat_free)
    in_order_of_their_bits = (
        beyond,
        (value != learnt[:, LEVELS.start]) & (learnt[:, CONSTANT] > 0),  # moved
        flats >= learnt[:, STUCK_AFTER],
        (value == 0) & (learnt[:, DROPS] > 0),  # dropout
        long_flat & ((value == high) | (value == low)),  # saturated
        too_fast,
    )
    rules: Rules = np.packbits(in_order_of_their_bits, axis=0, bitorder="little")[0]
    return rules


def at_known_level(values: Floats, learnt: LearntRows) -> Bools:
    """Return whether each value [n] is among the few levels that its tag takes."""
    known: Bools = (values[:, None] == learnt[:, LEVELS]).any(axis=1)
    return known
