"""The window of a series and its features: the same code for training and for scoring.

The state of a series is a float64 row, so the states of a fleet are a matrix [k, STATE.width], a
checkpoint is `row.tobytes()` and a restart is exact to the bit. `push` moves any number of readings
of any number of series at once; training pushes a whole history into an empty state.

Every result is the same to the bit however readings are batched: reductions run along the last,
contiguous axis only, and BLAS is not used: its blocking depends on the number of rows.

Times are microseconds since the epoch, held in float64 (exact below 2**53).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.layout import Layout, LearntRows, StateRows
from insa_anomaly.core.scoring import daily, episodes
from insa_anomaly.core.units import FLAT_CAP, LONG, SHORT, Bools, Features, Floats, Ints

_STAMPS = SHORT + 1
_REMEMBERED = 16
STATE = Layout(
    {
        "values": LONG,
        "times": _STAMPS,
        "count": 1,  # readings in the window, at most LONG
        "flat": 1,  # readings since the value last changed, at most FLAT_CAP
        "seen": 1,  # readings that ever moved the window
        "first": 1,  # time of the first of them
        "since_due": 1,  # readings since a refit was last due
        "smoothed": 1,  # running mean of the forecast error, see `core.series.charts`; -1: none
        "episode": episodes.STATE,
        "held": 1,  # discriminators remembered of the newest time
        "slots": _REMEMBERED,  # their int64 bits
    }
)
VALUES, TIMES, EPISODE, SLOTS = map(STATE.part, ("values", "times", "episode", "slots"))
LAST = TIMES.stop - 1  # time of the newest reading, -inf before the first
COUNT, FLAT, SEEN, FIRST = map(STATE.column, ("count", "flat", "seen", "first"))
SINCE_DUE, SMOOTHED, HELD = map(STATE.column, ("since_due", "smoothed", "held"))

_SHAPES = ("value", "jump", "level", "trend", "spread", "flat_run")  # of the window
NAMES = (*_SHAPES, "time_of_day", "time_of_day_level")
WIDTH = len(NAMES)
BY_NAME = Layout(dict.fromkeys(NAMES, 1))

LEARNT = Layout(
    {
        "center": 1,
        "scale": 1,
        "means": BY_NAME,
        "spreads": BY_NAME,
        "flat_free": 1,  # repetitions in a row that are nothing special
        "flat_most": 1,  # a flat run counts up to this
        "daily": daily.PROFILE,
    }
)
MEANS, SPREADS, DAILY = map(LEARNT.part, ("means", "spreads", "daily"))
CENTER, SCALE = map(LEARNT.column, ("center", "scale"))
FLAT_FREE, FLAT_MOST = map(LEARNT.column, ("flat_free", "flat_most"))
_DAILY_BINS = LEARNT.column("daily.bins")

_Z_CAP = 1e3
_WINDOW_CAP = 6.0
SCALED_CAP = 30.0
# Apart enough that the run before a batch of a series never reaches into the series before it.
_LANE = 1024


class Arrival(IntEnum):
    """Effect of a reading on its window; `MOVES` alone changes it."""

    MOVES = 0
    LATE = 1  # older than the newest
    DUPLICATE = 2  # as old as the newest, and its discriminator was seen at that time


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """States after a batch of n readings, and the window of each, the reading itself included."""

    states: StateRows  # [s, STATE.width]
    arrivals: npt.NDArray[np.uint8]  # [n]
    moved: Bools  # [n] whether it moves
    windows: Floats  # [n, LONG]
    stamps: Floats  # [n, SHORT + 1]
    counts: Floats  # [n]
    flats: Floats  # [n]
    seen: Floats  # [n]


@dataclass(frozen=True)
class WindowView:
    """Full windows in units of the series' own robust scale, and the usual level at their times."""

    z: Floats  # [n, LONG], each within +-6, so that an outlier does not bend the whole window
    newest: Floats  # [n, 2] the last two, within +-1000
    profile: Floats  # [n, SHORT + 1], 0 where none was learnt
    flats: Floats  # [n]


class _Order(NamedTuple):
    """Place of each reading of a batch among the readings that move a window."""

    which: Ints  # [n] row of the states
    moved: Bools  # [n]
    ordinal: Ints  # [n] of the newest reading so far that moved, counted over all rows
    begin: Ints  # [s] ordinal of the first that moves a row
    end: Ints  # [s] ordinal after the last

    @classmethod
    def of(cls, which: Ints, moved: Bools, rows: int) -> "_Order":
        per_row = np.bincount(which[moved], minlength=rows)
        end = np.cumsum(per_row)
        return cls(which, moved, np.cumsum(moved) - 1, end - per_row, end)


def empty(k: int) -> StateRows:
    """Return states [k, STATE.width] of series without any reading."""
    states = np.zeros((k, STATE.width))
    states[:, TIMES] = -np.inf
    states[:, SMOOTHED] = -1.0
    return StateRows(states)


