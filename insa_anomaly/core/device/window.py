"""The rolling state of a device: its newest rows, and the means that run along with them.

A row is a reading of every metric at a time, NaN where a metric has none. The state is a float64
row whose width depends on the number of metrics, so a checkpoint is `state.tobytes()` and a restart
is exact to the bit. It holds values as they came, not as a model sees them: another model continues
from the same state. A missing reading is held at the metric's last value, so that windows stay
whole, and takes no part itself. A metric that was missing for more than `ABSENT_MOST` rows takes
part again once it has filled a window anew. Times are microseconds since the epoch.
"""

from dataclasses import dataclass

import numpy as np

from insa_anomaly.core.units import FLAT_CAP, LONG, Bools, Floats, Ints

ABSENT_MOST = 10  # rows in a row without a reading that a metric may miss without starting anew

# The columns of a state that every device has.
REMEMBERED = 16
TIMES = slice(0, LONG)
LAST = TIMES.stop - 1  # time of the newest row, -inf before the first
COUNT = TIMES.stop  # rows in the window, at most LONG
SEEN = COUNT + 1  # rows that ever moved the window
FIRST = SEEN + 1  # time of the first of them
SINCE_DUE = FIRST + 1  # rows since a refit was last due
TAG = SINCE_DUE + 1  # of the model that the running means belong to
EPISODE = slice(TAG + 1, TAG + 6)  # the open episode; `core.scoring.episodes` owns its meaning
HELD = EPISODE.stop  # discriminators remembered of the time LAST
SLOTS = slice(HELD + 1, HELD + 1 + REMEMBERED)  # their int64 bits
CHARTS = slice(SLOTS.stop, SLOTS.stop + 2)  # running means of the charts
COMBINED = CHARTS.stop  # running mean of what the members say together
_FIXED = COMBINED + 1

# The blocks of one number a metric, after the values [LONG, d].
FRESH, ABSENT, FLAT, RESIDUAL, ENERGY, LEVEL = range(6)
_BLOCKS = 6
MEANS = (RESIDUAL, ENERGY, LEVEL)  # the running means of a model, one after another


@dataclass(frozen=True)
class Rows:
    """Rows [n] as the window sees them, with the window before them in front."""

    times: Floats  # [LONG + n]
    values: Floats  # [LONG + n, d], held where missing; NaN: none since the window began
    observed: Bools  # [n, d]
    fresh: Floats  # [n, d] rows since the metric came (back), at most LONG
    flats: Floats  # [n, d] readings since the value last changed, at most FLAT_CAP
    counts: Floats  # [n] rows in the window, at most LONG

    @property
    def used(self) -> Bools:
        """Metrics that take part [n, d]: read now, with as full a window as the device's."""
        return self.observed & (self.fresh >= self.counts[:, None])


@dataclass(frozen=True)
class EachRow:
    """A row of each of k devices, with its window in front; every metric takes part."""

    times: Floats  # [k, LONG + 1]
    values: Floats  # [k, LONG + 1, d]
    flats: Floats  # [k, d]


def width(metrics: int) -> int:
    """Return the number of columns of the state of a device with that many metrics."""
    return _FIXED + (LONG + _BLOCKS) * metrics


def empty(metrics: int) -> Floats:
    """Return the state [width] of a device without rows."""
    state = np.zeros(width(metrics))
    state[TIMES] = -np.inf
    return state


def history(state: Floats) -> Floats:
    """Return the values in the window [LONG, d], newest last, or of k states: a view."""
    metrics = (state.shape[-1] - _FIXED) // (LONG + _BLOCKS)
    return state[..., _FIXED : _FIXED + LONG * metrics].reshape(*state.shape[:-1], LONG, metrics)


def block(state: Floats, which: int) -> Floats:
    """Return a block of a number a metric [d], or of k states [k, d]: a view."""
    return _blocks(state, which, which + 1)


def means(state: Floats) -> Floats:
    """Return the running means of a model [3 d], or of k states [k, 3 d]: a view."""
    return _blocks(state, MEANS[0], MEANS[-1] + 1)


def _blocks(state: Floats, begin: int, end: int) -> Floats:
    metrics = (state.shape[-1] - _FIXED) // (LONG + _BLOCKS)
    return state[..., _FIXED + (LONG + begin) * metrics : _FIXED + (LONG + end) * metrics]


