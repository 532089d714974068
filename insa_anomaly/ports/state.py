"""The score reader's state: series states, unrecorded results, unpublished events."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from insa_anomaly.core.reading.series_key import SeriesKey


class Outgoing(msgspec.Struct, frozen=True, array_like=True):
    """An event that waits to be published; `number` orders the outbox and is never used twice."""

    number: int
    topic: str
    payload: bytes


class State(Protocol):
    """The score reader's state: series states, unrecorded results, unpublished events.

    Any thread may call.
    """

    def bind(self, log_id: UUID) -> None:
        """Bind the state to this log.

        A state of another log is emptied, except its outgoing events.
        """

    @property
    def cursor(self) -> int:
        """Sequence of the last entry whose results are committed here."""

    def commit(
        self, seq: int, results: bytes | None, events: Sequence[tuple[str, bytes]]
    ) -> list[Outgoing]:
        """Commit the results and events of an entry, and the cursor, in a single transaction.

        `results` None stores no results; an event is (topic, payload).
        """

    def post(self, events: Sequence[tuple[str, bytes]]) -> list[Outgoing]:
        """Put events that stem from no log entry into the outbox: (topic, payload) of each."""

    def results(self, after: int, through: int) -> dict[int, bytes]:
        """Return results by sequence, after < seq <= through."""

    def forget(self, through: int) -> None:
        """Drop results with seq <= through, because they are recorded."""

    def outgoing(self, after: int, most: int) -> list[Outgoing]:
        """Return unpublished events with number > after, in order."""

    def told(self, numbers: Sequence[int]) -> None:
        """Drop events that the broker acknowledged."""

    def notices(self, most: int) -> list[Outgoing]:
        """Return the oldest events that the alerts have not taken yet, in order.

        Notices are stored apart from the outbox, so that MQTT does not affect them.
        """

    def noticed(self, through: int) -> None:
        """Drop notices with number <= through, because the alerts have taken them."""

    def untold(self) -> int:
        """Count the unpublished events."""

    def checkpoint(self, seq: int, states: dict[SeriesKey, bytes]) -> None:
        """Store the states of the series that moved; all stored states are then as of `seq`."""

    def restore(self) -> tuple[int, dict[SeriesKey, bytes]]:
        """Return the newest checkpoint: its sequence (0: none) and the state of every series."""

    def sync(self) -> None:
        """Put the whole state on disk, so that the log may drop the entries behind it."""
