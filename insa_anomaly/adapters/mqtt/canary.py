"""A canary: a message of our own that proves that the broker delivers to us.

A granted subscription is no proof: some brokers grant a subscription that their access list then
withholds. So we publish a message at intervals that must come back to us. Any other message that
arrives is proof as well: behind a long queue the canary is late without a fault. Some brokers hang
up on a client that uses a forbidden topic (mosquitto 2.0 does). A lasting connection is worth more
than a canary, so a denied canary is not sent again for an hour.
"""

from math import inf
from secrets import token_hex

from insa_anomaly.adapters.mqtt.packets import Message

DEADLINE_SECONDS = 10.0  # in which the canary or any other message must arrive
EVERY_SECONDS = 60.0
DENIED_SECONDS = 3600.0
_HANGING_UP = 2  # connections lost in a row right after the canary was sent: taken for a denial
_RIGHT_AFTER = 2.0  # seconds; a network failure is noticed later, or at this moment by chance


class Canary:
    """A message published to `topic` on every connection; None: never.

    Times are monotonic seconds. For a single thread; any thread may read `trouble`.
    """

    def __init__(self, topic: str | None) -> None:
        self._topic = topic
        self._doubt: str | None = None
        self._denial: str | None = None  # outlives the connection
        self._proved = False  # a message came on this connection
        self._payload = b""  # of the canary that has not come back yet
        self._mid = 0
        self._deadline = self._next = inf
        self._sent = -inf
        self._denied_until = -inf
        self._hung_up = 0

    @property
    def trouble(self) -> str | None:
        """Reason to doubt that the broker delivers to us; None while a message proves it or may."""
        return self._doubt or (None if self._proved else self._denial)

    def begin(self, refused: str | None, now: float) -> None:
        """Start on a subscribed connection; `refused` is why the canary's topic was not granted."""
        self._forget()
        if self._topic is None:
            return
        if refused is not None:
            self._deny(f"the broker does not let us subscribe to {self._topic} ({refused})", now)
        self._next = max(now, self._denied_until)

    def end(self, now: float, *, lost: bool) -> None:
        """Forget a canary in flight: its connection ended, `lost` if without a DISCONNECT."""
        hung_up = lost and self._payload and now - self._sent < _RIGHT_AFTER
        self._hung_up = self._hung_up + 1 if hung_up else 0
        if self._hung_up >= _HANGING_UP:
            self._deny(f"the broker hangs up when we publish to {self._topic}", now)
        self._forget()

    def _forget(self) -> None:
        self._doubt, self._proved, self._payload, self._mid, self._next = None, False, b"", 0, inf

    def _deny(self, said: str, now: float) -> None:
        self._denial = (
            f"{said}, so nothing proves that it delivers to us:"
            " allow it, or set broker.canary to null"
        )
        self._denied_until = self._next = now + DENIED_SECONDS

    def due(self, now: float) -> tuple[str, bytes] | None:
        """Return topic and payload of a canary to publish now, None if none is due.

        `sent` then reports its packet id.
        """
        if self._payload and now > self._deadline:
            self._payload = b""
            self._doubt = (
                f"the broker delivers nothing to us: what we published to {self._topic}"
                f" did not come back within {DEADLINE_SECONDS:.0f} s;"
                f" its access list may forbid us to read"
            )
        if self._topic is None or self._payload or now < self._next:
            return None
        self._payload = token_hex(8).encode()
        self._sent, self._next, self._deadline = now, now + EVERY_SECONDS, now + DEADLINE_SECONDS
        return self._topic, self._payload

    def sent(self, mid: int) -> None:
        """Remember the packet id of the canary just published."""
        self._mid = mid

    def answered(self, mid: int, refused: str | None, now: float) -> bool:
        """Return whether this was the answer to the canary."""
        if not self._mid or mid != self._mid:
            return False
        self._mid = 0
        if refused is not None:
            self._payload = b""
            self._deny(f"the broker does not let us publish to {self._topic} ({refused})", now)
        return True

    def heard(
        self, messages: list[Message], mids: list[int], now: float
    ) -> tuple[list[Message], list[int], list[int]]:
        """Return messages and packet ids without the canary's topic.

        The third list holds the canaries' packet ids that are to be acknowledged.
        """
        self._proved, self._doubt, self._deadline = True, None, now + DEADLINE_SECONDS
        if self._topic is None or all(topic != self._topic for topic, _ in messages):
            return messages, mids, []
        if (self._topic, self._payload) in messages:
            self._payload, self._denial, self._hung_up = b"", None, 0
        ours = [topic == self._topic for topic, _ in messages]
        others = [i for i, own in enumerate(ours) if not own]
        own_mids = [mid for mid, own in zip(mids, ours, strict=True) if own and mid]
        return [messages[i] for i in others], [mids[i] for i in others], own_mids
