"""Cadence: how often a series reports, learnt from its pauses, and which devices are overdue.

The longest usual pause of a series is the longest pause seen, fading with time. So a machine that
rests every weekend, or a sensor that reports by exception, is not missed on Sunday. An unusually
long pause counts only as far as earlier pauses allow: a habit is learnt, an accident is not. All
times are seconds of a clock that only moves forward.
"""

from dataclasses import dataclass
from math import inf
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le, Lt

from insa_anomaly.core.bounds import Count, Positive, check
from insa_anomaly.core.units import Floats, Ints


@dataclass(frozen=True)
class Patience:
    """Limits of silence.

    A series is known after `pauses` pauses that span `spans` times the longest; it is overdue after
    `factor` times the longest. No device is silent before `device_seconds`, nor the stream before
    `stream_seconds`. Pauses fade over `memory_seconds`. If the share `stream_share` of all devices
    falls silent together, the stream is silent.
    """

    factor: Annotated[float, Gt(1), Lt(inf)] = 3.0
    pauses: Count = 20
    spans: Positive = 10.0
    memory_seconds: Positive = 1_209_600.0
    device_seconds: Positive = 300.0
    stream_seconds: Positive = 60.0
    stream_share: Annotated[float, Gt(0), Le(1)] = 0.5

    def __post_init__(self) -> None:
        """Raise ParameterError for a value out of bounds."""
        check(self)


@dataclass(frozen=True)
class Cadence:
    """Cadence of n series: longest usual pause, number of pauses, and the seconds they span."""

    longest: Floats
    pauses: Floats
    span: Floats

    @classmethod
    def unknown(cls, n: int) -> "Cadence":
        """Return the cadence of n series without pauses."""
        return cls(np.zeros(n), np.zeros(n), np.zeros(n))

    def rows(self, which: Ints | slice) -> "Cadence":
        """Select rows by index."""
        return Cadence(self.longest[which], self.pauses[which], self.span[which])

    def put(self, which: Ints, rows: "Cadence") -> None:
        """Write rows by index."""
        for name, column in vars(self).items():
            column[which] = getattr(rows, name)

    def padded(self, n: int) -> "Cadence":
        """Return the cadence with room for n series."""
        more = n - len(self.longest)
        return Cadence(*(np.pad(column, (0, more)) for column in vars(self).values()))


def learnt(cadence: Cadence, pauses: Floats, least: float, patience: Patience) -> Cadence:
    """Return the cadence after a pause of each series, in seconds; up to `least` is usual."""
    counted = np.minimum(pauses, limits(cadence, least, patience))
    faded = cadence.longest * np.exp(-pauses / patience.memory_seconds)
    return Cadence(np.maximum(counted, faded), cadence.pauses + 1, cadence.span + pauses)


def limits(cadence: Cadence, least: float, patience: Patience) -> Floats:
    """Return the seconds [n] after which each series is overdue, infinite while unknown."""
    known = (cadence.pauses >= patience.pauses) & (cadence.span >= patience.spans * cadence.longest)
    return np.where(known, np.maximum(least, patience.factor * cadence.longest), np.inf)


def overdue(
    ages: Floats, device: Ints, devices: int, cadence: Cadence, patience: Patience
) -> tuple[Floats, Floats]:
    """Return how long each device [devices] has been silent, and how long it may be.

    `ages` [n] are the seconds since the newest reading of each series. A device is silent after the
    limit of its most frequent series. A series that is missing while its device reports does not
    count.
    """
    limit = limits(cadence, patience.device_seconds, patience)
    silent_for = np.full(devices, np.inf)
    np.minimum.at(silent_for, device, ages)
    limit = np.where(ages - silent_for[device] > limit, np.inf, limit)
    allowed = np.full(devices, np.inf)
    np.minimum.at(allowed, device, limit)
    return silent_for, allowed
