"""Intake: no message is acknowledged before it is in the log, and no accepted message is lost.

No more is accepted than there is room for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread
from time import monotonic, sleep

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from insa_anomaly.errors import LogBroken, LogDead, LogFull
from insa_anomaly.ports.broker import Delivery
from insa_anomaly.ports.log import Entry, Swap
from insa_anomaly.runtime import intake as taking
from insa_anomaly.runtime.feed import Feed
from insa_anomaly.runtime.fleet.registry import Registry
from insa_anomaly.runtime.intake import Intake
from insa_anomaly.settings.sections import IntakeSettings
from insa_anomaly.testing.broker import MemoryBroker
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.testing.log import MemoryLog
from insa_anomaly.testing.reserve import MemoryReserve
from tests.runtime.streams import CAPACITY, NOW, Message, message, parser, swap

AT_ONCE = IntakeSettings(messages=1, seconds=1e-6, waiting=20, patience=0.002)


class Refusing(MemoryLog):
    """A log that refuses while `broken`."""

    broken = False

    def append(self, messages: list[Message], swaps: list[Swap], now: int) -> Entry:
        """Store an entry, or refuse it."""
        if self.broken:
            raise LogBroken("no space left on device")
        return super().append(messages, swaps, now)

    def drop(self, through: int) -> None:
        """Drop entries, or refuse to."""
        if self.broken:
            raise LogBroken("no space left on device")
        super().drop(through)


class Watched(MemoryBroker):
    """A broker that checks every acknowledgement against the log."""

    def __init__(self, hand_over: Callable[[Delivery], bool], log: MemoryLog) -> None:
        super().__init__(hand_over)
        self.log = log

    def acknowledge(self, *deliveries: Delivery) -> None:
        """Acknowledge deliveries that are in the log."""
        assert {message for one in deliveries for message in one.messages} <= set(logged(self.log))
        super().acknowledge(*deliveries)


def test_a_device_that_failed_ends_the_intake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed fsync ends the intake: no message is acknowledged, and no append is tried again.

    The content of the disk is unknown then.
    """
    port = Port()

    def fail(*_: object) -> Entry:
        raise LogDead

    monkeypatch.setattr(port.log, "append", fail)
    port.deliver(1)
    with pytest.raises(LogDead):
        port.intake.step(0.0)
    assert port.acknowledged == []


def logged(log: MemoryLog) -> list[Message]:
    """Return all messages in the log, in order."""
    return [one for entry in log.read(0, 10**9) for one in entry.messages]


@dataclass
class Port:
    """An intake between a broker and a log."""

    grouping: IntakeSettings = AT_ONCE
    log: Refusing = field(default_factory=Refusing)

    def __post_init__(self) -> None:
        self.clock = SettableClock(NOW)
        self.feed = Feed(self.log, parser(), Registry(CAPACITY), self.clock)
        self.intake = Intake(self.log, self.feed, self.clock, self.grouping)
        self.broker = self.intake.broker = Watched(self.intake.hand_over, self.log)
        self.broker.open()

    def deliver(self, *numbers: int) -> Delivery:
        """Deliver messages with these numbers."""
        return self.broker.deliver([said(number) for number in numbers])

    @property
    def acknowledged(self) -> list[Message]:
        """All messages acknowledged, in order."""
        return [one for delivery in self.broker.acknowledged for one in delivery.messages]


def said(number: int) -> Message:
    """Build a message that carries its number."""
    return message("pump", number, {"a": number})


def numbers(*those: int) -> list[Message]:
    """Build the messages of these numbers."""
    return [said(number) for number in those]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "MOST_A_COMMIT", 6)


# -------------------------------------------------------------------------------- laws
STEPS = st.lists(
    st.sampled_from(["deliver", "step", "break", "mend", "reconnect", "swap"]), max_size=60
)


