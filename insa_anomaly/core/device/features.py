"""Features of a device model: forecasts, residuals, windows, levels, and their four measures.

Every metric is forecast a step ahead by a ridge regression on its own last five values, the mean of
its last twenty and the last value of every metric. Four measures, higher = stranger:

- residual forest: an isolation forest over ten summaries of the residuals, at two speeds, and of
the level's T2 and Q;

- Mahalanobis distance of the level (mean of ten), whose covariance is widened by how far the level
wandered between blocks of the training span, and shrunk towards its diagonal (after Ledoit and Wolf
2004), so that slow drift and collinear metrics do not alarm;

- the root mean square of the residuals, and that of the scaled window features, each a running
mean.

The code is the same for training and for scoring, and the results are the same to the bit however
rows are batched: reductions run along the last, contiguous axis, and no step uses BLAS. A metric
that takes no part in a row counts in none of the measures; its level is set to its expectation
given the others.
"""

from dataclasses import dataclass

import numpy as np

from insa_anomaly.core.device import window
from insa_anomaly.core.device.window import EachRow, Rows
from insa_anomaly.core.scoring import daily
from insa_anomaly.core.units import LONG, SHORT, Bools, Features, Floats, Ints

SPAN = 10  # of every running mean, in rows
GAIN = 2 / (SPAN + 1)
LAGS = 5
MIDDLE = 20  # rows in the mean that a forecast looks at

# The columns of the moments of a window, in units of the metric's own robust scale.
NOW = 0
# The last LAGS values, newest first, and the mean of the last MIDDLE before the newest.
PREDICTORS = slice(1, LAGS + 2)
SHORT_MEAN, LONG_MEAN, DEVIATION = range(LAGS + 2, LAGS + 5)
MOMENTS = LAGS + 5

NAMES = ("value", "jump", "level", "trend", "spread", "flat_run")
WIDTH = len(NAMES)
SUMMARIES = 10
# Of the summaries as the forest knows them, among them as they are made.
_ORDER = np.array((0, 1, 2, 3, 8, 9, 6, 7, 4, 5))
MEMBERS = 4  # residual forest, Mahalanobis, residuals, windows

_Z_CAP = 200.0
LEVEL_CAP = 50.0
_RESIDUAL_CAP = 50.0
_SCALED_CAP = 30.0
_FEW = 32_768  # products that a projection makes at once: of more it is slower, and takes memory
_BLOCK = 512  # rows whose windows are unfolded together


@dataclass(frozen=True)
class Knowledge:
    """Learnt values of the d metrics of a device; or of n rows, with n in front of all shapes."""

    center: Floats  # [d]
    scale: Floats  # [d]
    profile: Floats  # [d, scoring.daily.WIDTH]
    flat_most: Floats  # [d], a flat run counts up to this
    weights: Floats  # [d, LAGS + 1] of the metric's own PREDICTORS
    cross: Floats  # [d, d] of the last value of every metric
    constant: Floats  # [d]
    residual_center: Floats  # [d]
    residual_scale: Floats  # [d]
    feature_center: Floats  # [d, WIDTH]
    feature_scale: Floats  # [d, WIDTH]
    level_center: Floats  # [d]
    precision: Floats  # [d, d] inverse of the level's covariance
    wander: Floats  # [d] scale of the level with its drift
    axes: Floats  # [d, d] principal axes of the level, a row each
    stiffness: Floats  # [d] 1 / variance along the axes that are kept, 0 along the others
    typical: Floats  # [2] medians of T2 and Q


@dataclass(frozen=True)
class Sight:
    """Values of n rows of d metrics before any running mean."""

    forecast: Floats  # [n, d], in scaled units
    residual: Floats  # [n, d], scaled
    scaled: Floats  # [n, d, WIDTH], features scaled
    level: Floats  # [n, d], mean of ten less what is usual
    value: Floats  # [n, d], scaled


@dataclass(frozen=True)
class Running:
    """Running means after each of n rows."""

    residual: Floats  # [n, d]
    energy: Floats  # [n, d], of the squared residual
    level: Floats  # [n, d], of the value


@dataclass(frozen=True)
class RowView:
    """View of a model on n rows, without its forest's samples."""

    sight: Sight
    means: Running
    level: Floats  # [n, d], that of the sight with that of the missing filled in
    usual: Floats  # [n, d], the daily profile at its time, scaled
    used: Bools  # [n, d]
    summaries: Features  # [n, SUMMARIES], what the forest is fed
    measures: Floats  # [n, MEMBERS - 1], higher = stranger: Mahalanobis, residuals, windows


