"""From the outbox to the broker: every event at least once, in order, with a bounded number under way.

What is under way belongs to one connection. When that ends, everything not yet answered goes again from the outbox, and so does what
was answered only just before: a broker that is killed forgets what it took since it saved last. Nothing is sent twice within one
connection. A connection that ended unnoticed, since the machine at its other end lost its power, does not count as ended.
"""

from collections import Counter, deque
from contextlib import suppress
from itertools import takewhile
from math import inf
from threading import Event
from time import monotonic

from insa_anomaly import instrumentation
from insa_anomaly.errors import BrokerAway, StateUnwritable
from insa_anomaly.ports.broker import Publisher
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.runtime.step import Step

UNDER_WAY = 100
SAFE_SECONDS = 5.0  # a connection that stands for so long after an answer: by then the broker, which saves every two, has what it took
MOST_ANSWERS = 3  # to one event, after which it is told, however soon connections end: else nothing would get on
ANSWER_POLL_SECONDS = 0.005
IDLE_SECONDS = 0.2
REFUSED_SECONDS = 30.0
MOST_REFUSED = 10_000  # events that wait for a broker that does not want them; the episodes themselves are in the database
HUNG_UP_SECONDS = 2.0  # a connection that ends so soon after a refusal ended because of it: mosquitto 2.0 does that
REST_SECONDS = 5.0  # then
DENIED_SECONDS = 3600.0  # and what was refused is not tried again for so long


class EventPublisher(Step):
    """The reader of the outbox."""

    def __init__(self, state: State, publisher: Publisher) -> None:
        self._state = state
        self._publisher = publisher
        self._news = Event()
        self._fresh: deque[tuple[float | None, Outgoing]] = deque(
            maxlen=10_000
        )  # a short cut past the file; what falls out is read there
        self._under_way: dict[int, tuple[Outgoing, float | None]] = {}
        self._generation = -1
        self._reached = 0  # number of the last event published on this connection
        self._answered: dict[
            int, float
        ] = {}  # numbers, and when this connection's broker answered for them; oldest first
        self._answers: Counter[int] = (
            Counter()
        )  # over all connections, of what is still in the outbox
        self._told: set[int] = set()  # and still in the outbox
        self._again_at: float | None = None
        self._refused: dict[int, None] = {}  # numbers, oldest first: passed over until `_again_at`
        self._refused_at = -inf
        self._rest_until = -inf
        self.trouble: str | None = None  # why some events are not told

    def enqueue(self, events: list[Outgoing], came: float | None = None) -> None:
        """New events are in the outbox; what they are made of came then (monotonic; None: it did not come, or nobody knows when)."""
        self._fresh.extend((came, event) for event in events)
        self._news.set()

    def step(self, timeout_s: float) -> float:
        """Publish what there is and take the broker's answers."""
        self._news.wait(ANSWER_POLL_SECONDS if self._under_way else min(timeout_s, IDLE_SECONDS))
        self._news.clear()
        if self._publisher.generation != self._generation:
            self._begin_again()
        self._take_answers()
        if self._again_at is not None and monotonic() >= self._again_at and not self._under_way:
            self._again_at, self._reached, self.trouble = None, 0, None
            self._refused.clear()
        if (
            self._publisher.connected
            and self._publisher.generation == self._generation
            and monotonic() >= self._rest_until
        ):
            self._publish()
        return 0.0

    def drain(self, deadline: float) -> None:
        """Tell what there is, until deadline (monotonic)."""
        self.step(0.0)
        while self._under_way and self._publisher.connected and monotonic() < deadline:
            self.step(0.0)
        if (
            self._publisher.connected
        ):  # a broker that is killed just now is not worth telling all of it again
            self._settle(inf)

    def _begin_again(self) -> None:
        self._generation = self._publisher.generation
        self._under_way.clear()
        self._answered.clear()
        self._fresh.clear()
        self._reached = 0
        if monotonic() - self._refused_at < HUNG_UP_SECONDS:
            self._rest_until, self._again_at = (
                monotonic() + REST_SECONDS,
                monotonic() + DENIED_SECONDS,
            )

    def _take_answers(self) -> None:
        for answer in self._publisher.settled(0.0):
            event, came = self._under_way.pop(answer.token, (None, None))
            if event is None:
                continue
            if answer.refused is None:
                self._note_answer(event.number)
                instrumentation.event_told(None if came is None else monotonic() - came)
            else:  # stays in the outbox: what forbids it may be put right
                self._note_refusal(event, answer.refused)
        self._settle(monotonic() - SAFE_SECONDS)

    def _note_answer(self, number: int) -> None:
        self._answers[number] += 1
        if self._answers[number] < MOST_ANSWERS:
            self._answered[number] = monotonic()
        else:
            del self._answers[number]
            self._told.add(number)

    def _settle(self, before: float) -> None:
        """Take from the outbox what was answered for before then (monotonic), or often enough."""
        for number in list(
            takewhile(lambda number: self._answered[number] <= before, self._answered)
        ):
            del self._answered[number], self._answers[number]
            self._told.add(number)
        if self._told:
            with suppress(
                StateUnwritable
            ):  # a full disk: until it takes this, what was told may be told again after a restart
                self._state.told(sorted(self._told))
                self._told.clear()

    def _note_refusal(self, event: Outgoing, reason: str) -> None:
        self._refused_at, self._again_at = (
            monotonic(),
            max(self._again_at or -inf, monotonic() + REFUSED_SECONDS),
        )
        self._refused[event.number] = None
        self.trouble = f"the broker refuses events on {event.topic}: {reason}"
        instrumentation.event_refused(event.topic, reason)
        if len(self._refused) > MOST_REFUSED:
            oldest = next(iter(self._refused))
            del self._refused[oldest]
            self._answers.pop(oldest, None)
            self._told.add(oldest)
            instrumentation.event_dropped()

    def _publish(self) -> None:
        for came, event in self._waiting(UNDER_WAY - len(self._under_way)):
            if (
                event.number in self._refused
                or event.number in self._answered
                or event.number in self._told
            ):
                self._reached = event.number
                continue
            try:
                token = self._publisher.publish(event.topic, event.payload)
            except BrokerAway:
                return
            self._under_way[token] = (event, came)
            self._reached = event.number

    def _waiting(self, most: int) -> list[tuple[float | None, Outgoing]]:
        """The next events: from memory where they follow on what was published, else from the outbox."""
        while self._fresh and self._fresh[0][1].number <= self._reached:
            self._fresh.popleft()
        taken: list[tuple[float | None, Outgoing]] = []
        while (
            len(taken) < most
            and self._fresh
            and self._fresh[0][1].number == self._reached + 1 + len(taken)
        ):
            taken.append(self._fresh.popleft())
        return (
            taken or [(None, event) for event in self._state.outgoing(self._reached, most)]
            if most
            else []
        )
