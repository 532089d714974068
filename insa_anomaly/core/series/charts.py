"""The cheap companions of the forest, which go on growing where a forest is flat.

A ridge-regularised autoregression forecasts the next value from the last five and the mean of the last twenty; how far it was off,
at once and smoothed, are two charts. The third is the root mean square of the robustly scaled features of the window.
"""

from itertools import repeat

import numpy as np

from insa_anomaly.core.series.features import SCALED_CAP, WIDTH, WindowView
from insa_anomaly.core.units import LONG, Bools, Floats, Ints

LAGS, MEAN_OF = 5, 20
SPAN = 10  # of the smoothed forecast error, in readings: its weight is 2 / (SPAN + 1)
NONE = -1.0  # there is no smoothed error yet

# The columns of what was learnt for the charts of one series.
WEIGHTS = slice(0, LAGS + 2)  # of the last values, newest first, of their mean, and a constant
ERROR_CENTER = WEIGHTS.stop
ERROR_SCALE = ERROR_CENTER + 1
CENTERS = slice(ERROR_SCALE + 1, ERROR_SCALE + 1 + WIDTH)  # robust middle and scale of the features
SCALES = slice(CENTERS.stop, CENTERS.stop + WIDTH)
NUMBERS_WIDTH = SCALES.stop

FIT_CAP = 20.0  # robust units: what lies further out shall not steer the forecast
_CAP = 200.0
_ERROR_CAP = 50.0
_WEIGHT = 2.0 / (SPAN + 1)
_TARGET = 0.535  # mean of log(1 + |z|) where z is standard normal


def predictors(z: Floats) -> Floats:
    """[n, MEAN_OF + 1] standardised values, newest last -> what forecasts the newest [n, LAGS + 2]."""
    n, newest = len(z), z.shape[1] - 1
    out = np.empty((n, LAGS + 2))
    out[:, :LAGS] = z[:, newest - 1 : newest - 1 - LAGS : -1]
    out[:, LAGS] = np.ascontiguousarray(z[:, :newest]).sum(axis=1) / MEAN_OF
    out[:, LAGS + 1] = 1.0
    return out


def recent(look: WindowView, cap: float) -> Floats:
    """The end of the windows in robust units [n, MEAN_OF + 1], the newest within the cap."""
    z = look.z[:, LONG - MEAN_OF - 1 :].copy()
    z[:, -1] = np.clip(look.newest[:, 1], -cap, cap)
    return z


def forecast_error(look: WindowView, numbers: Floats) -> Floats:
    """Log of the scaled error of the one-step forecast [n], higher = stranger; `numbers` [n, NUMBERS_WIDTH]."""
    z = recent(look, _CAP)
    off = z[:, -1] - (predictors(z) * numbers[:, WEIGHTS]).sum(axis=1)
    off -= numbers[:, ERROR_CENTER]
    off /= numbers[:, ERROR_SCALE]
    error: Floats = np.log1p(np.minimum(np.abs(off), _ERROR_CAP))
    return error


def smoothed(before: Floats, which: Ints, errors: Floats, moved: Bools) -> tuple[Floats, Floats]:
    """Exponentially weighted mean of the errors [n] as each reading sees it, and what is left per row [s].

    A row's readings are in order. Where a window is not full the error is NaN, and the mean starts anew after it, at what is to be
    expected (Roberts 1959): a first error taken for the mean of ten would be an alarm too often. A reading that does not move its
    window leaves nothing.
    """
    left = before.tolist()
    out = list(repeat(NONE, len(errors)))
    for i, (row, error, moves) in enumerate(
        zip(which.tolist(), errors.tolist(), moved.tolist(), strict=True)
    ):
        held = left[row] if left[row] >= 0 else _TARGET
        now = NONE if error != error else held + _WEIGHT * (error - held)  # noqa: PLR0124 - NaN
        out[i] = now
        if moves:
            left[row] = now
    return np.array(out), np.array(left)


def window_z(raw: Floats, numbers: Floats) -> Floats:
    """Log root mean square of the robustly scaled features [n], higher = stranger; `raw` [n, WIDTH] as `features.unscaled` gives them."""
    z = np.clip((raw - numbers[:, CENTERS]) / numbers[:, SCALES], -SCALED_CAP, SCALED_CAP)
    rms: Floats = np.sqrt((z * z).sum(axis=1) / WIDTH)
    return np.log1p(rms)
