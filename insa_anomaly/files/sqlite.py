"""What all files of SQLite have in common: log, states, alerts, and the index of models."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CACHE_KIB = 256  # of each connection, of which there are eight: what was written last is what is read, and the kernel has it too


def connected(path: Path, wait: float) -> sqlite3.Connection:
    """A connection for any thread, one at a time, that waits so many seconds for the locks of others. Raises sqlite3.Error."""
    return sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)


def write_ahead(connection: sqlite3.Connection) -> None:
    """Begin to use a connection: writers and readers do not wait for each other. Raises sqlite3.Error."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(
        f"PRAGMA cache_size = -{_CACHE_KIB}"
    )  # not before: what looked at the file then would not know of its new mode


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is done in the block, or nothing. Raises sqlite3.Error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def is_damage(error: Exception) -> bool:
    """Whether it is the file's content that SQLite complains of, not the disk or a lock."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
