"""How often a series reports, learnt from its pauses; and which devices have been silent for longer than that allows.

The longest usual pause of a series is the longest one seen, fading with time, so that a machine that rests every weekend, or a sensor
that reports by exception, is not missed on Sunday. A pause that was out of the ordinary counts only as far as what was ordinary until then
allows: a habit is learnt, an accident is not. All times are seconds of a clock that only moves forward.
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
    """A series is learnt after `pauses` of them that span `spans` times the longest; it is overdue after `factor` times that one.

    No device is silent before `device_seconds`, nor is the stream before `stream_seconds`. What is learnt fades over `memory_seconds`.
    Where the share `stream_share` of all devices falls silent together, it is the stream.
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
    """Of n series: the longest usual pause, how many pauses were seen, and the seconds they span."""

    longest: Floats
    pauses: Floats
    span: Floats

    @classmethod
    def unknown(cls, n: int) -> "Cadence":
        """Nothing is known of them."""
        return cls(np.zeros(n), np.zeros(n), np.zeros(n))

    def rows(self, which: Ints | slice) -> "Cadence":
        """These of them."""
        return Cadence(self.longest[which], self.pauses[which], self.span[which])

    def put(self, which: Ints, rows: "Cadence") -> None:
        """Write these rows."""
        self.longest[which], self.pauses[which], self.span[which] = (
            rows.longest,
            rows.pauses,
            rows.span,
        )

    def padded(self, n: int) -> "Cadence":
        """With room for n."""
        more = n - len(self.longest)
        return Cadence(
            np.pad(self.longest, (0, more)),
            np.pad(self.pauses, (0, more)),
            np.pad(self.span, (0, more)),
        )


def learnt(cadence: Cadence, pauses: Floats, least: float, patience: Patience) -> Cadence:
    """After one more pause of each, in seconds; none up to `least` is out of the ordinary."""
    counted = np.minimum(pauses, limits(cadence, least, patience))
    fading = np.exp(-pauses / patience.memory_seconds)
    return Cadence(
        np.maximum(counted, cadence.longest * fading), cadence.pauses + 1, cadence.span + pauses
    )


def limits(cadence: Cadence, least: float, patience: Patience) -> Floats:
    """Seconds [n] after which each is overdue, `least` or more; infinite where too little is known."""
    known = (cadence.pauses >= patience.pauses) & (cadence.span >= patience.spans * cadence.longest)
    return np.where(known, np.maximum(least, patience.factor * cadence.longest), np.inf)


def overdue(
    ages: Floats, device: Ints, devices: int, cadence: Cadence, patience: Patience
) -> tuple[Floats, Floats]:
    """How long each device [devices] has been silent, and how long it may; `ages` [n] of the newest reading of each series, in seconds.

    A device is silent once nothing came of it for longer than its most talkative series allows. A series that has been missing while its
    device talked on says nothing of the device.
    """
    limit = limits(cadence, patience.device_seconds, patience)
    silent_for = np.full(devices, np.inf)
    np.minimum.at(silent_for, device, ages)
    limit = np.where(ages - silent_for[device] > limit, np.inf, limit)
    allowed = np.full(devices, np.inf)
    np.minimum.at(allowed, device, limit)
    return silent_for, allowed
