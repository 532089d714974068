"""Recorded readings through a real broker, in the order of their times, at a chosen speed.

Every message carries the id of its row, the same at every replay. So a row replayed twice under the
same time is a single row in the database, and equal values at equal times stay two.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from heapq import merge
from operator import attrgetter
from typing import Protocol

import msgspec
from rich.console import Console

from insa_anomaly.core.units import SECOND
from insa_anomaly.workbench.progress import Advance, progress
from insa_anomaly.workbench.recordings.recording import Recording, Row, Span, survey

TOPIC = "insa/iiot/telemetry"
_encode = msgspec.json.Encoder().encode

Message = tuple[str, bytes]  # topic, payload
Form = Callable[[Row], Iterable[Message]]
Wait = Callable[[int], None]


class MessagePublisher(Protocol):
    """A way to the broker, at QoS 1."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message; wait while too many are not acknowledged. Raises BrokerAway."""

    def drain(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for acknowledgements; return how many are missing."""


@dataclass(frozen=True)
class ReplayCounts:
    """Counts of a replay.

    `first` and `last` are times as sent (microseconds); `stopped` means that a person ended it
    early.
    """

    rows: int = 0
    messages: int = 0
    readings: int = 0
    first: int = 0
    last: int = 0
    unacknowledged: int = 0
    seconds: float = 0.0
    stopped: bool = False


@dataclass
class ReplayPace:
    """Pace that waits until a reading is due, `speed` times as fast as recorded."""

    speed: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _first: tuple[int, float] | None = field(default=None, init=False)

    def __call__(self, timestamp: int) -> None:
        """Return when the reading of this time (microseconds) is due."""
        first, started = self._first = self._first or (timestamp, self.clock())
        early = started + (timestamp - first) / SECOND / self.speed - self.clock()
        if early > 0:
            self.sleep(early)


def at_once(_timestamp: int) -> None:
    """Return at once."""


def device_message(row: Row, topic: str = TOPIC) -> list[Message]:
    """Return a message with all metrics of the row."""
    payload = {"id": row.id, "timestamp": moment(row.timestamp), "metrics": row.values}
    return [(f"{topic}/{row.device_id}", _encode(payload))]


def metric_messages(row: Row, topic: str = TOPIC) -> list[Message]:
    """Return a message for each metric of the row."""
    common = {"id": row.id, "timestamp": moment(row.timestamp)}
    place = f"{topic}/{row.device_id}"
    return [
        (place, _encode({**common, "metric_name": metric, "value": value}))
        for metric, value in row.values.items()
    ]


def merged(recordings: Sequence[Recording], shift: int = 0) -> Iterator[Row]:
    """Yield the rows of all files by time, moved by `shift` microseconds.

    Rows of a file stay in its order.
    """
    rows = merge(*(recording.rows() for recording in recordings), key=attrgetter("timestamp"))
    for row in rows:
        yield msgspec.structs.replace(row, timestamp=row.timestamp + shift) if shift else row


def publish(
    rows: Iterable[Row], feeder: MessagePublisher, form: Form, wait: Wait, advance: Advance
) -> ReplayCounts:
    """Publish the rows in their order; Ctrl-C ends it between two rows.

    Acknowledgements are not waited for.
    """
    total: Counter[str] = Counter()
    first: int | None = None
    last, started, stopped = 0, time.monotonic(), False
    try:
        for row in rows:
            wait(row.timestamp)
            for topic, payload in form(row):
                feeder.publish(topic, payload)
                total["messages"] += 1
            total["rows"] += 1
            total["readings"] += len(row.values)
            first, last = row.timestamp if first is None else first, row.timestamp
            advance(1)
    except KeyboardInterrupt:
        stopped = True
    return ReplayCounts(
        **total, first=first or 0, last=last, seconds=time.monotonic() - started, stopped=stopped
    )


def replay(
    recordings: Sequence[Recording],
    feeder: MessagePublisher,
    console: Console,
    *,
    speed: float | None = None,
    shift_to: int | None = None,
    form: Form = device_message,
    patience: float = 30.0,
) -> ReplayCounts:
    """Check every file to its end, then publish all and wait for the broker to have them.

    `speed`: times as fast as recorded, None: as fast as possible. `shift_to`: time (microseconds)
    that the last reading is moved to, and all others with it; None leaves times as recorded.
    `patience`: seconds to wait for acknowledgements. Raises FileFormatError before a message is
    sent, and BrokerAway when the broker is lost for good.
    """
    span = _checked(recordings, console)
    shift = 0 if shift_to is None else shift_to - span.last
    wait: Wait = at_once if speed is None else ReplayPace(speed)
    with progress(console, "publishing", span.rows) as advance:
        counts = publish(merged(recordings, shift), feeder, form, wait, advance)
    counts = replace(counts, unacknowledged=feeder.drain(patience))
    console.print(_summary(counts))
    return counts


def _checked(recordings: Sequence[Recording], console: Console) -> Span:
    notes = Counter(note for recording in recordings for note in recording.notes())
    for note, files in notes.items():
        which = "all files" if files == len(recordings) else f"{files} of {len(recordings)} files"
        console.print(f"{which}: {note}")
    with progress(console, "checking files", len(recordings)) as advance:
        spans = []
        for recording in recordings:
            spans.append(survey(recording))
            advance(1)
    rows, readings, first, last = zip(*spans, strict=True)
    return Span(sum(rows), sum(readings), min(first), max(last))


def _summary(counts: ReplayCounts) -> str:
    rate = counts.readings / counts.seconds if counts.seconds else 0.0
    first, last = (f"{moment(time):%Y-%m-%d %H:%M:%S}" for time in (counts.first, counts.last))
    text = (
        f"{counts.readings:,} readings in {counts.messages:,} messages, {rate:,.0f} readings/s, "
        f"times {first} to {last} UTC"
    )
    if counts.stopped:
        text += "; stopped early"
    return f"{text}; {counts.unacknowledged:,} not acknowledged" if counts.unacknowledged else text


def moment(timestamp: int) -> datetime:
    return datetime.fromtimestamp(timestamp // SECOND, UTC).replace(microsecond=timestamp % SECOND)