def look(state: Floats, rows: Rows, known: Knowledge) -> tuple[Floats, RowView]:
    """View rows, and continue the running means; return the new state and the view."""
    after, used, usual = state.copy(), rows.used, usual_levels(rows.times, known)
    among = None if used.all() else used
    z = standardised(rows.values, usual, known.center, known.scale)
    at_once = sight(moments(z), rows.flats, known)
    means = running(after, rows, at_once)
    charted = smoothed(after[window.CHARTS], charts(at_once, among), device_gains(rows, 2))
    window.means(after)[:], after[window.CHARTS] = means[-1], charted[-1]
    return after, _look(at_once, means, charted, usual[LONG:], used, known=known)


def look_at_each(states: Floats, rows: EachRow, known: Knowledge) -> tuple[Floats, RowView]:
    """View a row of each of k devices, equal to the bit to `look` at each.

    Each device has its own state [k, window.width(d)] and learnt values.
    """
    after, used = states.copy(), np.ones(rows.flats.shape, np.bool_)
    usual = daily_of_each(rows.times, known.profile)
    z = standardised(rows.values, usual, known.center[:, None], known.scale[:, None])
    seen = np.empty((*used.shape, MOMENTS))
    _moments(np.ascontiguousarray(z[:, 1:].transpose(0, 2, 1)), seen)
    at_once = sight(seen, rows.flats, known)
    means = carried(window.means(after), _inputs(at_once))
    charted = carried(after[:, window.CHARTS], charts(at_once, None))
    window.means(after)[:], after[:, window.CHARTS] = means, charted
    now = np.ascontiguousarray(usual[:, LONG])
    return after, _look(at_once, means, charted, now, used, known=known)


def carried(before: Floats, inputs: Floats) -> Floats:
    """Return running means after another row each."""
    return GAIN * inputs + (1.0 - GAIN) * before


def _look(
    at_once: Sight, means: Floats, charted: Floats, usual: Floats, used: Bools, *, known: Knowledge
) -> RowView:
    among, d = None if used.all() else used, used.shape[1]
    level = at_once.level if among is None else filled_level(at_once, used, known)
    measures = np.concatenate((mahalanobis(level, among, known)[:, None], charted), axis=1)
    running = Running(means[:, :d], means[:, d : 2 * d], means[:, 2 * d :])
    fed = summaries(at_once, running, level, among, known)
    return RowView(at_once, running, level, usual, used, summaries=fed, measures=measures)


def device_gains(rows: Rows, columns: int) -> Floats:
    """Return gains [n, columns] of the running means of a device.

    The first row of a window begins the means; a row in which no metric takes part holds them.
    """
    gains = np.where(rows.used.any(axis=1), np.where(rows.counts <= 1, 1.0, GAIN), 0.0)
    return np.repeat(gains[:, None], columns, axis=1)


def standardised(values: Floats, usual: Floats, center: Floats, scale: Floats) -> Floats:
    """Return values [..., d] in units of each metric's robust scale, less its daily profile.

    `usual` [..., d] is the profile; a metric without a value gets 0.
    """
    with np.errstate(over="ignore"):  # a value near the largest float is merely the strangest
        z = (values - center) / scale
    z -= usual
    z = within(z, _Z_CAP)
    z[np.isnan(z)] = 0.0
    return z


def within(values: Floats, cap: float) -> Floats:
    """Return values clipped to the cap on both sides: `np.clip`, in less time for few values."""
    out: Floats = np.minimum(np.maximum(values, -cap), cap)
    return out


def usual_levels(times: Floats, known: Knowledge) -> Floats:
    """Return the daily profile of every metric at times [n], in scaled units [n, d], or 0."""
    levels: Floats = daily_of_each(times[None], known.profile[None])[0]
    return levels


def daily_of_each(times: Floats, profiles: Floats) -> Floats:
    """Return the daily profiles [k, d, daily.WIDTH] of k devices at times [m] each: [k, m, d].

    The metrics of a device were learnt at the same pace, so their profiles have equally many bins.
    """
    (k, m), (_, d, _) = times.shape, profiles.shape
    bins = profiles[..., daily.BINS]
    most = bins.max(axis=1, keepdims=True)
    if not most.any():
        return np.zeros((k, m, d))
    if ((bins > 0) & (bins < most)).any():
        each = daily.profile(np.repeat(times, d, axis=0), profiles.reshape(k * d, -1))
        return each.reshape(k, d, m).transpose(0, 2, 1)
    levels = np.where(bins[..., None] > 0, profiles[..., daily.LEVELS], 0.0).transpose(0, 2, 1)
    lower, upper, share = daily.between_bins(times, np.maximum(most, 1.0))
    row, levels, share = np.arange(k)[:, None], np.ascontiguousarray(levels), share[..., None]
    out: Floats = levels[row, lower] * (1 - share) + levels[row, upper] * share
    return out


