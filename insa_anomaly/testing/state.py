"""The score reader's state in memory."""

import threading
from collections.abc import Sequence
from uuid import UUID

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.state import Outgoing


class MemoryState:
    """The port `State`; `synced` is the cursor at the last `sync`."""

    def __init__(self) -> None:
        self.synced = 0
        self._lock = threading.Lock()
        self._log_id: UUID | None = None
        self.cursor = 0  # sequence of the last entry whose results are committed here
        self._results: dict[int, bytes] = {}
        self._outbox: dict[int, Outgoing] = {}
        self._notices: dict[int, Outgoing] = {}
        self._number = 0
        self._checkpoint = 0
        self._states: dict[SeriesKey, bytes] = {}

    def bind(self, log_id: UUID) -> None:
        """Bind the state to this log.

        A state of another log is emptied, except its outgoing events.
        """
        with self._lock:
            if log_id != self._log_id:
                self._log_id, self.cursor, self._checkpoint = log_id, 0, 0
                self._results, self._states = {}, {}

    def commit(
        self, seq: int, results: bytes | None, events: Sequence[tuple[str, bytes]]
    ) -> list[Outgoing]:
        """Commit the results and events of an entry, and the cursor, all at once.

        `results` None stores no results; an event is (topic, payload).
        """
        with self._lock:
            if results is not None:
                self._results[seq] = results
            self.cursor = seq
            return self._add(events)

    def post(self, events: Sequence[tuple[str, bytes]]) -> list[Outgoing]:
        """Put events that stem from no log entry into the outbox: (topic, payload) of each."""
        with self._lock:
            return self._add(events)

    def _add(self, events: Sequence[tuple[str, bytes]]) -> list[Outgoing]:
        outgoing = [
            Outgoing(self._number + 1 + i, topic, payload)
            for i, (topic, payload) in enumerate(events)
        ]
        for kept in (self._outbox, self._notices):
            kept.update((event.number, event) for event in outgoing)
        self._number += len(outgoing)
        return outgoing

    def results(self, after: int, through: int) -> dict[int, bytes]:
        """Return results by sequence, after < seq <= through."""
        with self._lock:
            found = sorted(self._results.items())
            return {seq: body for seq, body in found if after < seq <= through}

    def forget(self, through: int) -> None:
        """Drop results with seq <= through."""
        with self._lock:
            self._results = {seq: body for seq, body in self._results.items() if seq > through}

    def outgoing(self, after: int, most: int) -> list[Outgoing]:
        """Return unpublished events with number > after, in order."""
        with self._lock:
            found = sorted(self._outbox.items())
            return [event for number, event in found if number > after][:most]

    def told(self, numbers: Sequence[int]) -> None:
        """Drop events that the broker acknowledged."""
        with self._lock:
            for number in numbers:
                self._outbox.pop(number, None)

    def notices(self, most: int) -> list[Outgoing]:
        """Return the oldest events that the alerts have not taken yet, in order."""
        with self._lock:
            return [event for _, event in sorted(self._notices.items())][:most]

    def noticed(self, through: int) -> None:
        """Drop notices with number <= through, because the alerts have taken them."""
        with self._lock:
            for number in [number for number in self._notices if number <= through]:
                del self._notices[number]

    def untold(self) -> int:
        """Count the unpublished events."""
        return len(self._outbox)

    def checkpoint(self, seq: int, states: dict[SeriesKey, bytes]) -> None:
        """Store the states of the series that moved."""
        with self._lock:
            self._states.update(states)
            self._checkpoint = seq

    def restore(self) -> tuple[int, dict[SeriesKey, bytes]]:
        """Return the newest checkpoint: its sequence (0: none) and the state of every series."""
        with self._lock:
            return self._checkpoint, dict(self._states)

    def sync(self) -> None:
        """Remember the cursor."""
        self.synced = self.cursor
