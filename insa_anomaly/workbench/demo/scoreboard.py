"""Scores of the demonstration: faults caught or missed, how soon, and false alarms."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import msgspec

from insa_anomaly.core.notification.event import Event
from insa_anomaly.core.reading.parser import microseconds
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.workbench.demo.plant import HOUR, MINUTE, PlantFault

GRACE = 15 * MINUTE  # an episode that opens this long after a fault still means the fault
RECOVERY = HOUR  # after a fault: an episode in it is no false alarm, but catches no fault


class Alarm(msgspec.Struct, frozen=True):
    """The opening of an episode: its series, the time of the reading (microseconds), its id."""

    key: SeriesKey
    at: int
    episode_id: str


@dataclass(frozen=True)
class FaultMatch:
    """A fault, and the alarm that caught it, if any."""

    fault: PlantFault
    alarm: Alarm | None

    @property
    def delay(self) -> int | None:
        """Microseconds from the fault's start to the reading that opened the episode."""
        return None if self.alarm is None else self.alarm.at - self.fault.start


class DemoFigures(msgspec.Struct, frozen=True):
    """Figures of a demonstration as printed in JSON; milliseconds are None without events."""

    readings_published: int
    readings_stored: int
    lost: int
    duplicates: int
    events: int
    faults_injected: int
    faults_caught: int
    false_alarm_episodes: int
    p50_ms: float | None
    p99_ms: float | None


def alarm_of(event: Event) -> Alarm | None:
    """Return the alarm of an event that opens an episode; None for any other event."""
    at = microseconds(event.timestamp)
    if event.kind != "opened" or at is None:
        return None
    return Alarm(SeriesKey(event.device_id, event.metric_name), at, event.episode_id)


def cause(alarm: Alarm, faults: Sequence[PlantFault]) -> PlantFault | None:
    """Return the fault that the alarm catches."""
    return next((fault for fault in faults if _touches(fault, alarm, GRACE)), None)


def findings(faults: Sequence[PlantFault], alarms: Sequence[Alarm]) -> list[FaultMatch]:
    """Return, for every fault, the first alarm that catches it."""
    by_time = sorted(alarms, key=lambda alarm: alarm.at)
    return [
        FaultMatch(fault, next((alarm for alarm in by_time if cause(alarm, [fault])), None))
        for fault in faults
    ]


def false_alarms(faults: Sequence[PlantFault], alarms: Sequence[Alarm]) -> list[Alarm]:
    """Return the alarms, by time, that no fault of their series explains, recovery included."""
    episodes: dict[str, Alarm] = {}
    for alarm in sorted(alarms, key=lambda alarm: alarm.at):
        episodes.setdefault(alarm.episode_id, alarm)
    return [
        alarm
        for alarm in episodes.values()
        if not any(_touches(fault, alarm, RECOVERY) for fault in faults)
    ]


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the value that `percent` of the values do not exceed, by nearest rank, if any."""
    return sorted(values)[max(ceil(percent / 100 * len(values)), 1) - 1] if values else None


def _touches(fault: PlantFault, alarm: Alarm, after: int) -> bool:
    return fault.key == alarm.key and fault.start <= alarm.at < fault.end + after
