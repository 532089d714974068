"""Intake of messages into the log: hand-over, group commit, acknowledgement.

No message is acknowledged before it is on disk. The hand-over is bounded: while it is full the
broker's thread waits and reads no more from the socket; if that lasts too long, messages go back to
the broker.
"""

from collections import deque
from dataclasses import dataclass
from threading import Condition, Event

from insa_anomaly.errors import LogBroken, LogDead, LogFull
from insa_anomaly.instrumentation.intake import clock_stepped, messages_logged, messages_shed
from insa_anomaly.instrumentation.storage import log_not_trimmed, log_unwritable
from insa_anomaly.ports.broker import Broker, Delivery
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.log import Log, Swap
from insa_anomaly.ports.reserve import Reserve
from insa_anomaly.runtime.feed import Feed
from insa_anomaly.runtime.step import Step
from insa_anomaly.settings.sections import IntakeSettings

MOST_A_COMMIT = 5000
MOST_BYTES_A_COMMIT = 16 << 20
POST_SECONDS = 10.0
RETRY_SECONDS = 1.0
_Arrived = tuple[float, Delivery]  # with its monotonic arrival
STEP_SECONDS = 1.0  # of the system clock against the monotonic clock
_NO_RESERVE = "the disk is nearly full: there is no room for the reserve (storage.reserve_bytes)"


class _Posted(Delivery, frozen=True):
    """A message that no broker delivered; its sender waits until it is on disk."""

    durable: Event


