"""Typical pause, covered days and robust scale of a history."""

import numpy as np

from insa_anomaly.core.units import DAY, Floats
from insa_anomaly.errors import TrainingError


def typical_pause(when: Floats) -> float:
    """Return the median time from a reading, or row, to the next, in microseconds.

    Raises TrainingError if all have the same time.
    """
    pauses = np.diff(when)
    pauses = pauses[pauses > 0]
    if not len(pauses):
        raise TrainingError("all readings carry the same timestamp")
    return float(np.median(pauses))


def covered_days(when: Floats, gap: float) -> float:
    """Return the days with readings, above 0: no pause counts for more than `gap`, or a day."""
    return max(float(np.minimum(np.diff(when), min(gap, DAY)).sum()) / DAY, 1e-9)


def robust_scale(values: Floats) -> tuple[float, float]:
    """Return the median, and the largest of three robust estimates of scale.

    The scale is never 0, so that a constant series has a scale too.
    """
    rounding = 1e-12 * float(np.abs(values).max())
    with np.errstate(over="ignore", invalid="ignore"):
        p1, p5, p25, p50, p75, p95, p99 = np.percentile(values, [1, 5, 25, 50, 75, 95, 99]).tolist()
        scale = max((p75 - p25) / 1.349, 0.7 * (p95 - p5) / 3.29, 0.4 * (p99 - p1) / 4.65)
        scale = scale if scale > rounding else float(values.std())
    scale = scale if scale > rounding else max(1e-3 * abs(p50), 1e-6)
    if not np.isfinite(scale):
        raise TrainingError("the values lie too far apart to be measured in floating point")
    return p50, scale
