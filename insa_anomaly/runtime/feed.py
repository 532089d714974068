"""Where the readers of the log get their batches: from memory while they keep up, from the log when they do not.

A batch is one entry of the log, parsed. Parsing is a pure function of the entry (and of the series known before it), so whoever
comes first does it, and what is thrown away is simply parsed again. Series are let in by the order of the log too: no reader of the log
is before the score reader.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from time import monotonic
from typing import Generic, TypeVar

import numpy as np

from insa_anomaly.core.reading.parser import Parser
from insa_anomaly.core.reading.reading import Raw, Reading, Rejected, RejectionReason
from insa_anomaly.ports.log import Entry, Log, Swap
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.runtime.fleet.registry import Registry

KEEP_TIMES = 4096
KEEP_BYTES = 2_000_000  # of entries not parsed yet, and as much of batches
_MESSAGE_BYTES, _READING_BYTES, _BATCH_BYTES, _REJECTED_BYTES = (
    160,
    42,
    1500,
    400,
)  # about what each takes beside its text
_Kept = TypeVar("_Kept")


@dataclass(frozen=True)
class Batch:
    """One entry of the log, parsed. `received[i]` is when the message of reading i came, in microseconds."""

    seq: int
    telemetry: Telemetry
    received: np.ndarray
    rejected: list[Rejected]
    swaps: list[Swap]

    def __len__(self) -> int:
        return len(self.telemetry.value)


class _BatchCache(Generic[_Kept]):
    """What was put last, by sequence, as far as `KEEP_BYTES` reach. Under its user's lock."""

    def __init__(self, weigh: Callable[[_Kept], int]) -> None:
        self._weigh = weigh
        self._kept: dict[int, tuple[_Kept, int]] = {}
        self._weight = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, seq: int, one: _Kept) -> None:
        self.pop(seq)
        self._kept[seq] = one, self._weigh(one)
        self._weight += self._kept[seq][1]
        while self._weight > KEEP_BYTES:
            self.pop(next(iter(self._kept)))

    def get(self, seq: int) -> _Kept | None:
        found = self._kept.get(seq)
        return None if found is None else found[0]

    def pop(self, seq: int) -> _Kept | None:
        one, weight = self._kept.pop(seq, (None, 0))
        self._weight -= weight
        return one


class Feed:
    """Batches by their sequence."""

    def __init__(self, log: Log, parser: Parser, registry: Registry) -> None:
        self._log = log
        self._parser = parser
        self._registry = registry
        self._entries = _BatchCache(_entry_bytes)
        self._batches = _BatchCache(_batch_bytes)
        self._last = self._earlier = log.last
        self._came: dict[int, float] = {}
        self._news = Condition()

    @property
    def last(self) -> int:
        """Sequence of the newest entry."""
        return self._last

    def add(self, entry: Entry, came: float | None = None) -> None:
        """A new entry is in the log; the first of its messages came then (monotonic; None: now)."""
        with self._news:
            self._came[entry.seq] = monotonic() if came is None else came
            if len(self._came) > KEEP_TIMES:
                del self._came[next(iter(self._came))]
            self._entries.put(entry.seq, entry)
            self._last = entry.seq
            self._news.notify_all()

    def wait(self, after: int, timeout_s: float) -> bool:
        """True once there is an entry past `after`, False when `timeout_s` seconds have gone by without."""
        with self._news:
            return self._news.wait_for(lambda: self._last > after, timeout_s)

    def arrived_at(self, seq: int) -> float | None:
        """When the first message of this entry came (monotonic); at the latest, where many came since. None: before this process began."""
        with self._news:
            return (
                None
                if seq <= self._earlier
                else self._came.get(seq, next(iter(self._came.values()), None))
            )

    def read(self, after: int, most: int, through: int | None = None) -> list[Batch]:
        """Batches with seq > after (and <= through) in order, at least one where there is one.

        No more once `most` readings are had, messages that hold none counted too: a flood of those must not come into memory at once.
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
        """The next batch or several; none where the log has dropped what there was."""
        with self._news:
            batch = self._batches.get(after + 1)
            entry = self._entries.pop(after + 1) if batch is None else None
        if batch is not None:
            return [batch]
        return [
            self._parsed(entry)
            for entry in (self._log.read(after, most) if entry is None else [entry])
        ]

    def _parsed(self, entry: Entry) -> Batch:
        with self._news:
            batch = self._batches.get(entry.seq)
        if batch is None:
            batch = parsed(entry, self._parser, self._registry)
            with self._news:
                self._batches.put(entry.seq, batch)
        return batch


def _entry_bytes(entry: Entry) -> int:
    return _BATCH_BYTES + sum(
        _MESSAGE_BYTES + len(topic) + len(payload) for topic, payload in entry.messages
    )


def _batch_bytes(batch: Batch) -> int:
    rejected = sum(
        _REJECTED_BYTES + len(one.raw.topic) + len(one.raw.payload) for one in batch.rejected
    )
    return _BATCH_BYTES + _READING_BYTES * len(batch) + rejected


def parsed(entry: Entry, parser: Parser, registry: Registry) -> Batch:
    """The readings of an entry as columns, and the messages that hold none."""
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
            answer = Rejected(
                RejectionReason.TOO_MANY_SERIES,
                f"{registry.capacity} series are known, and there is room for no more",
                raw,
            )
        rejected.append(answer)
    return Batch(
        entry.seq,
        _columns(readings, indices, registry),
        np.array(received, np.int64),
        rejected,
        entry.swaps,
    )


def _columns(readings: list[Reading], indices: list[int], registry: Registry) -> Telemetry:
    return Telemetry(
        keys=registry.keys,
        key=np.array(indices, np.int32),
        timestamp=np.array([reading.timestamp for reading in readings], np.int64),
        discriminator=np.array([reading.discriminator for reading in readings], np.int64),
        value=np.array([reading.value for reading in readings], np.float64),
        quality=np.array([reading.quality for reading in readings], np.int16),
        flags=np.array([reading.flags for reading in readings], np.int16),
        original={
            i: reading.original
            for i, reading in enumerate(readings)
            if reading.original is not None
        },
    )


def joined(batches: list[Batch]) -> Telemetry:
    """The readings of several batches in one set of columns."""
    parts = [batch.telemetry for batch in batches]
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *map(len, batches)])
    return Telemetry(
        keys=parts[0].keys,
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("key", "timestamp", "discriminator", "value", "quality", "flags")
        },
        original={
            int(start) + row: text
            for start, part in zip(starts, parts, strict=False)
            for row, text in part.original.items()
        },
    )
