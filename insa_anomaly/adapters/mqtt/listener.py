"""A subscriber for demonstrations and tests, which calls back for every message."""

from collections.abc import Callable, Sequence
from time import monotonic

from insa_anomaly.adapters.mqtt.access import Access, Terms
from insa_anomaly.adapters.mqtt.link import Link
from insa_anomaly.adapters.mqtt.packets import Message
from insa_anomaly.adapters.mqtt.session import Session

Heard = Callable[[str, bytes, float], None]


class Listener(Session):
    """Calls `heard(topic, payload, time.monotonic() of receipt)` for every message.

    The calls come in the thread that reads; the message is then acknowledged.
    """

    def __init__(self, access: Access, filters: Sequence[str], heard: Heard) -> None:
        super().__init__(access, Terms(filters, linger=0.0))
        self._heard = heard

    def delivered(self, link: Link, messages: list[Message], mids: list[int]) -> bool:
        """Call back for each message and acknowledge it."""
        now = monotonic()
        for topic, payload in messages:
            self._heard(topic, payload, now)
        link.client.acknowledge(mids)
        return True
