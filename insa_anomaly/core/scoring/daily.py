"""The daily profile: the level that is usual at a time of the day, learnt from three days or more.

A profile is a row: the number of bins, then the level of each, in robust units.
"""

import numpy as np

from insa_anomaly.core.layout import Layout
from insa_anomaly.core.units import DAY, Bools, Floats, Ints

BINS_MOST = 48
# Number of time-of-day bins, 0 where no profile was learnt, and their levels.
PROFILE = Layout({"bins": 1, "levels": BINS_MOST})
BINS, LEVELS, WIDTH = PROFILE.column("bins"), PROFILE.part("levels"), PROFILE.width

_LEAST_DAYS = 2.9
_LONGEST_PAUSE_US = 3700e6
_LEAST_GAIN = 0.15


def profile(stamps: Floats, rows: Floats) -> Floats:
    """Return the usual level at `stamps` [n, m] by `rows` [n, WIDTH], linear between bins, or 0."""
    out = np.zeros(stamps.shape)
    at = np.flatnonzero(rows[:, BINS])
    if not len(at):
        return out
    lower, upper, share = between_bins(stamps[at], rows[at, BINS, None])
    levels, row = rows[at, LEVELS], np.arange(len(at))[:, None]
    out[at] = levels[row, lower] * (1 - share) + levels[row, upper] * share
    return out


def between_bins(stamps: Floats, bins: Floats) -> tuple[Ints, Ints, Floats]:
    """Return the two of `bins` [n, 1] next to stamps [n, m], and the weight of the second."""
    place = stamps.astype(np.int64) % DAY / DAY * bins - 0.5
    left = np.floor(place)
    lower, upper = np.where(left < 0, bins - 1, left), np.where(left + 1 == bins, 0, left + 1)
    return lower.astype(np.int64), upper.astype(np.int64), place - left


def learn(z: Floats, when: Floats, interval_us: float) -> Floats:
    """Return a profile row [WIDTH] for values `z` [n] at times `when` [n], in microseconds.

    The row has no bins where fewer than three days are there, or where the profile of the first
    half does not explain the second. `interval_us` is the typical pause.
    """
    nothing = np.zeros(WIDTH)
    if not len(when):
        return nothing
    span = when[-1] - when[0]
    if span < _LEAST_DAYS * DAY or interval_us > _LONGEST_PAUSE_US:
        return nothing
    bins = int(min(BINS_MOST, DAY // interval_us))
    gain = _gain(z, when, when < when[0] + span / 2, bins)
    return _row(_medians(z, when, bins)) if gain > _LEAST_GAIN else nothing


def _gain(z: Floats, when: Floats, first: Bools, bins: int) -> float:
    """Return the share of the second half's spread that the profile of the first explains."""
    early, late = _medians(z[first], when[first], bins), z[~first]
    rows = np.broadcast_to(_row(early), (len(late), WIDTH))
    left = late - profile(when[~first, None], rows)[:, 0]
    unexplained = np.abs(left - np.median(left)).mean() + 1e-9
    return float(1 - unexplained / (np.abs(late - np.median(late)).mean() + 1e-9))


def _row(levels: Floats) -> Floats:
    row = np.zeros(WIDTH)
    row[BINS] = len(levels)
    row[LEVELS.start : LEVELS.start + len(levels)] = levels
    return row


def _medians(z: Floats, when: Floats, bins: int) -> Floats:
    """Return the median of every time-of-day bin [bins], 0 for a bin without readings."""
    at = (np.mod(when, DAY) / DAY * bins).astype(np.int16)
    order = np.argsort(z)
    order = order[np.argsort(at[order], kind="stable")]  # by bin, and by value within it
    counts = np.bincount(at, minlength=bins)
    begin = np.cumsum(counts) - counts
    some = np.flatnonzero(counts)
    lower, upper = (z[order[(begin + half)[some]]] for half in ((counts - 1) // 2, counts // 2))
    out = np.zeros(bins)
    out[some] = (lower + upper) / 2
    return out
