"""The daemon's state on MQTT, retained: whoever subscribes sees at once whether it runs, and what keeps it from doing all of its job.

The broker says the rest: it publishes the last will (`gone`) when the connection ends without leave.
"""

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from insa_anomaly.errors import BrokerAway
from insa_anomaly.ports import Publisher

TOPIC = "insa/iiot/ml/status"


class StatusMessage(msgspec.Struct, frozen=True):
    """`state` is running, degraded (`reasons` say why), stopped (in good order) or offline (the broker's word for no word)."""

    instance: str
    version: str
    state: str
    reasons: Sequence[str] = ()

    def payload(self) -> bytes:
        """As it is published."""
        return msgspec.json.encode(self)


def gone(instance: str, version: str) -> tuple[str, bytes]:
    """Topic and payload of the last will."""
    return TOPIC, StatusMessage(
        instance, version, "offline", ["the connection ended without leave"]
    ).payload()


class StatusPublisher:
    """Publishes the state when it changes, and on every new connection, where the last will may have been published meanwhile."""

    def __init__(self, publisher: Publisher, instance: str, version: str) -> None:
        self._publisher = publisher
        self._instance = instance
        self._version = version
        self._said: tuple[int, bytes] | None = None

    def say(self, troubles: Sequence[str]) -> None:
        """What is so now."""
        self._publish(
            StatusMessage(
                self._instance, self._version, "degraded" if troubles else "running", troubles
            )
        )

    def say_stopped(self) -> None:
        """We leave in good order."""
        self._publish(StatusMessage(self._instance, self._version, "stopped"))

    def _publish(self, announcement: StatusMessage) -> None:
        said = self._publisher.generation, announcement.payload()
        if self._publisher.connected and said != self._said:
            with suppress(BrokerAway):  # the next connection has a number of its own
                self._publisher.publish(TOPIC, said[1], retain=True)
                self._said = said
