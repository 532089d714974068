"""The daemon on a disk whose size a test says: `python -m tests.chaos.cramped <file> run ...`; the file holds pages, of log and of states.

Where there is no such file there is room for all.
"""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from insa_anomaly.adapters.disk.log import Spool
from insa_anomaly.adapters.disk.state import StateFile
from insa_anomaly.cli import main
from insa_anomaly.ports import Entry, Swap

PLENTY = 1 << 30


def cramp(connection: sqlite3.Connection, said: Path) -> None:
    """As many pages as the test says, but no fewer than there are."""
    pages = int(said.read_text()) if said.exists() else PLENTY
    connection.execute(f"PRAGMA max_page_count = {pages}")


def install(said: Path) -> None:
    """Before every write."""
    append, transaction = Spool.append, StateFile._transaction

    def appending(
        self: Spool, messages: list[tuple[str, bytes]], swaps: list[Swap], now: int
    ) -> Entry:
        cramp(self._writer, said)
        return append(self, messages, swaps, now)

    @contextmanager
    def watched(self: StateFile) -> Iterator[None]:
        cramp(self._file, said)
        with transaction(self):
            yield

    patch.object(Spool, "append", appending).start()
    patch.object(StateFile, "_transaction", watched).start()


if __name__ == "__main__":
    install(Path(sys.argv.pop(1)))
    main()
