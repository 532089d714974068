"""The feed: the same batches from memory and from the log, for any reader, in any order.

Little of them is held in memory.
"""

import tracemalloc
from collections.abc import Callable
from threading import Thread, Timer
from time import monotonic

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.reading.reading import RejectionReason
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.log import Swap
from insa_anomaly.runtime import feed as feeding
from insa_anomaly.runtime.feed import Batch, Feed, joined
from insa_anomaly.runtime.fleet.registry import Registry
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.testing.log import MemoryLog
from tests.runtime.streams import CAPACITY, NOW, message, parser, stream, swap, topic

Said = tuple[int, list[tuple[object, ...]], list[tuple[str, int]], list[Swap]]


def said(batch: Batch) -> Said:
    """Return the content of a batch, series by name: a process assigns its own numbers."""
    t = batch.telemetry
    columns = (
        t.key.tolist(),
        t.timestamp.tolist(),
        t.discriminator.tolist(),
        t.value.tolist(),
        t.quality.tolist(),
        t.flags.tolist(),
    )
    rows = zip(*columns, batch.received.tolist(), strict=True)
    readings: list[tuple[object, ...]] = [
        (t.keys[row[0]], *row[1:], t.original.get(i)) for i, row in enumerate(rows)
    ]
    return (
        batch.seq,
        readings,
        [(rejected.reason, rejected.raw.received) for rejected in batch.rejected],
        batch.swaps,
    )


def fed(log: MemoryLog, capacity: int = CAPACITY) -> Feed:
    """Build a feed on this log."""
    return Feed(log, parser(), Registry(capacity), SettableClock())


# -------------------------------------------------------------------------------- laws
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 99),
    st.sets(st.integers(0, 300), max_size=40),
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([1, 7, 60, 1000]), st.integers(0, 3)),
        max_size=80,
    ),
    st.sampled_from([1, 2000, 20_000, 10_000_000]),
)
def test_whoever_reads_whenever_gets_the_same(
    seed: int, cuts: set[int], steps: list[tuple[int, int, int]], room: int
) -> None:
    """Three readers at their own pace get every batch, in order, and all the same.

    Entries arrive in between, and memory is large or small.
    """
    entries = stream(seed, 60).entries(cuts)
    plain = MemoryLog()
    for entry in entries:
        plain.append(entry.messages, entry.swaps, NOW)
    expected = [said(batch) for batch in fed(plain).read(0, 10**9)]
    log = MemoryLog()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feeding, "KEEP_BYTES", room)
        feed = fed(log)
        got: list[list[Said]] = [[], [], []]
        coming = iter(entries)
        for reader, most, fresh in steps + [(reader, 1000, len(entries)) for reader in range(3)]:
            for _, entry in zip(range(fresh), coming, strict=False):
                feed.add(log.append(entry.messages, entry.swaps, NOW))
            got[reader] += [said(batch) for batch in feed.read(len(got[reader]), most)]
        for reader in range(3):
            while batches := feed.read(len(got[reader]), 50):
                got[reader] += [said(batch) for batch in batches]
    assert got == [expected] * 3


def test_readers_in_threads_get_the_same() -> None:
    """Readers in real threads get the same, although the small memory evicts all the time."""
    entries = stream(1, 150).entries(set(range(0, 400, 2)))
    log = MemoryLog()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feeding, "KEEP_BYTES", 3000)
        feed = fed(log)
        got: list[list[Said]] = [[], [], []]

        def read(mine: list[Said]) -> None:
            while len(mine) < len(entries) and feed.wait(len(mine), 5.0):
                mine += [said(batch) for batch in feed.read(len(mine), 9)]

        threads = [Thread(target=read, args=(mine,)) for mine in got]
        for thread in threads:
            thread.start()
        for entry in entries:
            feed.add(log.append(entry.messages, entry.swaps, NOW))
        for thread in threads:
            thread.join(30)
    assert [len(mine) for mine in got] == [len(entries)] * 3
    assert got[0] == got[1] == got[2]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.sets(st.integers(0, 360), max_size=10))
def test_joined_batches_hold_what_each_held(seed: int, cuts: set[int]) -> None:
    """Joined columns are the columns of the batches in sequence.

    Original timestamps are in their places.
    """
    batches = fed(stream(seed, 150).log(cuts)).read(0, 10**9)
    whole = joined(batches)
    for name in ("key", "timestamp", "discriminator", "value", "quality", "flags"):
        assert np.array_equal(
            getattr(whole, name),
            np.concatenate([getattr(batch.telemetry, name) for batch in batches]),
        )
    originals = [batch.telemetry.original.get(i) for batch in batches for i in range(len(batch))]
    assert [whole.original.get(i) for i in range(len(whole.value))] == originals
    assert len(whole.original) == len([one for one in originals if one is not None])


