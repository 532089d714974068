"""Publishing: every event at least once and in order, with a bounded number under way.

No event leaves the outbox before the broker has answered.
"""

from collections import deque
from functools import partial
from time import monotonic

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from insa_anomaly.errors import BrokerAway, StateUnwritable
from insa_anomaly.instrumentation.metrics import REGISTRY
from insa_anomaly.ports.broker import Settled
from insa_anomaly.runtime import publish as telling
from insa_anomaly.runtime.publish import EventPublisher
from insa_anomaly.testing.broker import MemoryBroker
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.testing.state import MemoryState

WINDOW = 5


class Listening(MemoryBroker):
    """A broker that records each attempt with its connection, and the events it acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.tried: list[tuple[int, int]] = []  # generation and number of the event
        self.told: set[int] = set()
        self.under_way: dict[int, int] = {}
        self.most = 0
        self.dies_after: int | None = None
        self.flips = False

    @property
    def connected(self) -> bool:
        """True between `open` and `close`.

        Where `flips` is set, another connection stands by the time of the answer.
        """
        if self.flips:
            self.flips = False
            self.close()
            self.open()
        return super().connected

    def close(self) -> None:
        """End the connection."""
        super().close()
        self.under_way.clear()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Send an event; the payload is its number."""
        if self.dies_after is not None and len(self.tried) >= self.dies_after:
            self.dies_after = None
            self.close()
            raise BrokerAway
        token = super().publish(topic, payload, retain=retain)
        self.tried.append((self.generation, int(payload)))
        self.under_way[token] = int(payload)
        self.most = max(self.most, len(self.under_way))
        return token

    def settled(self, timeout: float) -> list[Settled]:
        """Return the answers since the last call."""
        answers = super().settled(timeout)
        for answer in answers:
            number = self.under_way.pop(answer.token, None)
            if answer.refused is None and number is not None:
                self.told.add(number)
        return answers


class Outbox:
    """A state with events in it, and Tell between it and a broker."""

    def __init__(self) -> None:
        self.state = MemoryState()
        self.broker = Listening()
        self.clock = SettableClock()
        self.last = 0
        self.start()

    def start(self) -> None:
        """Start a Tell where the last ended."""
        self.tell = EventPublisher(self.state, self.broker, self.clock)

    def add(self, *topics: str, offered: bool = True) -> None:
        """Add events, each on its topic; with `offered`, offer them to Tell."""
        events = [(topic, str(self.last + i + 1).encode()) for i, topic in enumerate(topics)]
        outgoing = self.state.commit(1, None, events)
        self.last += len(topics)
        if offered:
            self.tell.enqueue(outgoing)

    def waiting(self) -> list[int]:
        """Return the numbers of the events in the outbox."""
        return [one.number for one in self.state.outgoing(0, 10**6)]

    def steps(self, count: int) -> None:
        """Run `count` steps."""
        for _ in range(count):
            self.tell.step(0.0)

    def settle(self) -> None:
        """Let the connection stand until acknowledgements are final."""
        self.clock.sleep(telling.SAFE_SECONDS)
        self.tell.step(0.0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "ANSWER_POLL_SECONDS", 0.0)
    monkeypatch.setattr(telling, "UNDER_WAY", WINDOW)


# -------------------------------------------------------------------------------- laws
HAPPENINGS = [
    "add",
    "add_many",
    "add_unknown",
    "step",
    "step",
    "open",
    "close",
    "answer",
    "silent",
    "wait",
    "dies",
    "start",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(HAPPENINGS), max_size=60))
@example(["open", "silent", "add_many", "step", "step"])
@example(["open", "step", "add_unknown", "add", "step"])
def test_every_event_is_told_at_least_once_and_in_order(happenings: list[str]) -> None:
    """No event leaves the outbox unpublished, through lost connections, late answers and restarts.

    On a connection events go in order and no event goes twice. Never are more under way than the
    window holds.
    """
    box = Outbox()
    for happening in happenings:
        _happen(box, happening)
        assert set(range(1, box.last + 1)) - set(box.waiting()) <= box.broker.told
    box.broker.answering, box.broker.dies_after = True, None
    box.broker.answer()
    box.broker.open()  # where it is not connected; the events under way continue
    box.steps(3 * box.last + 3)
    box.settle()
    assert box.waiting() == []
    assert box.broker.told == set(range(1, box.last + 1))
    for generation in {generation for generation, _ in box.broker.tried}:
        numbers = [number for of, number in box.broker.tried if of == generation]
        assert numbers == sorted(set(numbers))
    assert box.broker.most <= WINDOW