@settings(max_examples=100, deadline=None)
@given(STEPS)
@example(["break", *["deliver"] * 5, "step", "mend"])
def test_what_is_acknowledged_is_in_the_log_and_what_was_taken_gets_there(steps: list[str]) -> None:
    """Acknowledgements follow the log; accepted messages are in it once, in order, after repair.

    A delivery without room is returned, and not acknowledged. Nor is a delivery acknowledged whose
    connection has ended.
    """
    port = Port()
    taken: list[Message] = []
    swaps: list[Swap] = []
    for number, step in enumerate(steps):
        if step == "deliver":
            generation = port.broker.generation
            port.deliver(2 * number, 2 * number + 1)
            taken += (
                numbers(2 * number, 2 * number + 1) if port.broker.generation == generation else []
            )
        elif step == "step":
            port.intake.step(0.0)
        elif step == "reconnect":
            port.broker.close()
            port.broker.open()
        elif step == "swap":
            swaps.append(swap(number % 6))
            port.intake.swap(swaps[-1:])
        else:
            port.log.broken = step == "break"
        assert set(port.acknowledged) <= set(logged(port.log))
        assert port.intake._waiting <= AT_ONCE.waiting + 1
    port.log.broken = False
    while port.intake._deliveries or port.intake._swaps:
        port.intake.step(0.0)
    assert logged(port.log) == taken
    assert [one for entry in port.log.read(0, 10**9) for one in entry.swaps] == swaps
    assert port.intake.writable
    assert port.intake._waiting == 0


def test_on_a_connection_that_stands_all_is_acknowledged_once() -> None:
    """Every delivery is acknowledged once, in order."""
    port = Port()
    for number in range(10):
        port.deliver(number)
        port.intake.step(0.0)
    assert port.acknowledged == logged(port.log) == numbers(*range(10))


# ------------------------------------------------------------------- a log that refuses
def test_a_log_that_refuses_loses_nothing_and_recovers() -> None:
    """A refusing log is known to be unwritable, and no message is acknowledged meanwhile.

    The accepted messages are written first afterwards.
    """
    port = Port()
    port.log.broken = True
    port.deliver(1)
    port.intake.swap([swap(0)])
    port.intake.step(0.0)
    port.deliver(2)
    port.intake.swap([swap(1)])
    port.intake.step(0.0)
    assert not port.intake.writable
    assert port.acknowledged == logged(port.log) == []
    assert port.feed.last == 0
    port.log.broken = False
    port.intake.step(0.0)
    assert port.intake.writable
    assert port.acknowledged == logged(port.log) == numbers(1, 2)
    assert port.log.read(0, 9)[0].swaps == [swap(0), swap(1)]
    assert port.feed.last == 1


def test_a_log_that_cannot_forget_ends_nothing() -> None:
    """If the log cannot drop entries on a full disk, dropping is requested again later.

    Messages are still logged.
    """
    port = Port()
    port.deliver(1)
    port.intake.step(0.0)
    port.intake.drop(1)
    port.log.broken = True
    port.intake.step(0.0)
    assert logged(port.log) == numbers(1)
    port.log.broken = False
    port.intake.drop(1)
    port.intake.step(0.0)
    assert logged(port.log) == []


# -------------------------------------------------------------------------------- room
def test_the_hand_over_is_bounded_and_sheds_after_patience() -> None:
    """The hand-over holds up to `waiting` messages between broker and disk.

    A message that finds no room in time is returned, and comes again.
    """
    port = Port()
    for number in range(20):
        port.deliver(number)
    generation, began = port.broker.generation, monotonic()
    port.deliver(20)
    assert AT_ONCE.patience <= monotonic() - began < 1.0
    assert port.broker.generation > generation
    port.intake.step(0.0)
    port.deliver(20)
    port.intake.drain()
    assert logged(port.log) == numbers(*range(21))
    assert port.acknowledged == numbers(20)


def test_room_that_comes_in_time_is_taken() -> None:
    """The broker's thread waits while the hand-over is full, and continues after the next write."""
    port = Port(IntakeSettings(messages=1, seconds=1e-6, waiting=1, patience=30.0))
    port.deliver(1)
    waiting = Thread(target=port.deliver, args=(2,))
    waiting.start()
    while len(logged(port.log)) < 2:
        port.intake.step(0.01)
    waiting.join(5)
    assert port.acknowledged == numbers(1, 2)