@dataclass(eq=False)
class Intake(Step):
    """The only writer of the log."""

    log: Log
    feed: Feed
    clock: Clock
    settings: IntakeSettings
    reserve: Reserve | None = None

    def __post_init__(self) -> None:
        self._deliveries: deque[_Arrived] = deque()
        self._swaps: deque[Swap] = deque()
        self._waiting = 0  # messages
        self._waiting_bytes = 0
        self._drop_through = 0
        self._change = Condition()
        self.broker: Broker | None = None  # set once the broker exists, which needs `hand_over`
        self._closed = False
        self._ahead_s: float | None = None  # system clock minus monotonic clock
        self.trouble: str | None = None  # reason why no message is taken

    @property
    def writable(self) -> bool:
        """Whether the disk takes messages."""
        return self.trouble is None

    def hand_over(self, delivery: Delivery) -> bool:
        """Take a delivery; wait for room, and return False if there was none for too long.

        A closed intake takes no delivery: the broker delivers its messages again after the next
        start, because they are not acknowledged.
        """
        patience = self.settings.patience
        with self._change:
            room = self._change.wait_for(lambda: self._closed or self._has_room(), patience)
            if room and not self._closed:
                self._deliveries.append((self.clock.monotonic(), delivery))
                self._waiting += len(delivery.messages)
                self._waiting_bytes += _size(delivery)
                # Other deliveries let the group grow, and wake no thread.
                if len(self._deliveries) == 1 or self._waiting >= self.settings.messages:
                    self._change.notify_all()
        if not room:
            messages_shed(len(delivery.messages))
        return room

    def _has_room(self) -> bool:
        settings = self.settings
        return self._waiting < settings.waiting and self._waiting_bytes < settings.waiting_bytes

    def post(self, topic: str, payload: bytes) -> bool:
        """Take a message of no broker: True once it is on disk, False if that took too long."""
        posted = _Posted(0, [(topic, payload)], [0], Event())
        taken = not self._closed and self.hand_over(posted)
        return taken and posted.durable.wait(POST_SECONDS)

    def swap(self, swaps: list[Swap]) -> None:
        """Write model swaps into the log, before the messages of the same entry."""
        with self._change:
            self._swaps += swaps
            self._change.notify_all()

    def drop(self, through: int) -> None:
        """Let the log drop the entries that every reader has passed, between two commits."""
        self._drop_through = max(self._drop_through, through)

    def close(self) -> None:
        """Take no more deliveries."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def drain(self) -> None:
        """Commit the deliveries taken, unless the disk refuses."""
        while self._deliveries and self.writable:
            self.step(0.0)

    def step(self, timeout_s: float) -> float:
        """Commit and acknowledge a group of deliveries; wait up to `timeout_s` for the first.

        A group that the disk refused is tried again after a pause.
        """
        deliveries, swaps = self._gather(timeout_s)
        if deliveries or swaps:
            self._commit(deliveries, swaps)
        if self._drop_through:
            self._drop()
        return 0.0 if self.writable else RETRY_SECONDS

    def _drop(self) -> None:
        """Drop old entries; a full disk may refuse, and the next `drop` is the next attempt."""
        through, self._drop_through = self._drop_through, 0
        try:
            self.log.drop(through)
        except LogBroken as error:
            log_not_trimmed(str(error))

    def _gather(self, timeout_s: float) -> tuple[list[_Arrived], list[Swap]]:
        with self._change:
            self._change.wait_for(lambda: self._deliveries or self._swaps, timeout_s)
            if self._deliveries:
                left = self._deliveries[0][0] + self.settings.seconds - self.clock.monotonic()
                enough = self.settings.messages
                self._change.wait_for(lambda: self._waiting >= enough, max(0.0, left))
            taken, count, size = [], 0, 0
            while self._deliveries and count < MOST_A_COMMIT and size < MOST_BYTES_A_COMMIT:
                taken.append(self._deliveries.popleft())
                count += len(taken[-1][1].messages)
                size += _size(taken[-1][1])
            swaps = list(self._swaps)
            self._swaps.clear()
            return taken, swaps

    def _commit(self, deliveries: list[_Arrived], swaps: list[Swap]) -> None:
        if self.reserve is not None and not self.reserve.hold():
            self._put_back(deliveries, swaps, _NO_RESERVE)
            return
        messages = [message for _, delivery in deliveries for message in delivery.messages]
        now = self.clock.now()
        self._check_clock(now)
        try:
            entry = self.log.append(messages, swaps, now)
        except LogDead:
            raise  # only a new start may write the log again
        except LogBroken as error:
            if self.reserve is not None and not isinstance(error, LogFull):
                self.reserve.release()
            self._put_back(deliveries, swaps, str(error))
            return
        self.trouble = None
        self.feed.add(entry, deliveries[0][0] if deliveries else None)
        self._acknowledge([delivery for _, delivery in deliveries])
        for arrived, delivery in deliveries:
            messages_logged(len(delivery.messages), self.clock.monotonic() - arrived)
        self._release(len(messages), sum(_size(delivery) for _, delivery in deliveries))

    def _acknowledge(self, deliveries: list[Delivery]) -> None:
        """Acknowledge the broker's deliveries in one call, because each call wakes its thread."""
        of_broker = [one for one in deliveries if not isinstance(one, _Posted)]
        for one in deliveries:
            if isinstance(one, _Posted):
                one.durable.set()
        if self.broker is not None and of_broker:
            self.broker.acknowledge(*of_broker)

    def _check_clock(self, now: int) -> None:
        """Log a step of the system clock: no wait here depends on it, but readers of times do."""
        ahead = now / 1e6 - self.clock.monotonic()
        if self._ahead_s is not None and abs(ahead - self._ahead_s) > STEP_SECONDS:
            clock_stepped(ahead - self._ahead_s)
        self._ahead_s = ahead

    def _put_back(self, deliveries: list[_Arrived], swaps: list[Swap], reason: str) -> None:
        """Keep deliveries that the disk refused, unacknowledged, for another attempt."""
        if self.trouble is None:
            log_unwritable(reason)
        self.trouble = reason
        with self._change:
            self._deliveries.extendleft(reversed(deliveries))
            self._swaps.extendleft(reversed(swaps))

    def _release(self, count: int, size: int) -> None:
        with self._change:
            self._waiting -= count
            self._waiting_bytes -= size
            self._change.notify_all()


def _size(delivery: Delivery) -> int:
    """Return the bytes of a delivery's messages."""
    return sum(len(topic) + len(payload) for topic, payload in delivery.messages)
