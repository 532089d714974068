"""The state on disk: checkpoints of the series, unrecorded results, unpublished events.

A single SQLite file holds them. All but the events can be computed again from the log, so commits
are not fsynced (synchronous=NORMAL: a power cut loses the newest commits, never the file). `sync`
fsyncs them before the log deletes the entries they were computed from.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import StateBroken, StateDamaged, StateUnwritable
from insa_anomaly.files.sqlite import connected, is_damage, transaction, write_ahead
from insa_anomaly.files.whole import create_private
from insa_anomaly.ports.state import Outgoing

_VERSION = 2
_REFUSED = {"SQLITE_FULL", "SQLITE_IOERR_WRITE"}
# 4 KiB each: a write-ahead file of more pages, not yet copied by `sync`, is copied by the writer.
_WAL_PAGES = 16384
_WAIT = 5.0  # seconds to wait for another process's lock, such as a backup's

_SCHEMA = """
    CREATE TABLE place (log_id TEXT, cursor INTEGER NOT NULL, checkpoint INTEGER NOT NULL);
    CREATE TABLE results (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL
    );
    CREATE TABLE states (
        device_id TEXT NOT NULL, metric_name TEXT NOT NULL, state BLOB NOT NULL,
        PRIMARY KEY (device_id, metric_name)
    );
    INSERT INTO place VALUES (NULL, 0, 0);
