"""The daemon's status on MQTT, retained: a new subscriber sees at once whether the daemon runs.

The broker states the rest: it publishes the last will when the connection ends unexpectedly.
"""

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from insa_anomaly.errors import BrokerAway
from insa_anomaly.ports.broker import Publisher

TOPIC = "insa/iiot/ml/status"


class StatusMessage(msgspec.Struct, frozen=True):
    """Status of the daemon, as it is published.

    `state` is running, degraded (for the `reasons`), stopped (in good order) or offline (published
    by the broker).
    """

    instance: str
    version: str
    state: str
    reasons: Sequence[str] = ()

    def payload(self) -> bytes:
        """Return the message as JSON."""
        return msgspec.json.encode(self)


def last_will(instance: str, version: str) -> tuple[str, bytes]:
    """Return topic and payload of the last will."""
    reasons = ["the connection ended without leave"]
    return TOPIC, StatusMessage(instance, version, "offline", reasons).payload()


class StatusPublisher:
    """Publishes a changed status, and on a new connection any: a last will may have come before."""

    def __init__(self, publisher: Publisher, instance: str, version: str) -> None:
        self._publisher = publisher
        self._instance = instance
        self._version = version
        self._published: tuple[int, bytes] | None = None  # generation of the connection, payload

    def publish(self, troubles: Sequence[str]) -> None:
        """Publish that the daemon runs, degraded by these troubles."""
        self._publish("degraded" if troubles else "running", troubles)

    def publish_stopped(self) -> None:
        """Publish that the daemon stops in good order."""
        self._publish("stopped")

    def _publish(self, state: str, reasons: Sequence[str] = ()) -> None:
        payload = StatusMessage(self._instance, self._version, state, reasons).payload()
        current = self._publisher.generation, payload
        if self._publisher.connected and current != self._published:
            with suppress(BrokerAway):  # the next connection has another generation
                self._publisher.publish(TOPIC, payload, retain=True)
                self._published = current
