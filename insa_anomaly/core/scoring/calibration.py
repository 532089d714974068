"""Calibration: values of a measure become p-values, and p-values a score.

A table is learnt from values of the measure on readings its model had not seen: the empirical
distribution up to its 95 % quantile, and above it the rarer of that and a generalised Pareto tail
(peaks over threshold; probability-weighted moments after Hosking and Wallis 1987; shape within
[0, 0.6]). So a p-value continues to fall beyond the strangest value ever held out, and is no larger
than the counted share where the tail ends sooner than a Pareto tail would.
"""

import numpy as np

from insa_anomaly.core.layout import Layout
from insa_anomaly.core.units import Floats

_BODY_KNOTS, _TAIL_KNOTS = 32, 16
_KNOTS = _BODY_KNOTS + _TAIL_KNOTS
TABLE = Layout({"x": _KNOTS, "y": _KNOTS, "u": 1, "y_u": 1, "shape": 1, "scale": 1})
_X, _Y = TABLE.part("x"), TABLE.part("y")
_U, _Y_U, _SHAPE, _SCALE = map(TABLE.column, ("u", "y_u", "shape", "scale"))
TABLE_WIDTH = TABLE.width

_BODY = 0.95
_FEWEST_EXCESSES = 8
_SURPRISE_CAP = 12.0
# Of the tail's scale: less than this above its beginning is rounding, which matters where all
# held-out values are equal.
_RESOLUTION = 1e-3
DECADES = 3.0  # of p beyond the alarm line are full confidence


def table(values: Floats) -> Floats:
    """Return the table [TABLE_WIDTH] of held-out values [n] of a measure, higher = stranger."""
    ordered = np.sort(values)
    limit = float(np.quantile(ordered, _BODY))
    excess = ordered[ordered > limit] - limit
    shape, scale = _tail(excess, float(ordered[-1] - ordered[0]))
    out = np.empty(TABLE_WIDTH)
    out[_U], out[_SHAPE], out[_SCALE] = limit, shape, scale
    out[_Y_U] = -np.log10(max(len(excess), 1) / len(ordered))
    out[_X] = knots = _knots(ordered, limit)
    out[_Y] = -np.log10(1 - np.searchsorted(ordered, knots, "left") / (len(ordered) + 1))
    out[_Y][:_BODY_KNOTS] = np.minimum(out[_Y][:_BODY_KNOTS], out[_Y_U])
    return out


def _knots(ordered: Floats, limit: float) -> Floats:
    """Return the values [_KNOTS] between which counted shares are interpolated.

    Their steps are even in the body, and of equal ratio in the tail.
    """
    body = np.quantile(ordered, np.linspace(0, 1, _BODY_KNOTS) * _BODY, method="lower")
    body[-1] = limit
    exceeding = np.geomspace(max((1 - _BODY) * len(ordered), 1.0), 1.0, _TAIL_KNOTS)
    return np.concatenate((body, np.maximum(ordered[-np.ceil(exceeding).astype(np.int64)], limit)))


def _tail(excess: Floats, span: float) -> tuple[float, float]:
    """Return shape and scale of the generalised Pareto distribution of ascending excesses."""
    n = len(excess)
    mean = float(excess.mean()) if n else 0.0
    if n < _FEWEST_EXCESSES or mean <= 1e-12:
        return 0.1, max(mean, 0.02 * span, 1e-9)
    weighted = float(((n - np.arange(1, n + 1)) / (n - 1) * excess).mean())
    shape = float(np.clip(2 - mean / max(mean - 2 * weighted, 1e-12), 0.0, 0.6))
    return shape, max(mean * (1 - shape), 1e-9)


def surprise(values: Floats, tables: Floats) -> Floats:
    """Return -log10 p of values [...] by their tables [..., TABLE_WIDTH], within 0 to 12."""
    at = np.indices(values.shape, sparse=True)
    inner = tables[..., _X][..., 1:-1]
    above = (inner > values[..., None]).argmax(axis=-1)
    right = np.where(inner[..., -1] <= values, _KNOTS - 1, above + 1)
    x0, x1 = tables[*at, right - 1], tables[*at, right]
    y0, y1 = tables[*at, _KNOTS + right - 1], tables[*at, _KNOTS + right]
    share = np.clip((values - x0) / np.where(x1 > x0, x1 - x0, 1.0), 0.0, 1.0)
    counted = y0 + share * (y1 - y0)
    excess = np.maximum(values - tables[..., _U], 0.0) / tables[..., _SCALE]
    shape = np.maximum(tables[..., _SHAPE], 1e-6)  # at 1e-6 the tail is exponential to seven digits
    tail = tables[..., _Y_U] + np.log1p(shape * excess) / (shape * np.log(10.0))
    surprises: Floats = np.where(excess > _RESOLUTION, np.maximum(tail, counted), counted)
    return np.minimum(surprises, _SURPRISE_CAP)


def score(surprises: Floats, alphas: Floats) -> Floats:
    """Return scores of -log10 p [k]: 1 at p = 1, 0 at p = alpha, -1 three decades below alpha."""
    line = -np.log10(alphas)
    beyond = line - surprises
    return np.where(beyond >= 0, np.minimum(beyond / line, 1.0), np.maximum(beyond / DECADES, -1.0))
