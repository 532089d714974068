"""The clock of the demonstration: simulated time against wall time, and the faults on it.

With a duration, `SPAN` of simulated time passes in it and ends at the present. Without a duration,
time starts a week ago at the pace of a minute's demonstration, catches up with the present in four
minutes, and then continues in real time, a reading a minute.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from insa_anomaly.core.units import SECOND
from insa_anomaly.workbench.demo.plant import HOUR, Plant, PlantFault

SPAN = 42 * HOUR
WEEK = 168 * HOUR
USUALSECONDS = 60.0  # in which SPAN passes where no duration is given
FIRST_FAULT = 2 * HOUR  # after the start: windows fill first
LAST_FAULT = HOUR  # before the end: a fault has time to be noticed


@dataclass(frozen=True)
class Schedule:
    """Simulated time from `start` to `end` (microseconds; None: no end).

    It passes `speed` times as fast as wall time from `started` (seconds) on.
    """

    start: int
    end: int | None
    speed: float
    started: float

    def due(self, timestamp: int) -> float:
        """Return the wall time (seconds) at which a reading is sent: never before its own time."""
        shown = self.started + (timestamp - self.start) / SECOND / self.speed
        return max(timestamp / SECOND, shown)

    def faults(self, plant: Plant) -> Iterator[PlantFault]:
        """Yield the faults, by start."""
        end = None if self.end is None else self.end - LAST_FAULT
        return plant.timetable(self.start + FIRST_FAULT, end)


def schedule(now: float, duration: float | None) -> Schedule:
    """Return the schedule of a demonstration that starts now (seconds since the epoch).

    It lasts `duration` seconds, or until it is stopped.
    """
    if duration is None:
        return Schedule(round(now * SECOND) - WEEK, None, SPAN / SECOND / USUALSECONDS, now)
    end = round((now + duration) * SECOND)
    span = max(SPAN, round(duration * SECOND))
    return Schedule(end - span, end, span / SECOND / duration, now)
