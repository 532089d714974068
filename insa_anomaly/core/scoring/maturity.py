"""How old a model's series or device is, and which of its past is learnt: the same for both.

While it is young everything is learnt. Of a mature one, what alarmed stays out of refits, until more than half of the last four refit
steps alarmed: then that is how it is now, and is learnt for good.
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
    """With a history as long as this and as many readings as this, a model is mature."""

    @property
    def mature_days(self) -> float:
        """So many days."""

    @property
    def mature_readings(self) -> int:
        """So many readings."""


@dataclass(frozen=True)
class Maturity:
    """What a model has behind it; times in microseconds since the epoch."""

    known: float  # readings, or rows, ever learnt from
    first: float  # time of the first of all that were given to training
    through: float  # time of the newest
    released: float  # what lies before this time is learnt, whether it alarmed or not
    mature: bool


def grown(
    before: Maturity | None, times: Floats, interval: float, parameters: MaturityParameters
) -> Maturity:
    """The life of a model of readings at `times` [n], in order, a typical `interval` apart; `before`: of the model that served till now."""
    known, first, through, mature = float(len(times)), float(times[0]), float(times[-1]), False
    if before is not None:
        known = before.known + float((times > before.through).sum())
        first, through, mature = (
            min(first, before.first),
            max(through, before.through),
            before.mature,
        )
    long = float(times[-1]) - first + interval >= parameters.mature_days * DAY
    return Maturity(
        known,
        first,
        through,
        float(times[-1]),
        mature or (known >= parameters.mature_readings and long),
    )


def quarantined(
    before: Maturity | None, times: Floats, anomalous: Ints, step: float
) -> tuple[Bools, float]:
    """Which of the readings [n], in order of time, are not learnt, and up to when all are released.

    anomalous: times of those that alarmed; step: readings between refits.
    """
    nothing = np.zeros(len(times), np.bool_), float(times[-1])
    if before is None or not before.mature:
        return nothing
    alarmed: Bools = np.isin(times, anomalous.astype(np.float64)) & (times > before.released)
    if alarmed[-_STEPS * int(step) :].mean() >= _NEW_LEVEL or (~alarmed).sum() < _FEWEST:
        return nothing
    return alarmed, before.released
