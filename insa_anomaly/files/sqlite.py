"""Settings that all SQLite files share: log, states, alerts and the index of models."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Eight connections have a cache each; the kernel caches the same pages.
_CACHE_KIB = 256


def connected(path: Path, wait: float) -> sqlite3.Connection:
    """Return a connection that any thread may use, a single thread at a time.

    It waits `wait` seconds for the locks of other connections. Raises sqlite3.Error.
    """
    return sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)


def write_ahead(connection: sqlite3.Connection) -> None:
    """Let writers and readers of the file not wait for each other. Raises sqlite3.Error."""
    connection.execute("PRAGMA journal_mode = WAL")
    # Only now: a statement that looked at the file before would not know of its new mode.
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit everything the block does, or undo all of it. Raises sqlite3.Error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def is_damage(error: Exception) -> bool:
    """Return whether SQLite complains of the file's content, not of the disk or a lock."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
