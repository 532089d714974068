"""From the broker into the log: hand-over, group commit, acknowledgement.

Nothing is acknowledged before it is on disk. The hand-over is bounded: when it is full the broker's thread waits, which stops
reading from the socket, and when that lasts too long the messages go back to the broker.
"""

from collections import deque
from collections.abc import Callable
from threading import Condition, Event
from time import monotonic

from insa_anomaly import instrumentation
from insa_anomaly.errors import LogBroken, LogDead, LogFull
from insa_anomaly.ports.broker import Broker, Delivery
from insa_anomaly.ports.log import Log, Swap
from insa_anomaly.ports.reserve import Reserve
from insa_anomaly.runtime.feed import Feed
from insa_anomaly.runtime.step import Step
from insa_anomaly.settings.sections import IntakeSettings

MOST_A_COMMIT = 5000
MOST_BYTES_A_COMMIT = 16 << 20
POST_SECONDS = 10.0
RETRY_SECONDS = 1.0
STEP_SECONDS = 1.0  # of the clock, against the one that only goes forward


class _Posted(Delivery, frozen=True):
    """A message that came by another way than the broker; whoever brought it waits until it is on disk."""

    durable: Event


class Intake(Step):
    """The only writer of the log."""

    def __init__(
        self,
        log: Log,
        feed: Feed,
        clock: Callable[[], int],
        grouping: IntakeSettings,
        reserve: Reserve | None = None,
    ) -> None:
        self._log = log
        self._feed = feed
        self._clock = clock
        self._grouping = grouping
        self._reserve = reserve
        self._deliveries: deque[tuple[float, Delivery]] = deque()
        self._swaps: deque[Swap] = deque()
        self._waiting = 0
        self._waiting_bytes = 0
        self._drop_through = 0
        self._change = Condition()
        self.broker: Broker | None = None  # set once the broker, which needs `hand_over`, is there
        self._closed = False
        self._ahead: float | None = None  # the clock on the wall before the monotonic one, seconds
        self.trouble: str | None = None  # why nothing is taken

    @property
    def writable(self) -> bool:
        """Whether the disk takes what comes."""
        return self.trouble is None

    def hand_over(self, delivery: Delivery) -> bool:
        """Take a delivery; blocks while there is no room, False when there was none for too long.

        Once closed it takes nothing and says nothing: unacknowledged, the messages come again after the next start.
        """
        with self._change:
            room = self._change.wait_for(
                lambda: self._closed or self._has_room(), self._grouping.patience
            )
            if room and not self._closed:
                self._deliveries.append((monotonic(), delivery))
                self._waiting += len(delivery.messages)
                self._waiting_bytes += _weight(delivery)
                if (
                    len(self._deliveries) == 1 or self._waiting >= self._grouping.messages
                ):  # else the writer lets the group grow
                    self._change.notify_all()
        if not room:
            instrumentation.messages_shed(len(delivery.messages))
        return room

    def _has_room(self) -> bool:
        return (
            self._waiting < self._grouping.waiting
            and self._waiting_bytes < self._grouping.waiting_bytes
        )

    def post(self, topic: str, payload: bytes) -> bool:
        """Take one message from somewhere else; True once it is on disk, False where there was no room or no disk for too long."""
        durable = Event()
        return (
            not self._closed
            and self.hand_over(_Posted(0, [(topic, payload)], [0], durable))
            and durable.wait(POST_SECONDS)
        )

    def swap(self, swaps: list[Swap]) -> None:
        """Write model swaps into the log, before the messages that are written with them."""
        with self._change:
            self._swaps += swaps
            self._change.notify_all()

    def drop(self, through: int) -> None:
        """Let the log forget what every reader is past; done between two writes."""
        self._drop_through = max(self._drop_through, through)

    def close(self) -> None:
        """Take no more deliveries."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def drain(self) -> None:
        """Write what was taken, unless the disk refuses."""
        while self._deliveries and self.writable:
            self.step(0.0)

    def step(self, timeout_s: float) -> float:
        """Write and acknowledge what is there; wait up to `timeout_s` seconds for the first of it."""
        deliveries, swaps = self._gather(timeout_s)
        if deliveries or swaps:
            self._write(deliveries, swaps)
        if self._drop_through:
            self._drop()
        return 0.0

    def _drop(self) -> None:
        """A full disk may refuse even this; the next `drop` is the next attempt."""
        through, self._drop_through = self._drop_through, 0
        try:
            self._log.drop(through)
        except LogBroken as error:
            instrumentation.log_not_trimmed(str(error))

    def _gather(self, timeout_s: float) -> tuple[list[tuple[float, Delivery]], list[Swap]]:
        with self._change:
            self._change.wait_for(lambda: self._deliveries or self._swaps, timeout_s)
            if self._deliveries:
                left = self._deliveries[0][0] + self._grouping.seconds - monotonic()
                self._change.wait_for(
                    lambda: self._waiting >= self._grouping.messages, max(0.0, left)
                )
            taken, count, weight = [], 0, 0
            while self._deliveries and count < MOST_A_COMMIT and weight < MOST_BYTES_A_COMMIT:
                taken.append(self._deliveries.popleft())
                count += len(taken[-1][1].messages)
                weight += _weight(taken[-1][1])
            swaps = list(self._swaps)
            self._swaps.clear()
            return taken, swaps

    def _write(self, deliveries: list[tuple[float, Delivery]], swaps: list[Swap]) -> None:
        if self._reserve is not None and not self._reserve.hold():
            self._put_back(
                deliveries,
                swaps,
                "the disk is nearly full: there is no room for the reserve (storage.reserve_bytes)",
            )
            return
        messages = [message for _, delivery in deliveries for message in delivery.messages]
        now = self._clock()
        self._watch_clock(now)
        try:
            entry = self._log.append(messages, swaps, now)
        except LogDead:
            raise  # only a new start may write it again
        except LogBroken as error:
            if self._reserve is not None and not isinstance(error, LogFull):
                self._reserve.release()
            self._put_back(deliveries, swaps, str(error))
            return
        self.trouble = None
        self._feed.add(entry, deliveries[0][0] if deliveries else None)
        self._acknowledge([delivery for _, delivery in deliveries])
        for came, delivery in deliveries:
            instrumentation.messages_logged(len(delivery.messages), monotonic() - came)
        self._make_room(len(messages), sum(_weight(delivery) for _, delivery in deliveries))

    def _acknowledge(self, deliveries: list[Delivery]) -> None:
        """Those of the broker together, since every call wakes its thread."""
        posted = [one for one in deliveries if isinstance(one, _Posted)]
        for one in posted:
            one.durable.set()
        if self.broker is not None and len(posted) < len(deliveries):
            self.broker.acknowledge(*(one for one in deliveries if not isinstance(one, _Posted)))

    def _watch_clock(self, now: int) -> None:
        """Nothing here waits by the clock on the wall, so a step of it does no harm; but whoever reads times should know."""
        ahead = now / 1e6 - monotonic()
        if self._ahead is not None and abs(ahead - self._ahead) > STEP_SECONDS:
            instrumentation.clock_stepped(ahead - self._ahead)
        self._ahead = ahead

    def _put_back(
        self, deliveries: list[tuple[float, Delivery]], swaps: list[Swap], reason: str
    ) -> None:
        """The disk does not take it: keep it, acknowledge nothing, try again soon."""
        if self.trouble is None:
            instrumentation.log_unwritable(reason)
        self.trouble = reason
        with self._change:
            self._deliveries.extendleft(reversed(deliveries))
            self._swaps.extendleft(reversed(swaps))
            self._change.wait(RETRY_SECONDS)

    def _make_room(self, count: int, weight: int) -> None:
        with self._change:
            self._waiting -= count
            self._waiting_bytes -= weight
            self._change.notify_all()


def _weight(delivery: Delivery) -> int:
    """Bytes."""
    return sum(len(topic) + len(payload) for topic, payload in delivery.messages)