def push(
    states: StateRows,
    which: Ints,
    values: Floats,
    times: Floats,
    *,
    discriminators: Ints,
    gaps_us: Floats,
) -> Pushed:
    """Move the windows by n readings; `states` is not changed.

    `which` [n] is each reading's row of `states`, non-decreasing; readings of a row are in order of
    arrival. `gaps_us` [n]: a longer pause restarts the window. A reading that does not move is seen
    as if it came next.
    """
    arrivals, remembered = _arrivals(states, which, times, discriminators)
    order = _Order.of(which, arrivals == 0, len(states))
    windows, values_left = _windows(states[:, VALUES], values, order)
    stamps, times_left = _windows(states[:, TIMES], times, order)
    restarts = (times - stamps[:, -2] > gaps_us) | np.isneginf(stamps[:, -2])
    changes = restarts | (values != windows[:, -2])
    counts = np.minimum(_run(restarts, states[:, COUNT] - 1, order) + 1, LONG)
    flats = np.minimum(_run(changes, states[:, FLAT], order), FLAT_CAP)
    after = states.copy()
    after[:, VALUES], after[:, TIMES] = values_left, times_left
    touched, moving = np.flatnonzero(order.end > order.begin), np.flatnonzero(order.moved)
    newest, oldest = moving[order.end[touched] - 1], moving[order.begin[touched]]
    after[touched, COUNT], after[touched, FLAT] = counts[newest], flats[newest]
    added = (order.end - order.begin)[touched]
    after[touched, SEEN] += added
    after[touched, SINCE_DUE] += added
    begun = states[touched, SEEN] > 0
    after[touched, FIRST] = np.where(begun, states[touched, FIRST], times[oldest])
    _remember(after, touched, discriminators[newest], remembered)
    return Pushed(
        states=StateRows(after),
        arrivals=arrivals,
        moved=order.moved,
        windows=windows,
        stamps=stamps,
        counts=counts,
        flats=flats,
        seen=states[which, SEEN] + (order.ordinal - order.begin[which] + 1),
    )


def foreseen(state: StateRows, values: Floats, times: Floats) -> Pushed:
    """Return full windows as values [n] at times [n] would see them as the next reading.

    The windows follow `state` [STATE.width] and are the same as by `push`; the states returned are
    the unchanged ones. No time is past a pause that restarts the window.
    """
    n = len(values)
    windows, stamps = np.empty((n, LONG)), np.empty((n, _STAMPS))
    windows[:, :-1], windows[:, -1] = state[VALUES][1:], values
    stamps[:, :-1], stamps[:, -1] = state[TIMES][1:], times
    return Pushed(
        states=StateRows(np.repeat(state[None], n, axis=0)),
        arrivals=np.zeros(n, np.uint8),
        moved=np.ones(n, np.bool_),
        windows=windows,
        stamps=stamps,
        counts=np.full(n, float(LONG)),
        flats=np.where(values == windows[:, -2], np.minimum(state[FLAT] + 1, FLAT_CAP), 0.0),
        seen=np.full(n, state[SEEN] + 1),
    )


def _arrivals(
    states: StateRows, which: Ints, times: Floats, discriminators: Ints
) -> tuple[npt.NDArray[np.uint8], dict[int, list[int]]]:
    """Return the arrivals, and the discriminators of rows whose readings tie or come late."""
    arrivals = np.zeros(len(times), np.uint8)
    head = np.ones(len(times), np.bool_)
    head[1:] = which[1:] != which[:-1]
    before = np.empty(len(times))
    before[1:] = times[:-1]
    before[head] = states[which[head], LAST]
    orderly = times > before
    if orderly.all():
        return arrivals, {}
    at = np.flatnonzero(np.isin(which, np.unique(which[~orderly])))
    columns = which[at].tolist(), times[at].tolist(), discriminators[at].tolist()
    arrivals[at], remembered = _walked(states, zip(*columns, strict=True))
    return arrivals, remembered


def _walked(
    states: StateRows, readings: Iterable[tuple[int, float, int]]
) -> tuple[list[Arrival], dict[int, list[int]]]:
    """Return the same for the readings (row, time, discriminator) of such rows, in turn."""
    newest: dict[int, float] = {}
    remembered: dict[int, list[int]] = {}
    arrivals = []
    for row, time, discriminator in readings:
        if row not in newest:
            newest[row] = float(states[row, LAST])
            remembered[row] = states[row, SLOTS].view(np.int64)[: int(states[row, HELD])].tolist()
        arrival = Arrival.MOVES
        if time > newest[row]:
            newest[row], remembered[row] = time, [discriminator]
        elif time < newest[row]:
            arrival = Arrival.LATE
        elif discriminator in remembered[row]:
            arrival = Arrival.DUPLICATE
        elif len(remembered[row]) < _REMEMBERED:
            remembered[row].append(discriminator)
        arrivals.append(arrival)
    return arrivals, remembered


