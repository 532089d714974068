"""The window of a series and what the model looks at in it: one code for training and for scoring.

The state of a series is one float64 row, so the states of a fleet are a matrix [k, STATE_WIDTH], a checkpoint is
`row.tobytes()` and a restart is exact to the bit. `push` moves any number of readings of any number of series at once;
training pushes a whole history into an empty state.

Every result is the same to the bit however readings are batched: reductions run along the last, contiguous axis only, and
nothing goes through BLAS, whose blocking depends on the number of rows.

Times are microseconds since the epoch, held in float64 (exact below 2**53).
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.scoring import daily
from insa_anomaly.core.units import FLAT_CAP, LONG, SHORT, Bools, Features, Floats, Ints

# The columns of a state.
_STAMPS = SHORT + 1
_REMEMBERED = 16
VALUES = slice(0, LONG)
TIMES = slice(VALUES.stop, VALUES.stop + _STAMPS)
LAST = TIMES.stop - 1  # time of the newest reading, -inf before the first
COUNT = TIMES.stop  # readings in the window, at most LONG
FLAT = COUNT + 1  # readings since the value last changed, at most FLAT_CAP
SEEN = FLAT + 1  # readings that ever moved the window
FIRST = SEEN + 1  # time of the first of them
SINCE_DUE = FIRST + 1  # readings since a refit was last due
SMOOTHED = (
    SINCE_DUE + 1
)  # a running mean of the forecast's error; `core.series.charts` owns its meaning, negative where there is none
EPISODE = slice(
    SMOOTHED + 1, SMOOTHED + 6
)  # the open episode; `core.scoring.episodes` owns its meaning
HELD = EPISODE.stop  # discriminators remembered of the time LAST
SLOTS = slice(HELD + 1, HELD + 1 + _REMEMBERED)  # their int64 bits
STATE_WIDTH = SLOTS.stop

NAMES = (
    "value",
    "jump",
    "level",
    "trend",
    "spread",
    "flat_run",
    "time_of_day",
    "time_of_day_level",
)
WIDTH = len(NAMES)

# The columns of what was learnt about the features of one series.
CENTER, SCALE = 0, 1
MEANS = slice(2, 2 + WIDTH)
SPREADS = slice(MEANS.stop, MEANS.stop + WIDTH)
FLAT_FREE = SPREADS.stop  # so many repetitions in a row are nothing special
FLAT_MOST = FLAT_FREE + 1  # a flat run counts up to this
DAILY = slice(FLAT_MOST + 1, FLAT_MOST + 1 + daily.WIDTH)
NUMBERS_WIDTH = DAILY.stop

_Z_CAP = 1e3
_WINDOW_CAP = 6.0
SCALED_CAP = 30.0
_LANE = 1024  # apart enough that the run before a batch of one series never reaches into the series before it


class Arrival(IntEnum):
    """What a reading is to its window."""

    MOVES = 0  # the rest does not
    LATE = 1  # older than the newest
    DUPLICATE = 2  # as old as the newest, and its discriminator was seen at that time


@dataclass(frozen=True)
class Pushed:
    """The states after a batch of n readings, and the windows as each reading saw them (itself the newest value)."""

    states: Floats  # [s, STATE_WIDTH]
    arrivals: npt.NDArray[np.uint8]  # [n]
    moved: Bools  # [n] whether it moves
    windows: Floats  # [n, LONG]
    stamps: Floats  # [n, SHORT + 1]
    counts: Floats  # [n]
    flats: Floats  # [n]
    seen: Floats  # [n]


@dataclass(frozen=True)
class WindowView:
    """Full windows as a model sees them: in units of the series' own robust scale, with what is usual at the time of day."""

    z: Floats  # [n, LONG], each within +-6, so that one reading far out does not bend the window for as long as it is in there
    newest: Floats  # [n, 2] the last two, within +-1000
    profile: Floats  # [n, SHORT + 1], 0 where none was learnt
    flats: Floats  # [n]


def empty(k: int) -> Floats:
    """States [k, STATE_WIDTH] of series that have seen nothing."""
    states = np.zeros((k, STATE_WIDTH))
    states[:, TIMES] = -np.inf
    states[:, SMOOTHED] = -1.0
    return states


def moves(states: Floats, times: Floats, discriminators: Ints) -> Bools:
    """Per row: is this reading newer than the window, or as new and not seen at that time? [k] -> bool [k]."""
    newest = states[:, LAST]
    known = np.arange(_REMEMBERED) < states[:, HELD, None]
    seen = ((states[:, SLOTS].view(np.int64) == discriminators[:, None]) & known).any(axis=1)
    fresh: Bools = (times > newest) | ((times == newest) & ~seen)
    return fresh


