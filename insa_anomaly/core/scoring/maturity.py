"""Age of a model's series or device, and the part of its past that is learnt: the same for both.

While it is young everything is learnt. Of a mature one, the readings that alarmed stay out of
refits, until more than half of the last four refit steps alarmed: then that is the new normal, and
is learnt for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from insa_anomaly.core.units import DAY, Bools, Floats, Ints

_STEPS = 4
_NEW_LEVEL = 0.5
_FEWEST = 100  # readings that a model is learnt from


class MaturityParameters(Protocol):
    """Length of the history, and number of readings, from which on a model is mature."""

    @property
    def mature_days(self) -> float:
        """Least days of history."""

    @property
    def mature_readings(self) -> int:
        """Least readings."""


@dataclass(frozen=True)
class Maturity:
    """Age of a model, and the span of its past; times in microseconds since the epoch."""

    known: float  # readings, or rows, ever learnt from
    first: float  # time of the first reading that was ever given to training
    through: float  # time of the newest
    released: float  # readings before this time are learnt, whether they alarmed or not
    mature: bool


def grown(
    before: Maturity | None, times: Floats, interval_us: float, parameters: MaturityParameters
) -> Maturity:
    """Return the age of a model of readings at `times` [n], in order, a typical interval apart.

    `before` is the age of the model that served until now.
    """
    known, first, through, mature = float(len(times)), float(times[0]), float(times[-1]), False
    if before is not None:
        known = before.known + float((times > before.through).sum())
        first, through = min(first, before.first), max(through, before.through)
        mature = before.mature
    long = float(times[-1]) - first + interval_us >= parameters.mature_days * DAY
    mature = mature or (known >= parameters.mature_readings and long)
    return Maturity(known, first, through, released=float(times[-1]), mature=mature)


def quarantined(
    before: Maturity | None, times: Floats, anomalous: Ints, step: float
) -> tuple[Bools, float]:
    """Return which readings [n], in time order, are not learnt, and the time up to which all are.

    `anomalous` are the times of the readings that alarmed, `step` the readings between refits.
    """
    everything = np.zeros(len(times), np.bool_), float(times[-1])
    if before is None or not before.mature:
        return everything
    alarmed: Bools = np.isin(times, anomalous.astype(np.float64)) & (times > before.released)
    if alarmed[-_STEPS * int(step) :].mean() >= _NEW_LEVEL or (~alarmed).sum() < _FEWEST:
        return everything
    return alarmed, before.released