def _remember(states: Floats, rows: Ints, newest: Ints, remembered: dict[int, list[int]]) -> None:
    """Write the discriminators of the newest time: the last alone where `remembered` has none."""
    slots = states[:, SLOTS].view(np.int64)
    slots[rows] = 0
    slots[rows, 0] = newest
    states[rows, HELD] = 1
    for row, held in remembered.items():
        slots[row] = 0
        slots[row, : len(held)] = held
        states[row, HELD] = len(held)


def _windows(before: Floats, new: Floats, order: _Order) -> tuple[Floats, Floats]:
    """Return the window [n, w] that ends with each reading, and the last [s, w] of each row."""
    rows, width = before.shape
    pool = np.empty(rows * width + int(order.moved.sum()))
    last = order.ordinal + width * (order.which + 1)
    fresh = np.zeros(len(pool), np.bool_)
    fresh[last[order.moved]] = True
    pool[fresh], pool[~fresh] = new[order.moved], before.ravel()
    shape = max(len(pool) - width + 1, 0), width
    views = np.ndarray(shape, pool.dtype, pool, strides=2 * pool.strides)
    seen = views[last - width + 1]
    if not order.moved.all():
        still = np.flatnonzero(~order.moved)
        seen[still, :-1] = seen[still, 1:]
        seen[still, -1] = new[still]
    return seen, views[np.arange(rows) * width + order.end]


def _run(marks: Bools, before: Floats, order: _Order) -> Floats:
    """Return the readings since the newest mark of the same row.

    `before` [s] is that number at the row's newest earlier reading.
    """
    which, moved, ordinal, begin, _ = order
    lane = begin + _LANE * np.arange(len(begin))
    at, row = (ordinal + _LANE * which)[moved], which[moved]
    newest = np.where(marks[moved], at, (lane - 1 - before)[row])
    run: Floats = np.subtract(at, np.maximum.accumulate(newest))
    if len(run) == len(which):
        return run
    out = np.empty(len(which))
    out[moved] = run
    still = np.flatnonzero(~moved)
    fresh = ordinal[still] >= begin[which[still]]
    previous = before[which[still]]
    previous[fresh] = run[ordinal[still][fresh]]
    out[still] = np.where(marks[still], 0, previous + 1)
    return out


def look(windows: Floats, stamps: Floats, flats: Floats, learnt: LearntRows) -> WindowView:
    """Return full windows [n, LONG] in the units of the model.

    `learnt` [n, LEARNT.width], of which MEANS and SPREADS are not read.
    """
    with np.errstate(over="ignore"):  # a value near the largest float is merely the strangest
        z = windows - learnt[:, CENTER, None]
        z /= learnt[:, SCALE, None]
    newest = np.clip(z[:, -2:], -_Z_CAP, _Z_CAP)
    np.clip(z, -_WINDOW_CAP, _WINDOW_CAP, out=z)
    return WindowView(z, newest, daily.profile(stamps, learnt[:, DAILY]), flats)


def unscaled(look: WindowView, learnt: LearntRows) -> Floats:
    """Return features [n, WIDTH] before scaling; `learnt` as for `look`."""
    short = look.z[:, -SHORT:].copy()  # contiguous, and ours to change
    level = short.sum(axis=1) / SHORT
    deviation = short - level[:, None]
    deviation *= deviation
    out = np.empty((len(short), WIDTH))
    out[:, 0] = look.newest[:, 1]
    out[:, 1] = look.newest[:, 1] - look.newest[:, 0]
    out[:, 2] = level
    out[:, 3] = level - look.z.sum(axis=1) / LONG
    out[:, 4] = np.log(np.sqrt(deviation.sum(axis=1) / (SHORT - 1)) + 0.05)
    run = np.minimum(look.flats, learnt[:, FLAT_MOST]) - learnt[:, FLAT_FREE]
    out[:, 5] = np.log1p(np.maximum(run, 0.0))
    short -= look.profile[:, 1:]
    out[:, 6] = look.newest[:, 1] - look.profile[:, -1]
    out[:, 7] = short.sum(axis=1) / SHORT
    out[learnt[:, _DAILY_BINS] == 0, 6:] = 0.0
    return out


def scaled(raw: Floats, learnt: LearntRows) -> Features:
    """Return features [n, WIDTH] of `unscaled` within +-30, as the forest takes them."""
    out = raw - learnt[:, MEANS]
    out /= learnt[:, SPREADS]
    return np.clip(out, -SCALED_CAP, SCALED_CAP, out=out).astype(np.float32)


def expected(look: WindowView, learnt: LearntRows) -> Floats:
    """Return the expected value [n]: the recent mean, carried along the daily profile if any."""
    residuals = look.z[:, -SHORT - 1 : -1] - look.profile[:, :-1]
    usual = residuals.sum(axis=1) / SHORT + look.profile[:, -1]
    value: Floats = learnt[:, CENTER] + learnt[:, SCALE] * usual
    return value
