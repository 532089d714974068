"""The ledger of the demonstration: send times, events without repetitions, and their latencies."""

from collections.abc import Callable
from queue import Empty, Queue

import msgspec

from insa_anomaly.core.notification.event import Event
from insa_anomaly.core.reading.parser import microseconds
from insa_anomaly.workbench.demo.scoreboard import Alarm, alarm_of
from insa_anomaly.workbench.recordings.recording import Row
from insa_anomaly.workbench.recordings.replay import TOPIC, Message, moment

_MOST_SENT = 200_000  # send times kept; an event about an older reading is not measured
_MOST_HEARD = 10_000
_MOST_TOLD = 100_000
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event).decode


class Ledger:
    """Ledger of two threads: the sender calls `message` and reads, the listener calls `hear`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.readings = 0
        self.first = self.last = 0  # times of the oldest and newest reading sent, microseconds
        self.events = 0
        self.alarms: list[Alarm] = []
        self.latencies: list[float] = []  # milliseconds
        self._now = now
        self._sent: dict[tuple[str, int], float] = {}
        self._told: dict[str, None] = {}
        self._heard: Queue[tuple[float, bytes]] = Queue(_MOST_HEARD)

    def message(self, row: Row) -> Message:
        """Return topic and payload of a row, stamped with the time of sending, in seconds."""
        sent = self._sent[row.device_id, row.timestamp] = self._now()
        if len(self._sent) > _MOST_SENT:
            del self._sent[next(iter(self._sent))]
        self.readings += len(row.values)
        self.first, self.last = self.first or row.timestamp, row.timestamp
        place = {"device_id": row.device_id, "timestamp": moment(row.timestamp), "id": row.id}
        payload = place | {"sent": sent, "metrics": row.values}
        return f"{TOPIC}/{row.device_id}", _encode(payload)

    def hear(self, payload: bytes) -> None:
        """Note an event as it arrives; wait while ten thousand are unread."""
        self._heard.put((self._now(), payload))

    def next_event(self, timeout: float) -> Event | None:
        """Return the next new event, waiting up to `timeout` seconds.

        Payloads that are no event are skipped.
        """
        try:
            arrived, payload = self._heard.get(timeout > 0, timeout)
            event = _decode(payload)
        except (Empty, msgspec.MsgspecError):
            return None
        if event.event_id in self._told:
            return None
        self._count(event, arrived)
        return event

    def _count(self, event: Event, arrived: float) -> None:
        self.events += 1
        self._told[event.event_id] = None
        if len(self._told) > _MOST_TOLD:
            del self._told[next(iter(self._told))]
        sent = self._sent.get((event.device_id, microseconds(event.timestamp) or 0))
        if sent is not None:
            self.latencies.append((arrived - sent) * 1000)
        if alarm := alarm_of(event):
            self.alarms.append(alarm)
