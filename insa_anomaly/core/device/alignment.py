"""Alignment of a device's readings into rows: readings within a tolerance belong together.

A row begins with a reading and takes the next reading of every other metric, until it is complete
or a reading has no place in it: later than the tolerance allows, or of a metric that the row has
already. Its time is that of its first reading, and never before that of the row before. A reading
not newer than the last of its metric changes no row. The state is a float64 row, so a checkpoint is
`state.tobytes()`; readings may come in any pieces.
"""

from dataclasses import dataclass

import numpy as np

from insa_anomaly.core.units import Bools, Floats, Ints

_TIME, _COUNT, _HISTORICAL, _FIXED = range(4)


@dataclass(frozen=True)
class Aligned:
    """Complete rows, k of them."""

    times: Ints  # [k] microseconds
    values: Floats  # [k, d], NaN where there is no reading
    historical: Bools  # [k], of its first reading
    at: Ints  # [k], the reading that completed it, by its place among those handed over


def empty(metrics: int) -> Floats:
    """Return the state of a device without readings."""
    state = np.full(_FIXED + 2 * metrics, -np.inf)
    state[_COUNT], state[_HISTORICAL], state[_FIXED + metrics :] = 0.0, 0.0, np.nan
    return state


def align(
    state: Floats,
    columns: Ints,
    times: Ints,
    values: Floats,
    historical: Bools,
    *,
    tolerance: float,
) -> tuple[Floats, Aligned]:
    """Take n finite readings in order of arrival: metric index [n], times [n], values [n].

    Times and the tolerance are microseconds. Returns the new state and the complete rows.
    """
    d = (len(state) - _FIXED) // 2
    time, count, old = state[:_FIXED].tolist()
    newest, row = state[_FIXED : _FIXED + d].tolist(), state[_FIXED + d :].tolist()
    done: list[tuple[float, list[float], float, int]] = []
    given = (column.tolist() for column in (columns, times, values, historical))
    for i, (j, when, value, late) in enumerate(zip(*given, strict=True)):
        if when <= newest[j] or when < time - tolerance:
            continue
        if count and (when > time + tolerance or row[j] == row[j]):
            done.append((time, row, old, i))
            count, row = 0, [np.nan] * d
        if not count:
            time, old = max(float(when), time), late
        newest[j], row[j], count = when, value, count + 1
        if count == d:
            done.append((time, row, old, i))
            count, row = 0, [np.nan] * d
    after = np.array([time, count, old, *newest, *row])
    return after, _aligned(done, d)


def newest(state: Floats) -> float:
    """Return the time of the newest reading, -inf before the first."""
    d = (len(state) - _FIXED) // 2
    return float(state[_FIXED : _FIXED + d].max(initial=state[_TIME]))


def waiting(state: Floats) -> Aligned:
    """Return the incomplete row, if any."""
    d = (len(state) - _FIXED) // 2
    row = [(float(state[_TIME]), state[_FIXED + d :].tolist(), float(state[_HISTORICAL]), 0)]
    return _aligned(row if state[_COUNT] else [], d)


def rearranged(state: Floats, before: tuple[str, ...], after: tuple[str, ...]) -> Floats:
    """Return the state for other metrics; an incomplete row keeps its readings of them."""
    out = empty(len(after))
    out[:_FIXED] = state[:_FIXED]
    for place, metric in enumerate(after):
        if metric in before:
            out[_FIXED + place] = state[_FIXED + before.index(metric)]
            out[_FIXED + len(after) + place] = state[_FIXED + len(before) + before.index(metric)]
    out[_COUNT] = np.isfinite(out[_FIXED + len(after) :]).sum()
    return out


def _aligned(rows: list[tuple[float, list[float], float, int]], metrics: int) -> Aligned:
    return Aligned(
        np.array([time for time, _, _, _ in rows], np.int64),
        np.array([row for _, row, _, _ in rows], np.float64).reshape(-1, metrics),
        np.array([old for _, _, old, _ in rows], np.bool_),
        np.array([at for _, _, _, at in rows], np.int64),
    )
