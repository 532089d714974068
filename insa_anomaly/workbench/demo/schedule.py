"""The clock of the demonstration: how simulated time passes against wall time, and which faults lie on it.

With a duration, `SPAN` of simulated time passes in it and ends at the present. Without one, time starts a week ago at the pace
of a minute's demonstration, catches up with the present in four minutes, and then goes on in real time, a reading a minute.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from insa_anomaly.workbench.demo.plant import HOUR, Plant, PlantFault

SPAN = 42 * HOUR
WEEK = 168 * HOUR
USUAL_SECONDS = 60.0  # in which SPAN passes where no duration is given
FIRST_FAULT = 2 * HOUR  # after the start: windows fill first
LAST_FAULT = HOUR  # before the end: a fault has time to be noticed
_SECOND = 1_000_000


@dataclass(frozen=True)
class Schedule:
    """Simulated time from `start` to `end` (microseconds; None: no end), `speed` times as fast as wall time from `started` (seconds) on."""

    start: int
    end: int | None
    speed: float
    started: float

    def due(self, timestamp: int) -> float:
        """Wall time (seconds) at which to send the reading of this time: never before its own."""
        return max(
            timestamp / _SECOND, self.started + (timestamp - self.start) / _SECOND / self.speed
        )

    def faults(self, plant: Plant) -> Iterator[PlantFault]:
        """What goes wrong, by start."""
        return plant.timetable(
            self.start + FIRST_FAULT, None if self.end is None else self.end - LAST_FAULT
        )


def schedule(now: float, duration: float | None) -> Schedule:
    """The schedule of a demonstration that starts now (seconds since the epoch) and lasts `duration` seconds, or until it is stopped."""
    if duration is None:
        return Schedule(round(now * _SECOND) - WEEK, None, SPAN / _SECOND / USUAL_SECONDS, now)
    end = round((now + duration) * _SECOND)
    span = max(SPAN, round(duration * _SECOND))
    return Schedule(end - span, end, span / _SECOND / duration, now)
