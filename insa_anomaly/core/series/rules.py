"""What needs no statistics: values beyond all that was ever seen, and the ways a sensor fails that have a name.

A rule that speaks makes a reading as surprising as p = 1e-8; one that only names gives an alarm of the charts its name. And one
rule speaks for the reading: a tag that knows a few levels, a switch or a setpoint, is at one of them.
"""

from enum import IntFlag

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.series.features import FLAT_FREE, Pushed
from insa_anomaly.core.units import DAY, FLAT_CAP, Bools, Floats, Ints

SURPRISE = 8.0  # -log10 p
RELIEF = 3.0  # decades that a known level is less surprising than the charts say
EXTREME_SHARE = (
    0.05  # of the range ever learnt, once that is a day's; of half a day's twice as much, and so on
)

# The columns of what was learnt for the rules of one series.
LOW, HIGH = 0, 1  # of all values that were given to training
FROM, THROUGH = 2, 3  # time of the first and the last of them, microseconds
STUCK_AFTER = 4  # repetitions in a row that are more than the sensor ever does by itself; inf: repeating is its nature
DROPS = 5  # 1: zero lies outside what it ever says
RATE = 6  # largest jump from one reading to the next that is possible
LEVELS_MOST = 8
LEVELS = slice(
    7, 7 + LEVELS_MOST
)  # the few values it takes, NaN where there are fewer or it is not of that kind
CONSTANT = LEVELS.stop  # 1: it never took but one
NUMBERS_WIDTH = CONSTANT + 1

_LEVEL_SHARE = 0.002
_LEVELS_COVER = 0.99
_FEWEST_OF_A_LEVEL = 5
_REPEATING = 0.5
_STUCK_LEAST, _STUCK_FACTOR = 30, 4
_USUAL_RUN = 0.999
_RATE_FACTOR = 3.0
_SATURATED_AFTER = 5


class Rule(IntFlag):
    """What a rule saw in a reading."""

    NEW_EXTREME = 1
    MOVED = 2  # a constant that is another value now
    STUCK = 4
    DROPOUT = 8
    SATURATED = 16
    IMPOSSIBLE_RATE = 32


SPEAK = Rule.NEW_EXTREME | Rule.MOVED | Rule.STUCK | Rule.DROPOUT

Rules = npt.NDArray[np.uint8]


def learn(values: Floats, flats: Floats, ever: Floats) -> Floats:
    """From ordinary readings in time order: values [n], repetitions before each [n].

    `ever` [THROUGH + 1] are LOW to THROUGH of all readings that there ever were.
    """
    numbers = np.empty(NUMBERS_WIDTH)
    numbers[: THROUGH + 1] = ever
    repeating = float((flats > 0).mean())
    stuck_after = max(_STUCK_LEAST, _STUCK_FACTOR * usual_run(flats))
    numbers[STUCK_AFTER] = (
        stuck_after if repeating < _REPEATING and stuck_after < FLAT_CAP else np.inf
    )
    low, high = np.quantile(values, [1 - _USUAL_RUN, _USUAL_RUN]).tolist()
    numbers[DROPS] = not low <= 0 <= high
    with np.errstate(over="ignore"):
        numbers[RATE] = _RATE_FACTOR * float(np.abs(np.diff(values)).max(initial=0.0))
    numbers[CONSTANT] = values.min() == values.max()
    levels, counts = np.unique(values, return_counts=True)
    levels = levels[counts >= max(_FEWEST_OF_A_LEVEL, _LEVEL_SHARE * len(values))]
    known = len(levels) <= LEVELS_MOST and np.isin(values, levels).mean() >= _LEVELS_COVER
    numbers[LEVELS] = np.nan
    if known:
        numbers[LEVELS.start : LEVELS.start + len(levels)] = levels
    return numbers


def usual_run(flats: Floats) -> float:
    """Repetitions in a row that one reading in a thousand exceeds."""
    return float(np.quantile(flats, _USUAL_RUN, method="lower"))


def seen(pushed: Pushed, ready: Ints, times: Floats, scaling: Floats, numbers: Floats) -> Rules:
    """What the rules see in the readings `ready` [k] of a batch.

    times [k], scaling [k, features.NUMBERS_WIDTH], numbers [k, NUMBERS_WIDTH].
    """
    value, before, flats = pushed.windows[ready, -1], pushed.windows[ready, -2], pushed.flats[ready]
    low, high = numbers[:, LOW], numbers[:, HIGH]
    with np.errstate(over="ignore", invalid="ignore"):
        share = (
            EXTREME_SHARE
            * DAY
            / np.clip(np.maximum(times, numbers[:, THROUGH]) - numbers[:, FROM], 1.0, DAY)
        )
        beyond = np.maximum(value - high, low - value) > share * (high - low)
        too_fast = np.abs(value - before) > numbers[:, RATE]
    long_flat = flats >= np.maximum(_SATURATED_AFTER, scaling[:, FLAT_FREE])
    in_order_of_their_bits = (
        beyond,
        (value != numbers[:, LEVELS.start]) & (numbers[:, CONSTANT] > 0),  # moved
        flats >= numbers[:, STUCK_AFTER],
        (value == 0) & (numbers[:, DROPS] > 0),  # dropout
        long_flat & ((value == high) | (value == low)),  # saturated
        too_fast,
    )
    rules: Rules = np.packbits(in_order_of_their_bits, axis=0, bitorder="little")[0]
    return rules


def at_known_level(values: Floats, numbers: Floats) -> Bools:
    """Whether each value [n] is one of the few that its tag takes."""
    known: Bools = (values[:, None] == numbers[:, LEVELS]).any(axis=1)
    return known
