"""The log: every received message, durably and in order."""

from typing import Protocol
from uuid import UUID

import msgspec

from insa_anomaly.core.reading.series_key import SeriesKey


class Swap(msgspec.Struct, frozen=True, array_like=True):
    """A change of a series' model at this place in the log; `model_id` None removes the model.

    `threshold` was set by hand; if None, the model's own threshold counts. `shadow_id` is a second
    version that scores along and opens no episode.
    """

    device_id: str
    metric_name: str
    model_id: str | None
    threshold: float | None = None
    shadow_id: str | None = None

    @property
    def key(self) -> SeriesKey:
        """Key of the series or device."""
        return SeriesKey(self.device_id, self.metric_name)


CLOCK_SLACK = 10_000_000  # microseconds


def received(now: int, free: int) -> int:
    """Return the time of receipt of a log entry; `free` is the first time that is not used yet.

    Times are unique in a log. If the clock is set back by at most `CLOCK_SLACK`, entries continue
    at `free`. A clock that is set back further was wrong before, perhaps by a year, so the new time
    is believed.
    """
    return now if now < free - CLOCK_SLACK else max(now, free)


class Entry(msgspec.Struct, frozen=True):
    """A group commit of the log.

    Message i was received at `received + i`, which is unique in the log (see `received`).
    """

    seq: int
    received: int
    messages: list[tuple[str, bytes]]
    swaps: list[Swap]


class Log(Protocol):
    """The durable record of all received messages. A single thread appends; any thread may read."""

    @property
    def id(self) -> UUID:
        """Identity of this log.

        A new file is a new log, in which cursors of the old log are invalid.
        """

    @property
    def last(self) -> int:
        """Sequence of the newest entry; survives `drop` and a restart.

        A log that never had an entry returns 0.
        """

    def append(self, messages: list[tuple[str, bytes]], swaps: list[Swap], now: int) -> Entry:
        """Write an entry durably. Raises LogBroken: the entry was not written."""

    def read(self, after: int, most: int) -> list[Entry]:
        """Return entries with seq > after in order, until `most` messages are reached.

        At least a single entry is returned if any exists.
        """

    def drop(self, through: int) -> None:
        """Forget entries with seq <= through."""

    def received(self, after: int) -> int | None:
        """Return when the oldest entry with seq > after was received; None if there is none."""