def _happen(box: Outbox, happening: str) -> None:
    match happening:
        case "add":
            box.add("t")
        case "add_many":
            box.add(*["t"] * 8)
        case "add_unknown":
            box.add("t", "t", offered=False)
        case "step":
            box.tell.step(0.0)
        case "open":
            box.broker.open()
        case "close":
            box.broker.close()
        case "answer":
            box.broker.answering = True
            box.broker.answer()
        case "wait":
            box.clock.sleep(telling.SAFE_SECONDS)
        case "silent":
            box.broker.answering = False
        case "dies":
            box.broker.dies_after = len(box.broker.tried) + 1
        case "start":  # a daemon that starts has a new connection
            box.broker.close()
            box.start()


# ---------------------------------------------------------------------- the connection
def test_after_a_change_of_connection_all_that_is_unsettled_goes_again_in_order() -> None:
    """Unanswered events go again after a reconnect, before new events.

    They are not known to have arrived.
    """
    box = Outbox()
    box.broker.open()
    box.broker.answering = False
    box.add("t", "t", "t")
    box.steps(2)
    assert [number for _, number in box.broker.tried] == [1, 2, 3]
    box.broker.close()
    box.broker.open()
    box.add("t")
    box.steps(2)
    assert [number for _, number in box.broker.tried] == [1, 2, 3, 1, 2, 3, 4]
    box.broker.answer()
    box.steps(1)
    box.settle()
    assert box.waiting() == []


def test_an_answer_over_a_connection_that_is_gone_settles_nothing() -> None:
    """An answer over an ended connection is ignored: its token may mean another event by now."""
    box = Outbox()
    box.broker.open()
    box.add("t")
    box.tell.step(0.0)
    box.broker.close()
    box.broker.open()
    box.broker.answering = False
    box.tell.step(0.0)
    assert box.waiting() == [1]
    assert [number for _, number in box.broker.tried] == [1, 1]


def test_a_connection_that_changes_at_the_worst_moment_loses_nothing() -> None:
    """A connection that changes just before the publication still publishes the event."""
    box = Outbox()
    box.broker.open()
    box.add("t", "t")
    box.broker.flips = True
    box.steps(4)
    box.settle()
    assert box.waiting() == []
    assert box.broker.told == {1, 2}


def test_without_a_connection_nothing_is_tried() -> None:
    """Events wait in the outbox while there is no connection."""
    box = Outbox()
    box.add("t")
    box.steps(3)
    assert (box.broker.tried, box.waiting()) == ([], [1])


def test_what_the_short_cut_cannot_hold_is_read_from_the_outbox() -> None:
    """Every event is published, however many come at once."""
    box = Outbox()
    box.tell._fresh = deque(maxlen=3)
    box.broker.open()
    box.add(*["t"] * 20)
    box.steps(20)
    box.settle()
    assert [number for _, number in box.broker.tried] == list(range(1, 21))
    assert box.waiting() == []


def test_an_offer_wakes_who_waits() -> None:
    """An offered event need not wait for the next look."""
    box = Outbox()
    box.broker.open()
    box.add("t")
    began = monotonic()
    box.tell.step(60.0)
    assert monotonic() - began < 1.0
    assert box.broker.tried == [(1, 1)]


def test_with_nothing_to_do_it_waits_a_little() -> None:
    """An idle step waits no longer than its timeout, and does not spin."""
    box = Outbox()
    box.broker.open()
    box.tell.step(0.0)
    began = monotonic()
    box.tell.step(0.01)
    assert 0.009 <= monotonic() - began < 1.0


# ------------------------------------------------------------------ a broker that is killed
def test_what_was_answered_just_before_the_end_goes_again() -> None:
    """An event answered just before the connection ended goes again, in its place in the order.

    An event answered long before is done.
    """
    box = Outbox()
    box.broker.open()
    box.add("t", "t")
    box.steps(3)
    box.settle()
    box.add("t", "t")
    box.steps(3)
    assert box.waiting() == [3, 4]
    box.broker.close()
    box.broker.open()
    box.add("t")
    box.steps(3)
    assert [number for _, number in box.broker.tried] == [1, 2, 3, 4, 3, 4, 5]


