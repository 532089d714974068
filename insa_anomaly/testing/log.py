"""The log in memory."""

from uuid import uuid4

from insa_anomaly.ports.log import Entry, Swap, received


class MemoryLog:
    """The port `Log`; survives no restart."""

    def __init__(self) -> None:
        self.id = uuid4()
        self.last = 0  # sequence of the newest entry, 0 for a log that never had any
        self._entries: dict[int, Entry] = {}
        self._free = 0

    def append(self, messages: list[tuple[str, bytes]], swaps: list[Swap], now: int) -> Entry:
        """Store an entry."""
        entry = Entry(self.last + 1, received(now, self._free), list(messages), list(swaps))
        self._entries[entry.seq] = entry
        self.last, self._free = entry.seq, entry.received + max(1, len(messages))
        return entry

    def read(self, after: int, most: int) -> list[Entry]:
        """Return entries with seq > after in order, until `most` messages are reached.

        At least a single entry is returned if any exists.
        """
        entries: list[Entry] = []
        for seq in range(max(after, 0) + 1, self.last + 1):
            if seq in self._entries:
                entries.append(self._entries[seq])
                if sum(len(entry.messages) for entry in entries) >= most:
                    break
        return entries

    def drop(self, through: int) -> None:
        """Forget entries with seq <= through."""
        self._entries = {seq: entry for seq, entry in self._entries.items() if seq > through}

    def received(self, after: int) -> int | None:
        """Return when the oldest entry with seq > after was received; None if there is none."""
        return next((entry.received for entry in self.read(after, 1)), None)
