"""An independent subscriber: the events on MQTT, and the time at which each arrived."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.benchmarks.publisher import Place


class _Told(msgspec.Struct):
    timestamp: str | int
    event_id: str = ""
    kind: str = ""


@dataclass
class Audience:
    """Payloads as they arrived."""

    # Microseconds since the epoch, payload.
    heard: list[tuple[int, bytes]] = field(default_factory=list)

    def latencies(self, since: int, until: int) -> list[float]:
        """Return the seconds from the timestamp of a reading to the arrival of its event.

        Only readings of this span (microseconds) count.
        """
        stamped = [
            (came, _microseconds(msgspec.json.decode(payload, type=_Told).timestamp))
            for came, payload in self.heard
        ]
        return sorted((came - stamp) / 1e6 for came, stamp in stamped if since <= stamp < until)

    def events(self) -> tuple[int, int]:
        """Return the number of events, and the number of different events."""
        ids = [msgspec.json.decode(payload, type=_Told).event_id for _, payload in self.heard]
        return len(ids), len(set(ids))


def _microseconds(stamp: str | int) -> int:
    if isinstance(stamp, int):
        return stamp
    return round(datetime.fromisoformat(stamp).timestamp() * 1e6)


@contextmanager
def audience(place: Place, topics: str) -> Iterator[Audience]:
    """Subscribe for the length of the block."""
    found, granted = Audience(), threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, f"audience-{topics.partition('/')[0]}")
    client.username_pw_set(place.user, place.password)
    client.on_message = lambda _client, _data, message: found.heard.append(
        (time.time_ns() // 1000, bytes(message.payload))
    )
    client.on_subscribe = lambda *_: granted.set()
    client.connect(place.host, place.port)
    client.subscribe(topics, 1)
    client.loop_start()
    try:
        if not granted.wait(10.0):
            message = f"no subscription to {topics}"
            raise TimeoutError(message)
        yield found
    finally:
        client.disconnect()
        client.loop_stop()