def test_connections_that_always_end_soon_hold_up_nothing_for_ever() -> None:
    """An event answered on several short connections is done."""
    box = Outbox()
    box.add("t")
    for _ in range(telling.MOST_ANSWERS):
        assert box.waiting() == [1]
        box.broker.open()
        box.steps(2)
        box.broker.close()
    assert box.waiting() == []
    assert box.tell._answers == {}


def test_trying_refused_events_again_tells_no_other_twice() -> None:
    """Answered events that are still in the outbox are passed over."""
    box = Outbox()
    box.broker.open()
    box.broker.refusing["bad"] = "not authorised"
    box.add("t", "bad", "t")
    box.steps(3)
    box.tell._retry_at, box.broker.refusing = 0.0, {}
    box.steps(3)
    assert [number for _, number in box.broker.tried] == [1, 2, 3, 2]


def test_a_daemon_that_ends_in_good_order_leaves_nothing_to_be_told_again() -> None:
    """The outbox is empty after an orderly end if the connection stands."""
    for connected in (True, False):
        box = Outbox()
        box.broker.open()
        box.add("t")
        box.steps(2)
        if not connected:
            box.broker.close()
        box.tell.drain(box.clock.monotonic() + 60.0)
        assert box.waiting() == ([] if connected else [1])


def test_what_a_full_disk_keeps_in_the_outbox_is_not_told_again_with_what_was_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An event that a full disk retains in the outbox is not sent again on the same connection."""
    box = Outbox()
    box.broker.open()
    box.broker.refusing["bad"] = "not authorised"

    def refuse(_: object, __: object) -> None:
        raise StateUnwritable

    monkeypatch.setattr(MemoryState, "told", refuse)
    box.add("t", "bad", "t")
    box.steps(3)
    box.broker.refusing = {}
    box.clock.sleep(telling.REFUSED_SECONDS)
    box.steps(3)
    assert [number for _, number in box.broker.tried] == [1, 2, 3, 2]


# ---------------------------------------------------------------------------- refusals
def test_a_refused_event_stays_and_is_tried_again_in_time() -> None:
    """A refused event delays no other, is not retried at once, and goes once it is allowed."""
    box = Outbox()
    box.broker.open()
    box.broker.refusing["bad"] = "not authorised"
    box.add("t", "bad", "t", "bad")
    box.steps(5)
    box.settle()
    assert box.waiting() == [2, 4]
    assert [number for _, number in box.broker.tried] == [1, 2, 3, 4]
    assert box.tell._retry_at is not None
    assert box.tell._retry_at - box.clock.monotonic() == telling.REFUSED_SECONDS - 5
    box.add("t")
    box.steps(3)
    box.settle()
    assert box.waiting() == [2, 4]
    for last in (False, True):
        box.broker.refusing = {} if last else box.broker.refusing
        box.clock.sleep(telling.REFUSED_SECONDS)
        box.steps(4)
        box.settle()
        assert box.waiting() == ([] if last else [2, 4])
    assert [number for _, number in box.broker.tried] == [1, 2, 3, 4, 5, 2, 4, 2, 4]


def test_a_full_disk_loses_no_event_and_tells_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that cannot be removed from the outbox is removed later, and not sent again."""
    state, broker, clock = MemoryState(), MemoryBroker(), SettableClock()
    tell = EventPublisher(state, broker, clock)
    broker.open()
    state.commit(1, None, [("t", b"1"), ("t", b"2")])

    def refuse(_: object, __: object) -> None:
        raise StateUnwritable

    with monkeypatch.context() as patch:
        patch.setattr(MemoryState, "told", refuse)
        for _ in range(3):
            tell.step(0.0)
            clock.sleep(telling.SAFE_SECONDS)
        assert len(state.outgoing(0, 10)) == 2
    tell.step(0.0)
    assert state.outgoing(0, 10) == []
    assert [payload for _, _, payload, _ in broker.published] == [b"1", b"2"]