"""
# Since version 2.
_NOTICES = (
    "CREATE TABLE notices (number INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL)"
)


class StateFile:
    """The port `State` on a SQLite file.

    Any call may raise StateBroken and has then changed no state.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        with self._faults():
            create_private(path)
            self._file, self._syncer = (connected(path, _WAIT) for _ in "12")
            try:
                self._open()
            except BaseException:
                self.close()
                raise

    def _open(self) -> None:
        write_ahead(self._file)
        self._file.execute("PRAGMA synchronous = NORMAL")
        # `sync` makes the checkpoints, so that no commit waits for their fsync.
        self._file.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        # Otherwise every deleted result is overwritten with zeros.
        self._file.execute("PRAGMA secure_delete = FAST")
        with self._transaction():
            version = self._file.execute("PRAGMA user_version").fetchone()[0]
            if version not in range(_VERSION + 1):
                raise StateBroken(
                    f"{self._path} is a state of version {version};"
                    f" this program reads version {_VERSION}"
                )
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._file.execute(statement)
            if version < _VERSION:
                self._file.execute(_NOTICES)
                self._file.execute(f"PRAGMA user_version = {_VERSION}")
        self._cursor: int = self._file.execute("SELECT cursor FROM place").fetchone()[0]

    def bind(self, log_id: UUID) -> None:
        """Bind the state to this log; the state of another log is emptied, but its events stay."""
        with self._transaction():
            if self._file.execute("SELECT log_id FROM place").fetchone()[0] == str(log_id):
                return
            self._file.execute("DELETE FROM results")
            self._file.execute("DELETE FROM states")
            self._file.execute(
                "UPDATE place SET log_id = ?, cursor = 0, checkpoint = 0", (str(log_id),)
            )
        self._cursor = 0

    @property
    def cursor(self) -> int:
        """Sequence of the last entry whose results are committed here."""
        return self._cursor

    def commit(
        self, seq: int, results: bytes | None, events: Sequence[tuple[str, bytes]]
    ) -> list[Outgoing]:
        """Commit an entry's results, its events and the cursor in a single transaction.

        `results` None: no results are stored. An event is (topic, payload).
        """
        with self._transaction():
            if results is not None:
                self._file.execute("INSERT OR REPLACE INTO results VALUES (?, ?)", (seq, results))
            outgoing = [
                Outgoing(self._add(topic, payload), topic, payload) for topic, payload in events
            ]
            self._file.execute("UPDATE place SET cursor = ?", (seq,))
        self._cursor = seq
        return outgoing

    def post(self, events: Sequence[tuple[str, bytes]]) -> list[Outgoing]:
        """Put events that stem from no entry of the log, as (topic, payload), into the outbox."""
        with self._transaction():
            return [
                Outgoing(self._add(topic, payload), topic, payload) for topic, payload in events
            ]

    def _add(self, topic: str, payload: bytes) -> int:
        number = (
            self._file.execute(
                "INSERT INTO outbox (topic, payload) VALUES (?, ?)", (topic, payload)
            ).lastrowid
            or 0
        )
        self._file.execute("INSERT INTO notices VALUES (?, ?, ?)", (number, topic, payload))
        return number

    def results(self, after: int, through: int) -> dict[int, bytes]:
        """Return results by sequence, after < seq <= through."""
        return dict(
            self._rows(
                "SELECT seq, body FROM results WHERE seq > ? AND seq <= ? ORDER BY seq",
                after,
                through,
            )
        )

    def forget(self, through: int) -> None:
        """Delete results with seq <= through: they are recorded."""
        with self._transaction():
            self._file.execute("DELETE FROM results WHERE seq <= ?", (through,))

    def outgoing(self, after: int, most: int) -> list[Outgoing]:
        """Return unpublished events with number > after, in order."""
        return [
            Outgoing(*row)
            for row in self._rows(
                "SELECT * FROM outbox WHERE number > ? ORDER BY number LIMIT ?", after, most
            )
        ]

    def told(self, numbers: Sequence[int]) -> None:
        """Delete events that the broker has acknowledged."""
        with self._transaction():
            self._file.executemany(
                "DELETE FROM outbox WHERE number = ?", [(number,) for number in numbers]
            )

    def notices(self, most: int) -> list[Outgoing]:
        """Return the oldest events that the alerts have not taken yet, in order."""
        return [
            Outgoing(*row)
            for row in self._rows("SELECT * FROM notices ORDER BY number LIMIT ?", most)
        ]

    def noticed(self, through: int) -> None:
        """Delete notices with number <= through: the alerts have taken them."""
        with self._transaction():
            self._file.execute("DELETE FROM notices WHERE number <= ?", (through,))

    def untold(self) -> int:
        """Return the number of unpublished events; no commit waits for the count."""
        with self._sync_lock, self._faults():
            return int(self._syncer.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def checkpoint(self, seq: int, states: dict[SeriesKey, bytes]) -> None:
        """Store the states of the series that moved; all stored states are then as of `seq`."""
        with self._transaction():
            self._file.executemany(
                "INSERT INTO states VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET state = excluded.state",
                [(*key, state) for key, state in states.items()],
            )
            self._file.execute("UPDATE place SET checkpoint = ?", (seq,))

    def restore(self) -> tuple[int, dict[SeriesKey, bytes]]:
        """Return the newest checkpoint: its sequence (0: none) and the state of every series."""
        with self._transaction():
            seq = self._file.execute("SELECT checkpoint FROM place").fetchone()[0]
            return seq, {
                SeriesKey(device_id, metric_name): state
                for device_id, metric_name, state in self._file.execute("SELECT * FROM states")
            }

    def sync(self) -> None:
        """Put all commits on disk while further commits continue.

        SQLite fsyncs the write-ahead file, then copies its pages into the main file.
        """
        with self._sync_lock, self._faults():
            _, pages, copied = self._syncer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if pages < 0 or (copied < pages and self._held()):
            raise StateBroken(f"{self._path}: another process keeps it from being synced")

    def _held(self) -> bool:
        """Return whether another process, not our own commits, blocks the copying of pages."""
        with self._lock, self._faults():
            return bool(self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])

    def verify(self) -> None:
        """Check the file. Raises StateDamaged."""
        with self._lock, self._faults():
            found = self._file.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise StateDamaged(f"{self._path}: {found}")

    def _rows(self, query: str, *values: int) -> list[Any]:
        with self._lock, self._faults():
            return self._file.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._faults(), transaction(self._file):
            yield

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _ours(error)(f"{self._path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._syncer.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _ours(error: Exception) -> type[StateBroken]:
    """Return the error class: damaged content, a full or read-only disk, or any other error."""
    if is_damage(error):
        return StateDamaged
    name = getattr(error, "sqlite_errorname", "")
    return (
        StateUnwritable if name in _REFUSED or name.startswith("SQLITE_READONLY") else StateBroken
    )
