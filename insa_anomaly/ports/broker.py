"""The MQTT broker: deliveries in, acknowledgements and events out."""

from typing import Protocol

import msgspec


class Delivery(msgspec.Struct, frozen=True):
    """Messages that arrived together.

    `mids` are their packet ids, 0 for a message without acknowledgement.
    """

    generation: int
    messages: list[tuple[str, bytes]]
    mids: list[int]


class Settled(msgspec.Struct, frozen=True):
    """The broker's answer to a publish: accepted, or refused with its reason."""

    token: int
    refused: str | None


class Publisher(Protocol):
    """The sending side of a broker connection.

    A token is valid for a single connection: when `generation` changes, unsettled events must be
    sent again.
    """

    @property
    def generation(self) -> int:
        """Number of connections and disconnections so far."""

    @property
    def connected(self) -> bool:
        """True between a granted connection and its end."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Send at QoS 1, and return a token. Raises BrokerAway."""

    def settled(self, timeout: float) -> list[Settled]:
        """Return the answers since the last call; wait up to `timeout` seconds for the first."""


class Broker(Publisher, Protocol):
    """The daemon's connection to the broker: deliveries in, acknowledgements and events out.

    Deliveries go to the callback that the broker was built with.
    """

    def acknowledge(self, *deliveries: Delivery) -> None:
        """Send PUBACK for deliveries of the current connection.

        Deliveries of an earlier connection are skipped, because the broker will deliver them again.
        """
