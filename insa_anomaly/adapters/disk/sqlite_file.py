"""A SQLite file of the daemon: made private, opened whole or not at all, its errors translated."""

import sqlite3
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from insa_anomaly.errors import InsaError
from insa_anomaly.files.sqlite import connected, transaction
from insa_anomaly.files.whole import create_private
from insa_anomaly.ports.closing import Closing

WAL_PAGES = 16384  # 4 KiB each: a writer copies a write-ahead file of more pages by itself
_WAIT = 5.0  # seconds to wait for the lock of another connection, such as a backup's


class SqliteFile(Closing):
    """A file that any thread may use, in a transaction at a time.

    Subclasses set their attributes before they call `__init__`, which calls `_open`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._opened: list[sqlite3.Connection] = []
        with self._faults():
            create_private(path)
            try:
                self._file = self._connect()
                self._open()
            except BaseException:
                self.close()
                raise

    @abstractmethod
    def _open(self) -> None:
        """Choose the settings of the file and bring it to the present version."""

    @abstractmethod
    def _fault(self, error: Exception) -> InsaError:
        """Return the port's error for an error of SQLite, of the disk or of decoding."""

    def _connect(self) -> sqlite3.Connection:
        connection = connected(self._path, _WAIT)
        self._opened.append(connection)
        return connection

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._lock, self._faults():
            return self._file.execute(query, values).fetchall()

    def _change(self, statement: str, *values: object) -> None:
        with self._transaction():
            self._file.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._faults(), transaction(self._file):
            yield

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, msgspec.DecodeError) as error:
            raise self._fault(error) from error

    def close(self) -> None:
        """Close the connections of all threads."""
        while self._opened:
            self._opened.pop().close()


def bring_up(
    file: sqlite3.Connection, steps: Sequence[str], subject: str, broken: type[InsaError]
) -> int:
    """Take the steps that the file lacks, in the caller's transaction; return its version before.

    Step n brings the file to version n. Raises `broken` with the `subject` if it is newer.
    """
    before = int(file.execute("PRAGMA user_version").fetchone()[0])
    if before not in range(len(steps) + 1):
        raise broken(f"{subject} of version {before}; this program reads version {len(steps)}")
    if before < len(steps):
        for statement in ";".join(steps[before:]).split(";"):
            file.execute(statement)
        file.execute(f"PRAGMA user_version = {len(steps)}")
    return before