# ------------------------------------------------------------------------------ bounds
def kept(feed: Feed) -> int:
    """Return the number of entries and batches that the feed holds."""
    return len(feed._entries) + len(feed._batches)


def held_after(payloads: Callable[[int], bytes], entries: int, *, read: bool) -> Feed:
    """Build a feed with little room after `entries` entries."""
    log = MemoryLog()
    feed = fed(log)
    for i in range(entries):
        feed.add(log.append([(topic("pump"), payloads(i))], [], NOW))
        if read:
            feed.read(i, 100)
    return feed


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("payload", [b'{"a": 1}', b"garbage", b"x" * 5000])
def test_memory_is_bounded_whatever_comes(
    monkeypatch: pytest.MonkeyPatch, payload: bytes, read: bool
) -> None:
    """The memory does not grow with the stream.

    Examples are many small batches, many without a reading, and long messages.
    """
    monkeypatch.setattr(feeding, "KEEP_BYTES", 100_000)
    few, many = (held_after(lambda _: payload, entries, read=read) for entries in (100, 500))
    assert 0 < kept(many) <= kept(few) <= 100
    assert kept(many) * len(payload) <= 100_000


def test_what_two_readers_parsed_at_once_is_kept_once() -> None:
    """A second batch replaces the first, and both weigh as a single batch."""
    memory = feeding._BatchCache[str](len)
    memory.put(1, "abc")
    memory.put(1, "abc")
    assert (len(memory), memory._weight) == (1, 3)
    assert memory.pop(1) == "abc"
    assert memory._weight == 0


def test_what_is_parsed_again_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow reader makes the feed parse old entries repeatedly.

    The amount held for the fast reader stays the same.
    """
    monkeypatch.setattr(feeding, "KEEP_BYTES", 20_000)
    feed = held_after(lambda i: b'{"a": %d}' % i, 50, read=True)
    before = kept(feed)
    for _ in range(20):
        for after in range(0, 50, 3):
            feed.read(after, 5)
    assert kept(feed) == before


# ---------------------------------------------------------------------------- registry
def test_a_number_is_never_given_twice() -> None:
    """A series has a number for ever; numbers follow the order of first sight."""
    registry = Registry(3)
    assert [registry.index_of(SeriesKey(device, "a")) for device in ("x", "y", "x", "z", "y")] == [
        0,
        1,
        0,
        2,
        1,
    ]
    assert registry.keys == [("x", "a"), ("y", "a"), ("z", "a")]


def test_a_full_registry_rejects_new_series_and_takes_known_ones() -> None:
    """A message of a new series beyond the capacity is rejected whole, with its bytes.

    Messages of known series are not.
    """
    log = MemoryLog()
    log.append(
        [
            message("x", 0, {"a": 1.0}),
            message("x", 1, {"a": 2.0, "b": 3.0}),
            message("x", 2, {"a": 4.0}),
            message("y", 0, {"a": 5.0}),
        ],
        [],
        NOW,
    )
    [batch] = fed(log, capacity=1).read(0, 100)
    assert batch.telemetry.value.tolist() == [1.0, 4.0]
    assert [rejected.reason for rejected in batch.rejected] == [RejectionReason.TOO_MANY_SERIES] * 2
    assert batch.rejected[0].raw.payload == message("x", 1, {"a": 2.0, "b": 3.0})[1]


def test_a_rejected_message_takes_no_place() -> None:
    """A message with a series too many admits none of its series."""
    log = MemoryLog()
    log.append([message("x", 0, {"a": 1.0, "b": 2.0}), message("y", 0, {"a": 5.0})], [], NOW)
    registry = Registry(1)
    [batch] = Feed(log, parser(), registry, SettableClock()).read(0, 100)
    assert registry.keys == [("y", "a")]
    assert batch.telemetry.value.tolist() == [5.0]


def test_a_series_that_gets_a_model_is_known_from_there_on() -> None:
    """A swap admits its series at its place in the log.

    Admission therefore does not depend on the number of entries read at once.
    """
    log = MemoryLog()
    log.append([], [swap(0)], NOW)
    log.append([message("new", 0, {"a": 1.0}), message("pump", 0, {"a": 2.0})], [], NOW)
    batches = fed(log, capacity=1).read(0, 100)
    assert batches[1].telemetry.value.tolist() == [2.0]
    assert [rejected.reason for rejected in batches[1].rejected] == [
        RejectionReason.TOO_MANY_SERIES
    ]


# ----------------------------------------------------------------------------- reading
def test_reading_stops_where_it_is_told_to() -> None:
    """No batch beyond `through` is returned, neither from memory nor from the log."""
    feed = fed(stream(0, 0).log({10, 20, 30}))
    assert [batch.seq for batch in feed.read(0, 10**6, through=2)] == [1, 2]
    assert [batch.seq for batch in feed.read(1, 1, through=2)] == [2]
    assert feed.read(2, 10, through=2) == []


def test_entries_that_were_dropped_are_passed_over() -> None:
    """A reader that starts before the oldest entry of the log continues with that entry."""
    log = stream(0, 0).log({10, 20})
    log.drop(2)
    assert [batch.seq for batch in fed(log).read(0, 10**6)] == [3, 4]
    log.drop(4)
    assert fed(log).read(0, 10**6) == []
    assert fed(log).last == 4


def test_waiting_ends_with_news_or_in_time() -> None:
    """`wait` returns whether there is an entry past the reader's place."""
    log = MemoryLog()
    feed = fed(log)
    assert not feed.wait(0, 0.0)
    feed.add(log.append([], [], NOW))
    assert feed.wait(0, 0.0)
    assert not feed.wait(1, 0.001)
    began = monotonic()
    coming = Timer(0.005, lambda: feed.add(log.append([], [], NOW)))
    coming.start()
    assert feed.wait(1, 30.0)
    assert monotonic() - began < 10.0
    coming.join()


