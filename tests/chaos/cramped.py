"""The daemon on a disk whose size a test sets: `python -m tests.chaos.cramped <file> run ...`.

The file holds the number of pages, for the log and for the states. Without the file there is room
for everything.
"""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from insa_anomaly.adapters.disk.log import LogFile
from insa_anomaly.adapters.disk.state import StateFile
from insa_anomaly.cli import main
from insa_anomaly.ports.log import Entry, Swap

PLENTY = 1 << 30


def cramp(connection: sqlite3.Connection, said: Path) -> None:
    """Limit the file to the test's number of pages, but not below its present size."""
    pages = int(said.read_text()) if said.exists() else PLENTY
    connection.execute(f"PRAGMA max_page_count = {pages}")


def install(said: Path) -> None:
    """Set the limit before every write."""
    append, transaction = LogFile.append, StateFile._transaction

    def appending(
        self: LogFile, messages: list[tuple[str, bytes]], swaps: list[Swap], now: int
    ) -> Entry:
        cramp(self._file, said)
        return append(self, messages, swaps, now)

    @contextmanager
    def watched(self: StateFile) -> Iterator[None]:
        cramp(self._file, said)
        with transaction(self):
            yield

    patch.object(LogFile, "append", appending).start()
    patch.object(StateFile, "_transaction", watched).start()


if __name__ == "__main__":
    install(Path(sys.argv.pop(1)))
    main()
