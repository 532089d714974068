"""A fast publisher for the workbench, which knows which messages the broker has accepted."""

from collections.abc import Callable
from contextlib import suppress
from threading import Condition

from insa_anomaly.adapters.mqtt.access import Access, Backoff, Terms
from insa_anomaly.adapters.mqtt.client import FastClient
from insa_anomaly.adapters.mqtt.link import Link
from insa_anomaly.adapters.mqtt.packets import Message, encode_publish, refusal, unpublishable
from insa_anomaly.adapters.mqtt.session import Session
from insa_anomaly.errors import BrokerAway, BrokerRefused

_TOGETHER = 128  # packets sent in one piece
_MIDS = 0xFFFF


class Feeder(Session):
    """Publishes at QoS 1 with at most `window` unacknowledged messages.

    Unacknowledged messages are sent again on the next connection. Packets gather while others are
    in flight and go out with the next acknowledgement, so that a lone message is sent at once and
    many are sent together. `acknowledged` is called with messages as the broker accepts them, in
    the thread that reads.
    """

    def __init__(
        self,
        access: Access,
        *,
        window: int = 2000,
        patience: float = 30.0,
        acknowledged: Callable[[list[Message]], None] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(access, Terms(linger=0.001), backoff=backoff or Backoff(0.2, 5.0))
        self._most = window
        self._patience = patience
        self._acknowledged = acknowledged
        self._window = window
        self._pending: dict[int, Message] = {}  # by packet id, oldest first
        self._gathered: list[int] = []
        self._mid = 0
        self._change = Condition()
        self.count_acknowledged = 0
        self.count_refused = 0

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message, or wait while too many messages are unacknowledged.

        Raises BrokerAway after too long a wait, BrokerRefused.
        """
        fault = unpublishable(topic, payload, self._link.most if self._link else 1 << 18)
        if fault:
            raise BrokerRefused(f"{topic[:200]!r}: {fault}")
        with self._change:
            mid = self._mid % _MIDS + 1
            while len(self._pending) >= self._window or mid in self._pending:
                self._flush()
                if not self._change.wait(self._patience):
                    raise BrokerAway(f"The MQTT broker acknowledges nothing: {self.trouble}")
            self._mid = mid
            self._pending[mid] = topic, payload
            self._gathered.append(mid)
            if len(self._gathered) >= _TOGETHER or len(self._gathered) == len(self._pending):
                self._flush()

    def drain(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for acknowledgements.

        Returns how many are missing, refused messages included.
        """
        with self._change:
            self._flush()
            self._change.wait_for(lambda: not self._pending, timeout)
            return len(self._pending) + self.count_refused

    def unacknowledged(self) -> list[Message]:
        """Return the messages that the broker has not accepted yet, oldest first."""
        with self._change:
            return list(self._pending.values())

    def _flush(self) -> None:
        link = self._link
        if link is None or not self._gathered:
            return  # all pending messages are sent on the next connection
        packets = b"".join(
            encode_publish(*self._pending[mid], mid, link.protocol) for mid in self._gathered
        )
        self._gathered.clear()
        if isinstance(link.client, FastClient):
            # The connection may be ending: pending messages are then sent on the next connection.
            with suppress(OSError):
                link.client.send_raw(packets)

    # --------------------------------------------------------------------- in the thread that reads
    def granted(self, link: Link, *, session_present: bool) -> None:
        """Send all unacknowledged messages again, in their order."""
        super().granted(link, session_present=session_present)
        with self._change:
            self._window = min(self._most, link.receive_maximum)
            self._gathered = list(self._pending)
            self._flush()

    def answered(self, link: Link, answers: list[tuple[int, int]]) -> None:
        """Count the messages that the broker accepted or refused."""
        del link
        with self._change:
            taken = [
                self._pending.pop(mid)
                for mid, reason in answers
                if mid in self._pending and refusal(reason) is None
            ]
            refused = [self._pending.pop(mid) for mid, reason in answers if mid in self._pending]
            self.count_acknowledged += len(taken)
            self.count_refused += len(refused)
            # Waking the publisher for every message would cost five times as much.
            if len(self._pending) - len(self._gathered) <= self._window // 2:
                self._flush()
                self._change.notify_all()
        if self._acknowledged:
            self._acknowledged(taken)