def moments(z: Floats) -> Floats:
    """Return moments [n, d, MOMENTS] of the window that ends at each row.

    z [LONG + n, d] has the window before the rows in front.
    """
    n, metrics = len(z) - LONG, z.shape[1]
    out = np.empty((n, metrics, MOMENTS))
    for begin in range(0, n, _BLOCK):
        part = out[begin : begin + _BLOCK]
        rows = z[begin + 1 : begin + LONG + len(part)]
        views = np.lib.stride_tricks.sliding_window_view(rows, LONG, axis=0)
        _moments(np.ascontiguousarray(views), part)
    return out


def _moments(windows: Floats, out: Floats) -> None:
    short = windows[..., -SHORT:].copy()
    middle = np.ascontiguousarray(windows[..., -MIDDLE - 1 : -1])
    mean = short.sum(axis=-1) / SHORT
    short -= mean[..., None]
    short *= short
    out[..., : LAGS + 1] = windows[..., : -LAGS - 2 : -1]
    out[..., LAGS + 1] = middle.sum(axis=-1) / MIDDLE
    out[..., SHORT_MEAN] = mean
    out[..., LONG_MEAN] = windows.sum(axis=-1) / LONG
    out[..., DEVIATION] = np.sqrt(short.sum(axis=-1) / (SHORT - 1))


def sight(seen: Floats, flats: Floats, known: Knowledge) -> Sight:
    """Return the values of moments [n, d, MOMENTS] and flat runs [n, d]."""
    forecast = forecasts(seen, known)
    value = np.ascontiguousarray(seen[..., NOW])
    away = (value - forecast - known.residual_center) / known.residual_scale
    residual, raw = within(away, _RESIDUAL_CAP), unscaled(seen, flats, known)
    scaled = within((raw - known.feature_center) / known.feature_scale, _SCALED_CAP)
    level = within(np.ascontiguousarray(seen[..., SHORT_MEAN]), LEVEL_CAP) - known.level_center
    return Sight(forecast, residual, scaled, level, value)


def forecasts(seen: Floats, known: Knowledge) -> Floats:
    """Return the value expected a step ahead [n, d], in scaled units."""
    own = np.ascontiguousarray(seen[..., PREDICTORS]) * known.weights
    others = projected(np.ascontiguousarray(seen[..., PREDICTORS.start]), known.cross)
    ahead: Floats = own.sum(axis=-1) + others + known.constant
    return ahead


def unscaled(seen: Floats, flats: Floats, known: Knowledge) -> Floats:
    """Return window features [n, d, WIDTH] before scaling."""
    out = np.empty((*flats.shape, WIDTH))
    out[..., 0] = seen[..., NOW]
    out[..., 1] = seen[..., NOW] - seen[..., PREDICTORS.start]
    out[..., 2] = seen[..., SHORT_MEAN]
    out[..., 3] = seen[..., SHORT_MEAN] - seen[..., LONG_MEAN]
    out[..., 4] = np.log(np.ascontiguousarray(seen[..., DEVIATION]) + 0.05)
    out[..., 5] = np.log1p(np.minimum(flats, known.flat_most))
    return out


def projected(rows: Floats, axes: Floats) -> Floats:
    """Return rows [n, d] times axes [k, d] or [n, k, d] -> [n, k].

    The order of the sum is the same for any number of rows.
    """
    if rows.size * axes.shape[-2] <= _FEW:
        turned = axes.T[:, None] if axes.ndim == 2 else axes.transpose(2, 0, 1)
        # [d, n, k], so that the sum goes along d one by one, as below.
        parts = np.multiply(rows.T[:, :, None], turned, order="C")
        together: Floats = np.add.reduce(parts, axis=0) + 0.0
        return together
    out = np.zeros((len(rows), axes.shape[-2]))
    for j in range(rows.shape[1]):
        out += rows[:, j, None] * axes[..., j]
    return out


def running(state: Floats, rows: Rows, seen: Sight) -> Floats:
    """Return the running means of the metrics [n, 3 d], continued from `state`.

    A metric that comes, or comes back, begins with its first value.
    """
    gains = np.where(rows.observed, np.where(rows.fresh <= 1, 1.0, GAIN), 0.0)
    return smoothed(window.means(state), _inputs(seen), np.tile(gains, 3))


def _inputs(seen: Sight) -> Floats:
    """Return the inputs of the running means of `Running`, side by side [n, 3 d]."""
    return np.concatenate((seen.residual, seen.residual * seen.residual, seen.value), axis=1)


def smoothed(start: Floats, inputs: Floats, gains: Floats) -> Floats:
    """Return exponentially weighted means [n, w] of inputs [n, w], from start [w] on.

    Each row has its own gains [n, w].
    """
    out, last = gains * inputs, start
    for kept, mean in zip(1.0 - gains, out, strict=True):
        mean += kept * last  # noqa: PLW2901 - a row of `out`
        last = mean
    return out


