"""What became of the injected faults: caught or missed, how soon, and what was told without a fault; and how fast it was told."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import msgspec

from insa_anomaly.core.notification.event import Event
from insa_anomaly.core.reading.parser import microseconds
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.workbench.demo.plant import HOUR, MINUTE, PlantFault

GRACE = 15 * MINUTE  # an episode that opens this long after a fault still means the fault
RECOVERY = HOUR  # what follows a fault is not normal either: an episode in it is no false alarm, but catches nothing


class Alarm(msgspec.Struct, frozen=True):
    """The opening of an episode: its series, the time of the reading (microseconds), its id."""

    key: SeriesKey
    at: int
    episode_id: str


@dataclass(frozen=True)
class FaultMatch:
    """A fault, and the alarm that caught it, if one did."""

    fault: PlantFault
    alarm: Alarm | None

    @property
    def delay(self) -> int | None:
        """Microseconds from the fault's start to the reading that opened the episode."""
        return None if self.alarm is None else self.alarm.at - self.fault.start


class DemoFigures(msgspec.Struct, frozen=True):
    """What a demonstration comes to, as it is printed in JSON; milliseconds are None where nothing was told."""

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
    """The alarm that the event raises: an opened episode; None for any other event."""
    at = microseconds(event.timestamp)
    return (
        Alarm(SeriesKey(event.device_id, event.metric_name), at, event.episode_id)
        if event.kind == "opened" and at is not None
        else None
    )


def cause(alarm: Alarm, faults: Sequence[PlantFault]) -> PlantFault | None:
    """The fault that the alarm catches."""
    return next(
        (
            fault
            for fault in faults
            if fault.key == alarm.key and fault.start <= alarm.at < fault.end + GRACE
        ),
        None,
    )


def findings(faults: Sequence[PlantFault], alarms: Sequence[Alarm]) -> list[FaultMatch]:
    """For every fault the first alarm that catches it."""
    by_time = sorted(alarms, key=lambda alarm: alarm.at)
    return [
        FaultMatch(fault, next((alarm for alarm in by_time if cause(alarm, [fault])), None))
        for fault in faults
    ]


def false_alarms(faults: Sequence[PlantFault], alarms: Sequence[Alarm]) -> list[Alarm]:
    """One alarm for each episode that no fault of its series explains, recovery included; by time."""
    episodes: dict[str, Alarm] = {}
    for alarm in sorted(alarms, key=lambda alarm: alarm.at):
        episodes.setdefault(alarm.episode_id, alarm)
    return [
        alarm for alarm in episodes.values() if not any(_touches(fault, alarm) for fault in faults)
    ]


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The value that `percent` of the values do not exceed, by nearest rank; None of no values."""
    return sorted(values)[max(ceil(percent / 100 * len(values)), 1) - 1] if values else None


def _touches(fault: PlantFault, alarm: Alarm) -> bool:
    return fault.key == alarm.key and fault.start <= alarm.at < fault.end + RECOVERY
