"""The contract of every log, in memory and on disk."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.adapters.disk.log import LogFile
from insa_anomaly.ports.log import CLOCK_SLACK, Entry, Log, Swap
from insa_anomaly.testing.log import MemoryLog


@contextmanager
def memory_log() -> Iterator[Log]:
    """Yield a log in memory."""
    yield MemoryLog()


@contextmanager
def disk_log() -> Iterator[Log]:
    """Yield a log on disk."""
    with tempfile.TemporaryDirectory() as folder, LogFile(Path(folder) / "spool.db") as spool:
        yield spool


Body = Callable[[], AbstractContextManager[Log]]
Batches = list[tuple[list[tuple[str, bytes]], list[Swap], int]]
bodies = pytest.mark.parametrize("body", [memory_log, disk_log])

topics = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
messages = st.lists(st.tuples(topics, st.binary(max_size=300)), max_size=8)
swaps = st.lists(st.builds(Swap, topics, topics, st.none() | topics), max_size=2)
nows = st.integers(0, 2**52)
batches = st.lists(st.tuples(messages, swaps, nows), max_size=12)


@bodies
@settings(max_examples=40, deadline=None)
@given(batches=batches, most=st.integers(1, 20), drop=st.integers(0, 12))
def test_law_what_is_appended_is_read(body: Body, batches: Batches, most: int, drop: int) -> None:
    """Every entry not dropped is read exactly once, in order and byte for byte.

    The law holds for reads from any place and of any size.
    """
    with body() as log:
        appended = [log.append(*batch) for batch in batches]
        log.drop(drop)
        read: list[Entry] = []
        while more := log.read(read[-1].seq if read else 0, most):
            assert sum(len(entry.messages) for entry in more[:-1]) < most
            read += more
        assert read == appended[drop:]
        assert log.last == len(appended)


@bodies
@settings(max_examples=40, deadline=None)
@given(batches=batches)
def test_law_receive_times_are_unique(body: Body, batches: Batches) -> None:
    """No two messages share a receive time, unless the clock is set back by much.

    An entry without messages has a receive time of its own too.
    """
    with body() as log:
        free = 0
        for messages, swaps, now in batches:
            entry = log.append(messages, swaps, max(now, free - CLOCK_SLACK))
            assert entry.received >= max(now, free)
            free = entry.received + max(1, len(messages))


@bodies
def test_a_clock_that_is_set_back_by_much_is_believed(body: Body) -> None:
    """A clock set back by much is trusted, because it was wrong before.

    Otherwise new messages would carry times a year ahead for a year.
    """
    year = 365 * 86_400_000_000
    message = [("t", b"1")]
    with body() as log:
        assert log.append(message, [], year).received == year
        assert log.append(message, [], 5 * CLOCK_SLACK).received == 5 * CLOCK_SLACK
        assert log.append(message, [], 4 * CLOCK_SLACK + 1).received == 5 * CLOCK_SLACK + 1


@bodies
def test_sequences_start_at_one_and_have_no_gap(body: Body) -> None:
    """Sequences start at 1 without a gap, so a cursor of 0 means that no entry was read."""
    with body() as log:
        assert log.last == 0
        assert log.read(0, 10) == []
        assert [log.append([("t", b"")], [], 5).seq for _ in range(3)] == [1, 2, 3]
        assert log.last == 3


@bodies
def test_an_entry_larger_than_asked_for_comes_whole(body: Body) -> None:
    """An entry is always read whole; `most` bounds the entries after the first."""
    with body() as log:
        log.append([("t", b"x")] * 10, [], 0)
        log.append([("t", b"y")], [], 0)
        assert [len(entry.messages) for entry in log.read(0, 3)] == [10]


@bodies
def test_the_age_of_what_waits_is_known(body: Body) -> None:
    """`received` returns the receive time of the oldest entry after a sequence, None at the end.

    Dropped entries do not count.
    """
    with body() as log:
        assert log.received(0) is None
        for now in (1000, 2000, 3000):
            log.append([("t", b"x")], [], now)
        assert [log.received(after) for after in range(4)] == [1000, 2000, 3000, None]
        log.drop(2)
        assert log.received(0) == 3000


@bodies
def test_dropping_all_keeps_the_place(body: Body) -> None:
    """Sequences and receive times continue after every entry was dropped."""
    with body() as log:
        log.append([("t", b"x")] * 10, [], 1000)
        log.drop(99)
        assert log.last == 1
        assert log.read(0, 10) == []
        entry = log.append([], [], 0)
        assert (entry.seq, entry.received) == (2, 1010)