def test_it_is_known_when_an_entry_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of arrival is exact for the newest entries.

    An older entry has the time of the oldest that is remembered; an earlier run's has none.
    """
    monkeypatch.setattr(feeding, "KEEP_TIMES", 3)
    log = MemoryLog()
    log.append([], [], NOW)
    feed = fed(log)
    for seq in range(2, 7):
        feed.add(log.append([], [], NOW), arrived=float(seq))
    assert [feed.arrived_at(seq) for seq in range(1, 7)] == [None, 4.0, 4.0, 4.0, 5.0, 6.0]
    feed.add(log.append([], [], NOW))
    assert feed.arrived_at(7) == SettableClock().monotonic()


def test_each_message_has_a_time_of_its_own() -> None:
    """Message i of an entry was received i microseconds after the entry.

    Readings, rejections and stamps use this time.
    """
    log = MemoryLog()
    log.append(
        [(topic("pump"), b'{"a": 1, "b": 2}'), (topic("pump"), b"{"), (topic("pump"), b'{"a": 3}')],
        [],
        NOW,
    )
    [batch] = fed(log).read(0, 10)
    assert batch.received.tolist() == batch.telemetry.timestamp.tolist() == [NOW, NOW, NOW + 2]
    assert [rejected.raw.received for rejected in batch.rejected] == [NOW + 1]


def test_series_of_batches_share_their_names() -> None:
    """`keys` is the registry's list for all batches."""
    key = SeriesKey("pump", "a")
    batches = fed(stream(0, 0).log({50})).read(0, 10**6)
    assert all(batch.telemetry.keys is batches[0].telemetry.keys for batch in batches)
    assert key in batches[0].telemetry.keys


def test_messages_that_hold_no_reading_count_too() -> None:
    """A backlog of messages without a reading is read in pieces, like any other."""
    log = MemoryLog()
    for _ in range(50):
        log.append([("nonsense", b"-")] * 10, [], NOW)
    feed = Feed(log, parser(), Registry(10), SettableClock())
    assert sum(len(batch.rejected) for batch in feed.read(0, 100)) == 100


def test_a_flood_of_unknown_devices_takes_little_memory() -> None:
    """Only as many series are admitted as there is room for, and the others take no memory.

    Known series are still read.
    """
    log = MemoryLog()
    registry = Registry(1000)
    feed = Feed(log, parser(), registry, SettableClock())
    log.append([message("known", 0, {"a": 1.0})], [], NOW)
    feed.add(log.read(0, 1)[0])
    feed.read(0, 1)
    tracemalloc.start()
    try:
        for begin in range(0, 20_000, 1000):
            entry = log.append(
                [
                    (topic(f"stranger-{number}"), b'{"a": 1}')
                    for number in range(begin, begin + 1000)
                ],
                [],
                NOW,
            )
            feed.add(entry)
            assert feed.read(entry.seq - 1, 10**6)
            log.drop(entry.seq)
        assert tracemalloc.get_traced_memory()[0] < 10_000_000
    finally:
        tracemalloc.stop()
    assert len(registry) == registry.capacity
    entry = log.append([message("known", 1, {"a": 1.0})], [], NOW)
    feed.add(entry)
    assert len(feed.read(entry.seq - 1, 1)[0]) == 1