def push(
    states: Floats, which: Ints, values: Floats, times: Floats, discriminators: Ints, gaps: Floats
) -> Pushed:
    """Move the windows by n readings.

    `which` [n] is each reading's row of `states`, non-decreasing; readings of one row are in order of arrival. `gaps` [n]: a pause
    longer than this (microseconds) restarts the window. A reading that does not move is seen as if it came next. `states` is not changed.
    """
    rows = len(states)
    arrivals, remembered = _arrivals(states, which, times, discriminators)
    moved = arrivals == 0
    ordinal = np.cumsum(moved) - 1  # of the newest reading that moved, counted over all rows
    pushed = which[moved]
    per_row = np.bincount(pushed, minlength=rows)
    begin = np.cumsum(per_row) - per_row
    values_seen, values_left = _windows(
        states[:, VALUES], which, values, moved, ordinal, begin + per_row
    )
    times_seen, times_left = _windows(
        states[:, TIMES], which, times, moved, ordinal, begin + per_row
    )

    restarts = (times - times_seen[:, -2] > gaps) | np.isneginf(times_seen[:, -2])
    changes = restarts | (values != values_seen[:, -2])
    counts = np.minimum(
        _run(restarts, states[:, COUNT] - 1, which, moved, ordinal, begin) + 1, LONG
    )
    flats = np.minimum(_run(changes, states[:, FLAT], which, moved, ordinal, begin), FLAT_CAP)
    seen = states[which, SEEN] + (ordinal - begin[which] + 1)

    after = states.copy()
    after[:, VALUES], after[:, TIMES] = values_left, times_left
    touched = np.flatnonzero(per_row)
    newest = np.flatnonzero(moved)[(begin + per_row - 1)[touched]]
    after[touched, COUNT], after[touched, FLAT] = counts[newest], flats[newest]
    after[touched, SEEN] += per_row[touched]
    after[touched, SINCE_DUE] += per_row[touched]
    oldest = np.flatnonzero(moved)[begin[touched]]
    after[touched, FIRST] = np.where(
        states[touched, SEEN] > 0, states[touched, FIRST], times[oldest]
    )
    _remember(after, touched, discriminators[newest], remembered)
    return Pushed(after, arrivals, moved, values_seen, times_seen, counts, flats, seen)


def foreseen(state: Floats, values: Floats, times: Floats) -> Pushed:
    """Full windows as each of these values [n], at these times [n], would see them as the next reading after `state` [STATE_WIDTH].

    As `push` gives them, but that the states are what they were before. No time is past a pause that restarts the window.
    """
    n = len(values)
    windows, stamps = np.empty((n, LONG)), np.empty((n, _STAMPS))
    windows[:, :-1], windows[:, -1] = state[VALUES][1:], values
    stamps[:, :-1], stamps[:, -1] = state[TIMES][1:], times
    flats = np.where(values == windows[:, -2], np.minimum(state[FLAT] + 1, FLAT_CAP), 0.0)
    counts, seen = np.full(n, float(LONG)), np.full(n, state[SEEN] + 1)
    arrivals, moved = np.zeros(n, np.uint8), np.ones(n, np.bool_)
    return Pushed(
        np.repeat(state[None], n, axis=0), arrivals, moved, windows, stamps, counts, flats, seen
    )


def _arrivals(
    states: Floats, which: Ints, times: Floats, discriminators: Ints
) -> tuple[npt.NDArray[np.uint8], dict[int, list[int]]]:
    """Arrival of every reading, and the discriminators remembered by the rows whose readings are not in strict order."""
    arrivals = np.zeros(len(times), np.uint8)
    head = np.ones(len(times), np.bool_)
    head[1:] = which[1:] != which[:-1]
    before = np.empty(len(times))
    before[1:] = times[:-1]
    before[head] = states[which[head], LAST]
    orderly = times > before
    if orderly.all():
        return arrivals, {}
    remembered: dict[int, list[int]] = {}
    affected = np.isin(which, np.unique(which[~orderly]))
    _walk(states, np.flatnonzero(affected), which, times, discriminators, arrivals, remembered)
    return arrivals, remembered


def _walk(
    states: Floats,
    at: Ints,
    which: Ints,
    times: Floats,
    discriminators: Ints,
    arrivals: npt.NDArray[np.uint8],
    remembered: dict[int, list[int]],
) -> None:
    """Fill `arrivals` and `remembered` one reading after another: the rare way, for readings that tie or come late."""
    newest: dict[int, float] = {}
    for i, row, time, discriminator in zip(
        at.tolist(),
        which[at].tolist(),
        times[at].tolist(),
        discriminators[at].tolist(),
        strict=True,
    ):
        if row not in newest:
            newest[row] = float(states[row, LAST])
            remembered[row] = states[row, SLOTS].view(np.int64)[: int(states[row, HELD])].tolist()
        if time > newest[row]:
            newest[row], remembered[row] = time, [discriminator]
        elif time < newest[row]:
            arrivals[i] = Arrival.LATE
        elif discriminator in remembered[row]:
            arrivals[i] = Arrival.DUPLICATE
        elif len(remembered[row]) < _REMEMBERED:
            remembered[row].append(discriminator)