def test_what_is_refused_does_not_stop_what_is_under_way() -> None:
    """A retry waits until all events are answered, so that none under way goes twice."""
    box = Outbox()
    box.broker.open()
    box.broker.refusing["bad"] = "not authorised"
    box.add("bad")
    box.steps(2)
    box.broker.answering = False
    box.add("t")
    box.steps(2)
    box.clock.sleep(telling.REFUSED_SECONDS)
    box.steps(3)
    assert [number for _, number in box.broker.tried] == [1, 2]
    box.broker.answering = True
    box.broker.answer()
    box.steps(3)
    assert [number for _, number in box.broker.tried] == [1, 2, 1]


# ------------------------------------------------------------------------------ the end
def test_draining_tells_all_there_is() -> None:
    """A drain publishes more events than the window holds, and events that were not offered."""
    box = Outbox()
    box.broker.open()
    box.add(*["t"] * 23, offered=False)
    box.tell.drain(box.clock.monotonic() + 60.0)
    assert box.waiting() == []


def test_draining_ends_in_time_or_with_the_connection() -> None:
    """A silent broker delays the end until the deadline at most; a closed connection not at all."""
    box = Outbox()
    box.broker.open()
    box.broker.answering = False
    box.add("t")
    began = monotonic()
    box.tell.drain(box.clock.monotonic())
    assert box.waiting() == [1]
    box.broker.close()
    box.tell.drain(box.clock.monotonic() + 60.0)
    assert monotonic() - began < 2.0
    assert box.waiting() == [1]


def test_numbers_that_are_missing_are_no_obstacle() -> None:
    """The outbox has gaps where events were published out of order."""
    box = Outbox()
    box.add(*["t"] * 6)
    box.state.told([2, 3, 5])
    box.start()
    box.broker.open()
    box.steps(3)
    box.settle()
    assert [number for _, number in box.broker.tried] == [1, 4, 6]
    assert box.waiting() == []


def test_the_time_to_an_event_is_from_the_receipt_of_its_reading() -> None:
    """The time runs from the receipt of the reading to the broker's answer.

    An event without a known receive time is not counted.
    """
    name, said = "insa_receive_to_event_seconds", REGISTRY.get_sample_value
    seconds, told = partial(said, f"{name}_sum"), partial(said, f"{name}_count")
    before = (seconds() or 0.0, told() or 0.0)
    outbox = Outbox()
    outbox.broker.open()
    outbox.steps(1)
    outbox.tell.enqueue(outbox.state.commit(1, None, [("a", b"1")]), outbox.clock.monotonic() - 7.0)
    outbox.tell.enqueue(outbox.state.commit(2, None, [("b", b"2")]))
    outbox.steps(3)
    outbox.settle()
    assert not outbox.waiting()
    assert (told() or 0.0) - before[1] == 1
    assert (seconds() or 0.0) - before[0] == pytest.approx(7.0)


def test_a_broker_that_hangs_up_over_an_event_is_not_provoked() -> None:
    """All other events are published after a rest.

    The refused event waits for an hour, also on another connection.
    """
    box = Outbox()
    box.broker.open()
    box.broker.refusing["bad"] = "not authorised"
    box.add("bad", "t")
    box.broker.answering = False
    box.steps(1)
    box.broker._waiting = box.broker._waiting[:1]
    box.broker.answer()
    box.steps(1)
    box.broker.close()
    box.broker.open()
    box.broker.answering = True
    box.steps(3)
    assert box.waiting() == [1, 2]
    assert [number for _, number in box.broker.tried] == [1, 2]
    box.clock.sleep(telling.REST_SECONDS)
    box.steps(3)
    box.settle()
    assert box.waiting() == [1]
    assert [number for _, number in box.broker.tried] == [1, 2, 2]
    assert box.tell._retry_at is not None
    assert box.tell._retry_at > box.clock.monotonic() + telling.DENIED_SECONDS - 60
    assert box.tell.trouble == "the broker refuses events on bad: not authorised"


def test_refused_events_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest refused events are dropped and counted.

    Once the broker accepts the others they are published, and the trouble ends.
    """
    monkeypatch.setattr(telling, "MOST_REFUSED", 10)
    box = Outbox()
    box.broker.open()
    box.broker.refusing["bad"] = "not authorised"
    box.add(*["bad"] * 30)
    box.steps(20)
    assert box.waiting() == list(range(21, 31))
    box.broker.refusing = {}
    box.clock.sleep(telling.REFUSED_SECONDS)
    box.steps(20)
    box.settle()
    assert box.waiting() == []
    assert box.tell.trouble is None
