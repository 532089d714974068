"""Publication of the outbox: every event at least once, in order, a bounded number under way.

Events under way belong to one connection. When the connection ends, all events not yet acknowledged
are published again from the outbox, and so are events acknowledged shortly before the end, because
a broker that is killed loses the events it took since its last save. No event is published twice on
the same connection. A connection that broke unnoticed, because the broker's machine lost its power,
does not count as ended.
"""

from collections import Counter, deque
from contextlib import suppress
from itertools import takewhile
from math import inf
from threading import Event

from insa_anomaly.errors import BrokerAway, StateUnwritable
from insa_anomaly.instrumentation.broker import event_dropped, event_refused, event_told
from insa_anomaly.ports.broker import Publisher
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.runtime.step import Step

UNDER_WAY = 100
# An acknowledgement is final when its connection still stands so long after: by then the broker,
# which saves every two seconds, has saved the event.
SAFE_SECONDS = 5.0
# So many acknowledgements of an event are final however soon connections end: without a limit, a
# broker that hangs up every few seconds would stop all progress.
MOST_ANSWERS = 3
ANSWER_POLL_SECONDS = 0.005
REFUSED_SECONDS = 30.0
MOST_REFUSED = 10_000  # events kept for a broker that refuses them; the database has the episodes
# A connection that ends so soon after a refusal ended because of it: mosquitto 2.0 does that. The
# publisher then rests, and tries refused events again only after a long time.
HUNG_UP_SECONDS = 2.0
REST_SECONDS = 5.0
DENIED_SECONDS = 3600.0


class EventPublisher(Step):
    """The reader of the outbox."""

    def __init__(self, state: State, publisher: Publisher, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._state = state
        self._publisher = publisher
        self._news = Event()
        # The newest events, which need not be read from the outbox; older ones fall out.
        self._fresh: deque[tuple[float | None, Outgoing]] = deque(maxlen=10_000)
        self._under_way: dict[int, tuple[Outgoing, float | None]] = {}  # by token
        self._generation = -1
        self._reached = 0  # number of the last event published on this connection
        self._acknowledged: dict[int, float] = {}  # on this connection: number, time; oldest first
        self._answers: Counter[int] = Counter()  # acknowledgements on all connections, by number
        self._done: set[int] = set()  # final, and still in the outbox
        self._refused: dict[int, None] = {}  # numbers, oldest first: skipped until `_retry_at`
        self._retry_at: float | None = None
        self._refused_at = -inf
        self._rest_until = -inf
        self.trouble: str | None = None  # reason why some events are not published

    def enqueue(self, events: list[Outgoing], arrived: float | None = None) -> None:
        """Take new events of the outbox, whose message `arrived` then (monotonic), if known."""
        self._fresh.extend((arrived, event) for event in events)
        self._news.set()

    def step(self, timeout_s: float) -> float:
        """Publish waiting events, and take the broker's acknowledgements."""
        self._news.wait(ANSWER_POLL_SECONDS if self._under_way else timeout_s)
        self._news.clear()
        if self._publisher.generation != self._generation:
            self._begin_connection()
        self._take_answers()
        now = self._monotonic()
        if self._retry_at is not None and now >= self._retry_at and not self._under_way:
            self._retry_at = None
            self._reached = 0
            self.trouble = None
            self._refused.clear()
        same = self._publisher.connected and self._publisher.generation == self._generation
        if same and now >= self._rest_until:
            self._publish()
        return 0.0

    def drain(self, deadline: float) -> None:
        """Publish waiting events until `deadline` (monotonic)."""
        self.step(0.0)
        while self._under_way and self._publisher.connected and self._monotonic() < deadline:
            self.step(0.0)
        if self._publisher.connected:  # a broker killed just now is not worth a repetition of all
            self._settle(inf)

    def _begin_connection(self) -> None:
        self._generation = self._publisher.generation
        self._under_way.clear()
        self._acknowledged.clear()
        self._fresh.clear()
        self._reached = 0
        now = self._monotonic()
        if now - self._refused_at < HUNG_UP_SECONDS:
            self._rest_until = now + REST_SECONDS
            self._retry_at = now + DENIED_SECONDS

    def _take_answers(self) -> None:
        for answer in self._publisher.settled(0.0):
            event, arrived = self._under_way.pop(answer.token, (None, None))
            if event is None:
                continue
            if answer.refused is None:
                self._note_acknowledged(event.number)
                event_told(None if arrived is None else self._monotonic() - arrived)
            else:
                self._note_refused(event, answer.refused)
        self._settle(self._monotonic() - SAFE_SECONDS)

    def _note_acknowledged(self, number: int) -> None:
        self._answers[number] += 1
        if self._answers[number] < MOST_ANSWERS:
            self._acknowledged[number] = self._monotonic()
        else:
            del self._answers[number]
            self._done.add(number)

    def _settle(self, before: float) -> None:
        """Remove final events from the outbox: acknowledged before `before`, or often enough.

        While a full disk refuses, an event may be published again after a restart.
        """
        times = self._acknowledged
        for number in list(takewhile(lambda number: times[number] <= before, times)):
            del times[number], self._answers[number]
            self._done.add(number)
        if self._done:
            with suppress(StateUnwritable):
                self._state.told(sorted(self._done))
                self._done.clear()

    def _note_refused(self, event: Outgoing, reason: str) -> None:
        """Keep the event in the outbox, because the cause of the refusal may be removed."""
        self._refused_at = self._monotonic()
        self._retry_at = max(self._retry_at or -inf, self._refused_at + REFUSED_SECONDS)
        self._refused[event.number] = None
        self.trouble = f"the broker refuses events on {event.topic}: {reason}"
        event_refused(event.topic, reason)
        if len(self._refused) > MOST_REFUSED:
            oldest = next(iter(self._refused))
            del self._refused[oldest]
            self._answers.pop(oldest, None)
            self._done.add(oldest)
            event_dropped()

    def _publish(self) -> None:
        for arrived, event in self._next(UNDER_WAY - len(self._under_way)):
            number = event.number
            acknowledged = number in self._acknowledged or number in self._done
            if number not in self._refused and not acknowledged:
                try:
                    token = self._publisher.publish(event.topic, event.payload)
                except BrokerAway:
                    return
                self._under_way[token] = (event, arrived)
            self._reached = number

    def _next(self, most: int) -> list[tuple[float | None, Outgoing]]:
        """Return the next events: from memory if it has the next number, else from the outbox."""
        fresh, taken = self._fresh, list[tuple[float | None, Outgoing]]()
        while fresh and fresh[0][1].number <= self._reached:
            fresh.popleft()
        while len(taken) < most and fresh and fresh[0][1].number == self._reached + 1 + len(taken):
            taken.append(fresh.popleft())
        if taken or not most:
            return taken
        return [(None, event) for event in self._state.outgoing(self._reached, most)]