def filled_level(seen: Sight, used: Bools, known: Knowledge) -> Floats:
    """Return the level [n, d]; a metric that takes no part gets its conditional mean."""
    level = seen.level.copy()
    masks, at = np.unique(used, axis=0, return_inverse=True)
    for i in np.flatnonzero(~masks.all(axis=1)).tolist():
        rows = np.flatnonzero(at.ravel() == i)
        present = np.where(masks[i], level[rows], 0.0)
        level[rows] = present + projected(present, imputation(known.precision, masks[i]))
    return level


def imputation(precision: Floats, present: Bools) -> Floats:
    """Return the matrix [d, d] of the conditional mean of missing metrics; other rows are 0."""
    swept = precision.copy()
    missing = np.flatnonzero(~present)
    for k in missing.tolist():  # Gauss-Jordan, pivot by pivot
        swept[k] /= swept[k, k]
        others = np.arange(len(swept)) != k
        swept[others] -= swept[others, k, None] * swept[k]
    out = np.zeros_like(precision)
    out[np.ix_(missing, present)] = -swept[np.ix_(missing, present)]
    return out


def summaries(
    seen: Sight, means: Running, level: Floats, among: Bools | None, known: Knowledge
) -> Features:
    """Return the forest's input [n, SUMMARIES]; `among` [n, d] marks the metrics, None: all."""
    residuals = seen.residual, means.residual * np.sqrt(SPAN / 2)
    sizes = np.abs(np.array((*residuals, within(means.level / known.wander, LEVEL_CAP))))
    energy, (t2, q) = means.energy, t2_and_q(level, known)
    out = np.empty((SUMMARIES, len(level)))
    out[0:6:2], out[1:7:2] = largest(sizes, among), root_mean_square(sizes, among)
    out[6], out[7] = t2 / known.typical[..., 0], q / known.typical[..., 1]
    np.log1p(out[:8], out=out[:8])
    out[8], out[9] = np.log(largest(energy, among) + 0.1), np.log(smallest(energy, among) + 1e-3)
    return np.ascontiguousarray(out[_ORDER].T, np.float32)


def t2_and_q(level: Floats, known: Knowledge) -> tuple[Floats, Floats]:
    """Return Hotelling's T2 [n] along the stored axes, and the squared distance from them."""
    along = projected(level / known.wander, known.axes)
    along *= along
    off = np.where(known.stiffness > 0, 0.0, along)
    return (along * known.stiffness).sum(axis=1), off.sum(axis=1)


def mahalanobis(level: Floats, among: Bools | None, known: Knowledge) -> Floats:
    """Return the log squared Mahalanobis distance [n] of the level [n, d], over metrics `among`."""
    squared: Floats = (level * projected(level, known.precision)).sum(axis=1)
    each = np.maximum(squared, 0.0) / _taking_part(level, among)
    distance: Floats = np.log1p(each * level.shape[1])
    return distance


def charts(seen: Sight, among: Bools | None) -> Floats:
    """Return the log root mean squares [n, 2] of residuals and features, over metrics `among`."""
    features_squared = (seen.scaled * seen.scaled).sum(axis=-1) / WIDTH
    out = np.empty((2, len(features_squared)))
    out[0] = np.log1p(root_mean_square(seen.residual, among))
    out[1] = np.log1p(np.sqrt(mean(features_squared, among)))
    return np.ascontiguousarray(out.T)


def largest(values: Floats, among: Bools | None) -> Floats:
    """Return the largest [..., n] of values [..., n, d], over metrics `among` [n, d]."""
    out: Floats = (values if among is None else np.where(among, values, 0.0)).max(axis=-1)
    return out


def smallest(values: Floats, among: Bools | None) -> Floats:
    """Return the smallest [n] of values [n, d]."""
    if among is None:
        return np.asarray(values.min(axis=1))
    out: Floats = np.where(among.any(axis=1), np.where(among, values, np.inf).min(axis=1), 0.0)
    return out


def mean(values: Floats, among: Bools | None) -> Floats:
    """Return the mean [..., n] of values [..., n, d]."""
    counted = values if among is None else np.where(among, values, 0.0)
    out: Floats = counted.sum(axis=-1) / _taking_part(values, among)
    return out


def root_mean_square(values: Floats, among: Bools | None) -> Floats:
    """Return the root mean square [..., n] of values [..., n, d]."""
    return np.sqrt(mean(values * values, among))


def _taking_part(values: Floats, among: Bools | None) -> Ints | int:
    """Return the number of metrics that take part, or 1."""
    metrics: int = values.shape[-1]
    return metrics if among is None else np.asarray(np.maximum(among.sum(axis=1), 1))