def _remember(
    states: Floats, touched: Ints, newest: Ints, remembered: dict[int, list[int]]
) -> None:
    """Write the discriminators of the newest time: the last one alone, where a row's readings came in strict order."""
    slots = states[:, SLOTS].view(np.int64)
    slots[touched] = 0
    slots[touched, 0] = newest
    states[touched, HELD] = 1
    for row, held in remembered.items():
        slots[row] = 0
        slots[row, : len(held)] = held
        states[row, HELD] = len(held)


def _windows(
    before: Floats, which: Ints, new: Floats, moved: Bools, ordinal: Ints, end: Ints
) -> tuple[Floats, Floats]:
    """Per reading the window [n, w] that ends with it, and per row the window [s, w] that is left."""
    rows, width = before.shape
    pool = np.empty(rows * width + int(moved.sum()))
    last = ordinal + width * (which + 1)
    fresh = np.zeros(len(pool), np.bool_)
    fresh[last[moved]] = True
    pool[fresh], pool[~fresh] = new[moved], before.ravel()
    views = np.ndarray(
        (max(len(pool) - width + 1, 0), width), pool.dtype, pool, 0, 2 * pool.strides
    )
    seen = views[last - width + 1]
    if not moved.all():
        still = np.flatnonzero(~moved)
        seen[still, :-1] = seen[still, 1:]
        seen[still, -1] = new[still]
    return seen, views[np.arange(rows) * width + end]


def _run(
    marks: Bools, before: Floats, which: Ints, moved: Bools, ordinal: Ints, begin: Ints
) -> Floats:
    """Readings since the newest mark of the same row; `before` [s] is that number at the row's newest earlier reading."""
    lane = begin + _LANE * np.arange(len(begin))
    at = (ordinal + _LANE * which)[moved]
    row = which[moved]
    marked = (
        np.maximum.accumulate(np.where(marks[moved], at, (lane - 1 - before)[row]))
        if len(at)
        else np.zeros(0)
    )
    run = at - marked
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


def look(windows: Floats, stamps: Floats, flats: Floats, numbers: Floats) -> WindowView:
    """Full windows [n, LONG] in the units of the model; `numbers` [n, NUMBERS_WIDTH], of which MEANS and SPREADS are not read."""
    with np.errstate(
        over="ignore"
    ):  # a value near the largest float is merely as strange as can be
        z = windows - numbers[:, CENTER, None]
        z /= numbers[:, SCALE, None]
    newest = np.clip(z[:, -2:], -_Z_CAP, _Z_CAP)
    return WindowView(
        np.clip(z, -_WINDOW_CAP, _WINDOW_CAP, out=z),
        newest,
        daily.profile(stamps, numbers[:, DAILY]),
        flats,
    )


def unscaled(look: WindowView, numbers: Floats) -> Floats:
    """Features [n, WIDTH] before scaling; `numbers` as for `look`."""
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
    out[:, 5] = np.log1p(
        np.maximum(np.minimum(look.flats, numbers[:, FLAT_MOST]) - numbers[:, FLAT_FREE], 0.0)
    )
    residuals = short
    residuals -= look.profile[:, 1:]
    out[:, 6] = look.newest[:, 1] - look.profile[:, -1]
    out[:, 7] = residuals.sum(axis=1) / SHORT
    out[numbers[:, DAILY.start + daily.BINS] == 0, 6:] = 0.0
    return out


def scaled(raw: Floats, numbers: Floats) -> Features:
    """Features [n, WIDTH] as `unscaled` gives them -> within +-30, as the forest takes them."""
    out = raw - numbers[:, MEANS]
    out /= numbers[:, SPREADS]
    return np.clip(out, -SCALED_CAP, SCALED_CAP, out=out).astype(np.float32)


def features(look: WindowView, numbers: Floats) -> Features:
    """Scaled features [n, WIDTH]."""
    return scaled(unscaled(look, numbers), numbers)


def expected(look: WindowView, numbers: Floats) -> Floats:
    """The value that was to be expected [n]: the recent mean, carried along the daily profile where there is one."""
    residuals = look.z[:, -SHORT - 1 : -1] - look.profile[:, :-1]
    value: Floats = numbers[:, CENTER] + numbers[:, SCALE] * (
        residuals.sum(axis=1) / SHORT + look.profile[:, -1]
    )
    return value