# ------------------------------------------------------------------------------ groups
def test_one_write_serves_many_messages() -> None:
    """Messages that came together are a single entry; its receive time is the clock's."""
    port = Port()
    for number in range(5):
        port.deliver(number)
    port.intake.step(0.0)
    [entry] = port.log.read(0, 100)
    assert (entry.messages, entry.received) == (numbers(*range(5)), NOW)


def test_a_write_waits_for_company_but_not_long() -> None:
    """A write waits at most `seconds` after the first message, and not if there are `messages`."""
    port = Port(IntakeSettings(messages=2, seconds=0.02, waiting=20, patience=0.1))
    began = monotonic()
    port.deliver(1)
    port.intake.step(0.0)
    assert 0.02 <= monotonic() - began < 1.0
    port = Port(IntakeSettings(messages=2, seconds=60.0, waiting=20, patience=0.1))
    port.deliver(1)
    port.deliver(2)
    port.intake.step(0.0)
    assert logged(port.log) == numbers(1, 2)


def test_a_write_has_a_limit() -> None:
    """A large backlog is written in several entries, whole deliveries in order."""
    port = Port()
    for number in range(0, 15, 3):
        port.deliver(number, number + 1, number + 2)
    port.intake.drain()
    assert [len(entry.messages) for entry in port.log.read(0, 100)] == [6, 6, 3]
    assert port.acknowledged == logged(port.log) == numbers(*range(15))


def test_swaps_alone_make_an_entry() -> None:
    """A model takes over in a quiet plant too."""
    port = Port()
    port.intake.swap([swap(0), swap(1)])
    port.intake.step(0.0)
    assert [(entry.messages, entry.swaps) for entry in port.log.read(0, 9)] == [
        ([], [swap(0), swap(1)])
    ]
    assert port.feed.last == 1


def test_nothing_to_write_writes_nothing() -> None:
    """An idle step waits for its timeout and leaves no entry."""
    port = Port()
    port.intake.step(0.001)
    assert port.log.last == 0


# ----------------------------------------------------------------------------- the end
def test_once_closed_it_takes_nothing_and_says_nothing() -> None:
    """A message after the close is neither logged nor acknowledged, and comes again later.

    The broker's thread does not wait.
    """
    port = Port()
    port.deliver(1)
    port.intake.close()
    generation = port.broker.generation
    port.deliver(2)
    port.intake.drain()
    assert port.broker.generation == generation
    assert port.acknowledged == logged(port.log) == numbers(1)


def test_closing_lets_the_brokers_thread_go() -> None:
    """A thread that waits for room is released by the close before its patience ends."""
    port = Port(IntakeSettings(messages=1, seconds=1e-6, waiting=1, patience=30.0))
    port.deliver(1)
    waiting = Thread(target=port.deliver, args=(2,))
    waiting.start()
    while not port.intake._change._waiters:  # type: ignore[attr-defined]
        sleep(0.001)
    port.intake.close()
    waiting.join(5)
    assert not waiting.is_alive()
    port.intake.drain()
    assert port.acknowledged == logged(port.log) == numbers(1)


def test_draining_ends_where_the_disk_refuses() -> None:
    """A drain does not wait for a full disk; unacknowledged messages come again."""
    port = Port()
    port.deliver(1)
    port.log.broken = True
    port.intake.drain()
    assert port.acknowledged == []


# ------------------------------------------------------------------------ over HTTP
def test_what_is_posted_is_answered_when_it_is_in_the_log() -> None:
    """A posted message is answered when it is in the log, and does not concern the broker."""
    port, answers = Port(), list[bool]()
    poster = Thread(target=lambda: answers.append(port.intake.post(*said(1))))
    poster.start()
    while not logged(port.log):
        assert answers == []
        port.intake.step(0.01)
    poster.join(10)
    assert (answers, logged(port.log), port.acknowledged) == ([True], [said(1)], [])


