"""The cheap companions of the forest, which continue to grow where a forest is flat.

A ridge-regularised autoregression forecasts the next value from the last five and the mean of the
last twenty; its error, at once and smoothed, makes two charts. The third is the root mean square of
the robustly scaled features of the window.
"""

from itertools import repeat
from math import isnan

import numpy as np

from insa_anomaly.core.layout import Layout, LearntRows
from insa_anomaly.core.series.features import BY_NAME, SCALED_CAP, WIDTH, WindowView
from insa_anomaly.core.units import LONG, Bools, Floats, Ints

LAGS, MEAN_OF = 5, 20
SPAN = 10  # of the smoothed forecast error, in readings: its weight is 2 / (SPAN + 1)
NONE = -1.0  # there is no smoothed error yet

LEARNT = Layout(
    {
        "weights": LAGS + 2,  # of the last values, newest first, of their mean, and a constant
        "error_center": 1,
        "error_scale": 1,
        "centers": BY_NAME,  # robust middle and scale of the features
        "scales": BY_NAME,
    }
)
WEIGHTS, CENTERS, SCALES = map(LEARNT.part, ("weights", "centers", "scales"))
ERROR_CENTER, ERROR_SCALE = map(LEARNT.column, ("error_center", "error_scale"))

FIT_CAP = 20.0  # robust units: a value further out does not steer the forecast
_CAP = 200.0
_ERROR_CAP = 50.0
_WEIGHT = 2.0 / (SPAN + 1)
_TARGET = 0.535  # mean of log(1 + |z|) where z is standard normal


def predictors(z: Floats) -> Floats:
    """Return the predictors [n, LAGS + 2] of the last of standardised values z [n, MEAN_OF + 1]."""
    n, newest = len(z), z.shape[1] - 1
    out = np.empty((n, LAGS + 2))
    out[:, :LAGS] = z[:, newest - 1 : newest - 1 - LAGS : -1]
    out[:, LAGS] = np.ascontiguousarray(z[:, :newest]).sum(axis=1) / MEAN_OF
    out[:, LAGS + 1] = 1.0
    return out


def recent(look: WindowView, cap: float) -> Floats:
    """Return the end of the windows [n, MEAN_OF + 1] in robust units, the newest within the cap."""
    z = look.z[:, LONG - MEAN_OF - 1 :].copy()
    z[:, -1] = np.clip(look.newest[:, 1], -cap, cap)
    return z


def forecast_error(look: WindowView, learnt: LearntRows) -> Floats:
    """Return the log of the scaled error of the one-step forecast [n], higher = stranger."""
    z = recent(look, _CAP)
    off = z[:, -1] - (predictors(z) * learnt[:, WEIGHTS]).sum(axis=1)
    off -= learnt[:, ERROR_CENTER]
    off /= learnt[:, ERROR_SCALE]
    error: Floats = np.log1p(np.minimum(np.abs(off), _ERROR_CAP))
    return error


def smoothed(before: Floats, which: Ints, errors: Floats, moved: Bools) -> tuple[Floats, Floats]:
    """Return the weighted mean of the errors [n] at each reading, and the last mean per row [s].

    A row's readings are in order. Where a window is not full the error is NaN, and the mean starts
    again after it, at its expected value (Roberts 1959): a first error taken for the mean of ten
    would be an alarm too often. A reading that does not move its window leaves the mean unchanged.
    """
    left = before.tolist()
    out = list(repeat(NONE, len(errors)))
    readings = zip(which.tolist(), errors.tolist(), moved.tolist(), strict=True)
    for i, (row, error, moves) in enumerate(readings):
        held = left[row] if left[row] >= 0 else _TARGET
        out[i] = NONE if isnan(error) else held + _WEIGHT * (error - held)
        if moves:
            left[row] = out[i]
    return np.array(out), np.array(left)


def window_z(raw: Floats, learnt: LearntRows) -> Floats:
    """Return the log root mean square of the robustly scaled features [n], higher = stranger.

    `raw` [n, WIDTH] are the features of `features.unscaled`.
    """
    z = np.clip((raw - learnt[:, CENTERS]) / learnt[:, SCALES], -SCALED_CAP, SCALED_CAP)
    rms: Floats = np.sqrt((z * z).sum(axis=1) / WIDTH)
    return np.log1p(rms)
