"""Batches for the readers of the log: from memory while they keep up, else from the log.

A batch is a parsed entry of the log. Parsing is a pure function of the entry and of the series
known before it, so the first reader of an entry parses it, and a discarded batch is parsed again.
Series are admitted in the order of the log as well: no reader is ahead of the score reader.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from typing import Generic, TypeVar

import numpy as np

from insa_anomaly.core.reading.parser import Parser
from insa_anomaly.core.reading.reading import Raw, Reading, Rejected, RejectionReason
from insa_anomaly.core.units import Ints
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.log import Entry, Log, Swap
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.runtime.fleet.registry import Registry

KEEP_TIMES = 4096
KEEP_BYTES = 2_000_000  # of entries not parsed yet, and as much of batches
# Approximate bytes of each, beside its text.
_MESSAGE_BYTES = 160
_READING_BYTES = 42
_BATCH_BYTES = 1500
_REJECTED_BYTES = 400
COLUMNS = ("key", "timestamp", "discriminator", "value", "quality", "flags")
_Kept = TypeVar("_Kept")


@dataclass(frozen=True)
class Batch:
    """A parsed entry of the log.

    `received[i]` is when the message of reading i arrived, in microseconds.
    """

    seq: int
    telemetry: Telemetry
    received: Ints
    rejected: list[Rejected]
    swaps: list[Swap]

    def __len__(self) -> int:
        return len(self.telemetry.value)


class _BatchCache(Generic[_Kept]):
    """The values put last, by sequence, up to `KEEP_BYTES`; its user holds a lock."""

    def __init__(self, weigh: Callable[[_Kept], int]) -> None:
        self._weigh = weigh
        self._kept: dict[int, tuple[_Kept, int]] = {}
        self._weight = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, seq: int, value: _Kept) -> None:
        self.pop(seq)
        weight = self._weigh(value)
        self._kept[seq] = value, weight
        self._weight += weight
        while self._weight > KEEP_BYTES:
            self.pop(next(iter(self._kept)))

    def get(self, seq: int) -> _Kept | None:
        return self._kept.get(seq, (None, 0))[0]

    def pop(self, seq: int) -> _Kept | None:
        value, weight = self._kept.pop(seq, (None, 0))
        self._weight -= weight
        return value


class Feed:
    """Batches by their sequence."""

    def __init__(self, log: Log, parser: Parser, registry: Registry, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._log = log
        self._parser = parser
        self._registry = registry
        self._entries = _BatchCache(_entry_bytes)
        self._batches = _BatchCache(_batch_bytes)
        self._last = log.last
        self._earlier = log.last  # entries of earlier processes
        self._arrivals: dict[int, float] = {}
        self._news = Condition()

    @property
    def last(self) -> int:
        """Sequence of the newest entry."""
        return self._last

    def add(self, entry: Entry, arrived: float | None = None) -> None:
        """Take a new entry, whose first message arrived then (monotonic; None: now)."""
        with self._news:
            self._arrivals[entry.seq] = self._monotonic() if arrived is None else arrived
            if len(self._arrivals) > KEEP_TIMES:
                del self._arrivals[next(iter(self._arrivals))]
            self._entries.put(entry.seq, entry)
            self._last = entry.seq
            self._news.notify_all()

    def wait(self, after: int, timeout_s: float) -> bool:
        """Wait for an entry after sequence `after`; return False if none comes in time."""
        with self._news:
            return self._news.wait_for(lambda: self._last > after, timeout_s)

    def arrived_at(self, seq: int) -> float | None:
        """Return when the first message of an entry arrived (monotonic).

        An upper bound if many entries came since; None for an entry of an earlier process.
        """
        with self._news:
            if seq <= self._earlier:
                return None
            return self._arrivals.get(seq, next(iter(self._arrivals.values()), None))

    def read(self, after: int, most: int, through: int | None = None) -> list[Batch]:
        """Return batches with seq > after (and <= through) in order, at least one if there is any.

        Reading ends after `most` readings. Rejected messages count too, because a flood of them
        must not be in memory at once.
        """
        batches: list[Batch] = []
        count = 0
        end = self._last if through is None else min(through, self._last)
        while count < most and after < end:
            found = self._next(after, most - count)
            for batch in found:
                if batch.seq > end:
                    return batches
                batches.append(batch)
                count += len(batch) + len(batch.rejected)
                after = batch.seq
            if not found:
                return batches
        return batches

    def _next(self, after: int, most: int) -> list[Batch]:
        """Return the next batches; none if the log has dropped the entries."""
        with self._news:
            batch = self._batches.get(after + 1)
            entry = self._entries.pop(after + 1) if batch is None else None
        if batch is not None:
            return [batch]
        entries = self._log.read(after, most) if entry is None else [entry]
        return [self._parsed(entry) for entry in entries]

    def _parsed(self, entry: Entry) -> Batch:
        with self._news:
            batch = self._batches.get(entry.seq)
        if batch is None:
            batch = parsed(entry, self._parser, self._registry)
            with self._news:
                self._batches.put(entry.seq, batch)
        return batch


def _entry_bytes(entry: Entry) -> int:
    texts = sum(len(topic) + len(payload) for topic, payload in entry.messages)
    return _BATCH_BYTES + _MESSAGE_BYTES * len(entry.messages) + texts


def _batch_bytes(batch: Batch) -> int:
    raws = (rejected.raw for rejected in batch.rejected)
    rejected = sum(_REJECTED_BYTES + len(raw.topic) + len(raw.payload) for raw in raws)
    return _BATCH_BYTES + _READING_BYTES * len(batch) + rejected


def parsed(entry: Entry, parser: Parser, registry: Registry) -> Batch:
    """Return the readings of an entry as columns, and its messages without readings."""
    readings: list[Reading] = []
    indices: list[int] = []
    received: list[int] = []
    rejected: list[Rejected] = []
    for swap in entry.swaps:
        registry.index_of(swap.key)
    for position, (topic, payload) in enumerate(entry.messages):
        raw = Raw(topic, payload, entry.received + position)
        answer = parser.parse(raw)
        if not isinstance(answer, Rejected):
            placed = registry.indices_of(answer)
            if placed is not None:
                readings += answer
                indices += placed
                received += [raw.received] * len(answer)
                continue
            detail = f"{registry.capacity} series are known, and there is room for no more"
            answer = Rejected(RejectionReason.TOO_MANY_SERIES, detail, raw)
        rejected.append(answer)
    telemetry, times = _columns(readings, indices, registry), np.array(received, np.int64)
    return Batch(entry.seq, telemetry, times, rejected, entry.swaps)


def _columns(readings: list[Reading], indices: list[int], registry: Registry) -> Telemetry:
    texts = enumerate(reading.original for reading in readings)
    return Telemetry(
        keys=registry.keys,
        key=np.array(indices, np.int32),
        timestamp=np.array([reading.timestamp for reading in readings], np.int64),
        discriminator=np.array([reading.discriminator for reading in readings], np.int64),
        value=np.array([reading.value for reading in readings], np.float64),
        quality=np.array([reading.quality for reading in readings], np.int16),
        flags=np.array([reading.flags for reading in readings], np.int16),
        original={i: text for i, text in texts if text is not None},
    )


def joined(batches: list[Batch]) -> Telemetry:
    """Return the readings of several batches as columns."""
    parts = [batch.telemetry for batch in batches]
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *map(len, batches)])
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
    original: dict[int, str] = {}
    for start, part in zip(starts.tolist(), parts, strict=False):
        original |= {start + row: text for row, text in part.original.items()}
    return Telemetry(parts[0].keys, **columns, original=original)