def test_what_finds_no_disk_or_no_room_is_not_answered_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is not confirmed without disk or room, nor after the end."""
    monkeypatch.setattr(taking, "POST_SECONDS", 0.01)
    port = Port()
    assert not port.intake.post(*said(1))  # no thread writes
    port.deliver(*range(AT_ONCE.waiting))
    assert not port.intake.post(*said(2))
    port.intake.close()
    assert not port.intake.post(*said(3))


def test_a_step_of_the_clock_is_said() -> None:
    """A step of the clock is logged, forth and back; the passing of time is not."""
    log, clock = MemoryLog(), SettableClock(NOW)
    intake = Intake(
        log,
        Feed(log, parser(), Registry(10), clock),
        clock,
        IntakeSettings(messages=1, seconds=0.001),
    )
    with capture_logs() as logs:
        for step in (0, 0, 86_400_000_000, -86_400_000_000, 0):
            clock.sleep(0.1)
            clock.time_us += step
            intake.hand_over(Delivery(1, [message("pump", 0, {"a": 1.0})], [1]))
            intake.step(0.0)
    assert [log["seconds"] for log in logs if log["action"] == "clock_stepped"] == pytest.approx(
        [86_400, -86_400]
    )
    assert log.last == 5


def test_the_hand_over_is_bounded_in_bytes_too() -> None:
    """Few large messages find no room where many small messages do, until some are written."""
    log = MemoryLog()
    intake = Intake(
        log,
        Feed(log, parser(), Registry(10), SettableClock()),
        SettableClock(NOW),
        IntakeSettings(waiting=1000, waiting_bytes=3000, patience=0.01),
    )
    large = [("t", bytes(1500))]
    assert [intake.hand_over(Delivery(1, large, [i])) for i in range(4)] == [
        True,
        True,
        False,
        False,
    ]
    intake.step(0.0)
    assert intake.hand_over(Delivery(1, large, [5]))


class Full(MemoryLog):
    """A log on a disk that a test can make full."""

    trouble: LogBroken | None = None

    def append(self, messages: list[Message], swaps: list[Swap], now: int) -> Entry:
        """Write, or raise the trouble."""
        if self.trouble is not None:
            raise self.trouble
        return super().append(messages, swaps, now)


def test_a_full_disk_gets_the_reserve_and_no_more_messages() -> None:
    """The freed reserve serves to finish accepted messages only.

    No message is written until the reserve is held again.
    """
    log, reserve = Full(), MemoryReserve()
    intake = Intake(
        log,
        Feed(log, parser(), Registry(10), SettableClock()),
        SettableClock(NOW),
        IntakeSettings(messages=1, seconds=0.001),
        reserve,
    )
    intake.hand_over(Delivery(1, [("t", b"1")], [1]))
    log.trouble, reserve.room = LogBroken("disk is full"), False
    intake.step(0.0)
    assert (reserve.held, intake.trouble) == (False, "disk is full")
    log.trouble = None
    assert intake.step(0.0) == taking.RETRY_SECONDS
    assert log.last == 0
    assert "reserve" in str(intake.trouble)
    reserve.room = True
    intake.step(0.0)
    assert (log.last, reserve.held, intake.trouble) == (1, True, None)


def test_a_full_log_leaves_the_reserve_alone() -> None:
    """A full log leaves the reserve untouched, and continues once it has room again."""
    log, reserve = Full(), MemoryReserve()
    intake = Intake(
        log,
        Feed(log, parser(), Registry(10), SettableClock()),
        SettableClock(NOW),
        IntakeSettings(messages=1, seconds=0.001),
        reserve,
    )
    intake.hand_over(Delivery(1, [("t", b"1")], [1]))
    log.trouble = LogFull()
    intake.step(0.0)
    assert (log.last, reserve.held, intake.writable) == (0, True, False)
    log.trouble = None
    intake.step(0.0)
    assert (log.last, intake.writable) == (1, True)
