"""Where the readers of the log get their batches: from memory while they keep up, from the log when they do not.

A batch is one entry of the log, parsed. Parsing is a pure function of the entry (and of the series known before it), so whoever
comes first does it, and what is thrown away is simply parsed again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Condition, Lock

import numpy as np

from insa_anomaly.core.reading import Cause, Parser, Raw, Reading, Rejected
from insa_anomaly.ports import Entry, Log, SeriesKey, Swap, Telemetry

KEEP_MESSAGES = 30_000  # unparsed, about 10 MB
KEEP_READINGS = 200_000  # parsed, about 8 MB


class Registry:
    """Numbers for series in the order they were first seen; a number is never given twice. Any thread may ask."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.keys: list[SeriesKey] = []
        self._numbers: dict[SeriesKey, int] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.keys)

    def number(self, key: SeriesKey) -> int:
        """The number of the series, -1 where it is new and there is no room."""
        number = self._numbers.get(key)
        return self._add(key) if number is None else number

    def _add(self, key: SeriesKey) -> int:
        with self._lock:
            if key not in self._numbers:
                if len(self.keys) >= self.capacity:
                    return -1
                self.keys.append(key)
                self._numbers[key] = len(self.keys) - 1
            return self._numbers[key]


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


class Feed:
    """Batches by their sequence."""

    def __init__(self, log: Log, parser: Parser, registry: Registry) -> None:
        self._log, self._parser, self._registry = log, parser, registry
        self._entries: dict[int, Entry] = {}
        self._batches: dict[int, Batch] = {}
        self._messages = self._readings = 0
        self._last = log.last
        self._news = Condition()

    @property
    def last(self) -> int:
        """Sequence of the newest entry."""
        return self._last

    def offer(self, entry: Entry) -> None:
        """A new entry is in the log."""
        with self._news:
            self._entries[entry.seq] = entry
            self._messages += len(entry.messages)
            while self._messages > KEEP_MESSAGES:
                self._messages -= len(self._entries.pop(next(iter(self._entries))).messages)
            self._last = entry.seq
            self._news.notify_all()

    def wait(self, after: int, timeout: float) -> bool:
        """True once there is an entry past `after`, False when `timeout` seconds have gone by without."""
        with self._news:
            return self._news.wait_for(lambda: self._last > after, timeout)

    def read(self, after: int, most: int, through: int | None = None) -> list[Batch]:
        """Batches with seq > after (and <= through) in order, until `most` readings are had; at least one where there is one."""
        batches: list[Batch] = []
        count = 0
        while count < most and after < (self._last if through is None else min(through, self._last)):
            for batch in self._next(after, most - count):
                if through is not None and batch.seq > through:
                    return batches
                batches.append(batch)
                count += len(batch)
                after = batch.seq
        return batches

    def _next(self, after: int, most: int) -> Iterable[Batch]:
        batch = self._batches.get(after + 1)
        if batch is not None:
            return [batch]
        with self._news:
            entry = self._entries.pop(after + 1, None)
            if entry is not None:
                self._messages -= len(entry.messages)
        entries = self._log.read(after, most) if entry is None else [entry]
        return [self._keep(parsed(e, self._parser, self._registry)) for e in entries]

    def _keep(self, batch: Batch) -> Batch:
        with self._news:
            self._batches[batch.seq] = batch
            self._readings += len(batch)
            while self._readings > KEEP_READINGS:
                self._readings -= len(self._batches.pop(next(iter(self._batches))))
        return batch


def parsed(entry: Entry, parser: Parser, registry: Registry) -> Batch:
    """The readings of an entry as columns, and the messages that hold none."""
    readings: list[Reading] = []
    numbers: list[int] = []
    received: list[int] = []
    rejected: list[Rejected] = []
    for position, (topic, payload) in enumerate(entry.messages):
        raw = Raw(topic, payload, entry.received + position)
        answer = parser.parse(raw)
        if not isinstance(answer, Rejected):
            placed = [registry.number((reading.device_id, reading.metric_name)) for reading in answer]
            if -1 not in placed:
                readings += answer
                numbers += placed
                received += [raw.received] * len(answer)
                continue
            answer = Rejected(Cause.TOO_MANY_SERIES, f"{registry.capacity} series are known, and there is room for no more", raw)
        rejected.append(answer)
    return Batch(entry.seq, _columns(readings, numbers, registry), np.array(received, np.int64), rejected, entry.swaps)


def _columns(readings: list[Reading], numbers: list[int], registry: Registry) -> Telemetry:
    return Telemetry(
        keys=registry.keys,
        key=np.array(numbers, np.int32),
        timestamp=np.array([reading.timestamp for reading in readings], np.int64),
        discriminator=np.array([reading.discriminator for reading in readings], np.int64),
        value=np.array([reading.value for reading in readings], np.float64),
        quality=np.array([reading.quality for reading in readings], np.int16),
        flags=np.array([reading.flags for reading in readings], np.int16),
        original={i: reading.original for i, reading in enumerate(readings) if reading.original is not None},
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
        original={int(start) + row: text for start, part in zip(starts, parts, strict=False) for row, text in part.original.items()},
    )