def push(state: Floats, times: Floats, values: Floats) -> tuple[Floats, Rows]:
    """Move the window by n >= 1 rows in strict order of time; return the new state and the rows.

    times [n], values [n, d]. The running means and the remembered discriminators stay. An empty
    window begins with the first row, as if it had always been so before.
    """
    after = _begun(state, times[0], values[0]) if state[COUNT] == 0 else state.copy()
    n, observed = len(values), np.isfinite(values)
    number = np.arange(1.0, n + 1)[:, None]
    filled = _held(history(after)[-1], values, observed)
    newest = _latest(observed, number, -block(after, ABSENT))
    before = np.concatenate((-block(after, ABSENT)[None], newest[:-1]))
    returns = observed & (number - before - 1 > ABSENT_MOST)
    fresh = np.minimum(number - _latest(returns, number - 1, -block(after, FRESH)), LONG)
    changes = returns | (observed & (filled != np.concatenate((history(after)[-1:], filled[:-1]))))
    readings = np.cumsum(observed, axis=0, dtype=np.float64)
    flats = np.minimum(readings - _latest(changes, readings, -block(after, FLAT)), FLAT_CAP)
    counts = np.minimum(after[COUNT] + number[:, 0], LONG)
    values, times = np.concatenate((history(after), filled)), np.concatenate((after[TIMES], times))
    history(after)[:], after[TIMES], after[COUNT] = values[-LONG:], times[-LONG:], counts[-1]
    block(after, FRESH)[:], block(after, FLAT)[:] = fresh[-1], flats[-1]
    block(after, ABSENT)[:] = np.minimum(n - newest[-1], ABSENT_MOST + 1)
    return after, Rows(times, values, observed, fresh, flats, counts=counts)


def goes_on(states: Floats, times: Floats, values: Floats, gaps: Floats) -> Bools:
    """Return which of k devices continue a full window with their row, as `push_each` does.

    states [k, width], times [k], values [k, d], gaps [k]: a longer pause restarts the window. Every
    metric has a reading, and a window as full as the device's.
    """
    pause, read = times - states[:, LAST], np.isfinite(values).all(axis=1)
    on_time = (pause > 0) & (pause <= gaps) & (states[:, COUNT] == LONG) & read
    steady: Bools = (block(states, FRESH) == LONG) & (block(states, ABSENT) <= ABSENT_MOST)
    return np.asarray(on_time & steady.all(axis=1))


def push_each(states: Floats, times: Floats, values: Floats) -> tuple[Floats, EachRow]:
    """Move k windows by a row each, where `goes_on`; equal to `push` and `remember` of each."""
    after, (k, metrics) = states.copy(), values.shape
    whole, stamps = np.empty((k, LONG + 1, metrics)), np.empty((k, LONG + 1))
    whole[:, :LONG], whole[:, LONG] = history(states), values
    stamps[:, :LONG], stamps[:, LONG] = states[:, TIMES], times
    history(after)[:], after[:, TIMES] = whole[:, 1:], stamps[:, 1:]
    run = np.minimum(block(states, FLAT) + 1, FLAT_CAP)
    flats = np.where(values == whole[:, LONG - 1], run, 0.0)
    block(after, FLAT)[:], block(after, ABSENT)[:] = flats, 0.0
    after[:, SLOTS], after[:, HELD] = 0.0, 1
    after[:, SLOTS].view(np.int64)[:, 0] = discriminators(values)
    return after, EachRow(stamps, whole, flats)


def _begun(state: Floats, time: float, row: Floats) -> Floats:
    after = state.copy()
    after[TIMES], after[CHARTS], after[COMBINED] = time, 0.0, 0.0
    history(after)[:] = row
    for which in range(_BLOCKS):
        block(after, which)[:] = ABSENT_MOST + 1 if which == ABSENT else 0.0
    return after


def _held(last: Floats, values: Floats, observed: Bools) -> Floats:
    """Return values [n, d] with missing values taken from the row before."""
    own = np.where(observed, np.arange(1, len(values) + 1)[:, None], 0)
    at = np.maximum.accumulate(own, axis=0)
    return np.concatenate((last[None], values))[at, np.arange(values.shape[1])]


def _latest(marks: Bools, numbers: Floats, before: Floats) -> Floats:
    """Return the number [n, d] at the newest mark, else `before` [d]; numbers ascend."""
    return np.maximum.accumulate(np.where(marks, numbers, before), axis=0)


def discriminators(values: Floats) -> Ints:
    """Return discriminators [n] of rows of the same time: a hash of the values [n, d]."""
    bits = np.ascontiguousarray(values + 0.0).view(np.uint64)
    number = np.arange(1, values.shape[1] + 1, dtype=np.uint64)
    odd = number * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
    mixed = (bits ^ (bits >> np.uint64(29))) * odd
    hashes: Ints = np.bitwise_xor.reduce(mixed, axis=1).view(np.int64)
    return hashes


def remember(state: Floats, held: list[int]) -> None:
    """Remember the discriminators of the newest time."""
    slots = state[SLOTS].view(np.int64)
    slots[:] = 0
    slots[: len(held)] = held
    state[HELD] = len(held)


def remembered(state: Floats) -> list[int]:
    """Return the discriminators of the newest time."""
    held: list[int] = state[SLOTS].view(np.int64)[: int(state[HELD])].tolist()
    return held


def rearranged(state: Floats, before: tuple[str, ...], after: tuple[str, ...]) -> Floats:
    """Return the state for other metrics: those that remain keep their readings."""
    out = empty(len(after))
    out[:_FIXED] = state[:_FIXED]
    out[TAG] = 0.0
    history(out)[:] = np.nan
    block(out, ABSENT)[:] = ABSENT_MOST + 1
    at = [place for place, metric in enumerate(after) if metric in before]
    was = [before.index(after[place]) for place in at]
    history(out)[:, at] = history(state)[:, was]
    for which in range(_BLOCKS):
        block(out, which)[at] = block(state, which)[was]
    return out
