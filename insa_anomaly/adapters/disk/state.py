"""The state on disk: checkpoints of the series, unrecorded results, unpublished events.

A single SQLite file holds them. All but the events can be computed again from the log, so commits
are not fsynced (synchronous=NORMAL: a power cut loses the newest commits, never the file). `sync`
fsyncs them before the log deletes the entries they were computed from.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from insa_anomaly.adapters.disk.sqlite_file import WAL_PAGES, SqliteFile, bring_up
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import StateBroken, StateDamaged, StateUnwritable
from insa_anomaly.files.sqlite import is_damage, write_ahead
from insa_anomaly.ports.state import Outgoing

_REFUSED = {"SQLITE_FULL", "SQLITE_IOERR_WRITE"}

_VERSIONS = (
    """
    CREATE TABLE place (log_id TEXT, cursor INTEGER NOT NULL, checkpoint INTEGER NOT NULL);
    CREATE TABLE results (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL
    );
    CREATE TABLE states (
        device_id TEXT NOT NULL, metric_name TEXT NOT NULL, state BLOB NOT NULL,
        PRIMARY KEY (device_id, metric_name)
    );
    INSERT INTO place VALUES (NULL, 0, 0)
    """,
    """
    CREATE TABLE notices (number INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL)
    """,
)


class StateFile(SqliteFile):
    """The port `State` on a SQLite file.

    Any call may raise StateBroken and has then changed no state.
    """

    def __init__(self, path: Path) -> None:
        self._sync_lock = threading.Lock()
        super().__init__(path)

    def _open(self) -> None:
        self._syncer = self._connect()
        write_ahead(self._file)
        self._file.execute("PRAGMA synchronous = NORMAL")
        # `sync` makes the checkpoints, so that no commit waits for their fsync.
        self._file.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        # Otherwise every deleted result is overwritten with zeros.
        self._file.execute("PRAGMA secure_delete = FAST")
        with self._transaction():
            bring_up(self._file, _VERSIONS, f"{self._path} is a state", StateBroken)
        self._cursor: int = self._rows("SELECT cursor FROM place")[0][0]

    def bind(self, log_id: UUID) -> None:
        """Bind the state to this log; the state of another log is emptied, but its events stay."""
        with self._transaction():
            if self._file.execute("SELECT log_id FROM place").fetchone()[0] == str(log_id):
                return
            self._file.execute("DELETE FROM results")
            self._file.execute("DELETE FROM states")
            statement = "UPDATE place SET log_id = ?, cursor = 0, checkpoint = 0"
            self._file.execute(statement, (str(log_id),))
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
            outgoing = [self._add(*event) for event in events]
            self._file.execute("UPDATE place SET cursor = ?", (seq,))
        self._cursor = seq
        return outgoing

    def post(self, events: Sequence[tuple[str, bytes]]) -> list[Outgoing]:
        """Put events that stem from no entry of the log, as (topic, payload), into the outbox."""
        with self._transaction():
            return [self._add(*event) for event in events]

    def _add(self, topic: str, payload: bytes) -> Outgoing:
        statement = "INSERT INTO outbox (topic, payload) VALUES (?, ?)"
        number = self._file.execute(statement, (topic, payload)).lastrowid or 0
        self._file.execute("INSERT INTO notices VALUES (?, ?, ?)", (number, topic, payload))
        return Outgoing(number, topic, payload)

    def results(self, after: int, through: int) -> dict[int, bytes]:
        """Return results by sequence, after < seq <= through."""
        query = "SELECT seq, body FROM results WHERE seq > ? AND seq <= ? ORDER BY seq"
        return dict(self._rows(query, after, through))

    def forget(self, through: int) -> None:
        """Delete results with seq <= through: they are recorded."""
        self._change("DELETE FROM results WHERE seq <= ?", through)

    def outgoing(self, after: int, most: int) -> list[Outgoing]:
        """Return unpublished events with number > after, in order."""
        query = "SELECT * FROM outbox WHERE number > ? ORDER BY number LIMIT ?"
        return [Outgoing(*row) for row in self._rows(query, after, most)]

    def told(self, numbers: Sequence[int]) -> None:
        """Delete events that the broker has acknowledged."""
        with self._transaction():
            rows = [(number,) for number in numbers]
            self._file.executemany("DELETE FROM outbox WHERE number = ?", rows)

    def notices(self, most: int) -> list[Outgoing]:
        """Return the oldest events that the alerts have not taken yet, in order."""
        query = "SELECT * FROM notices ORDER BY number LIMIT ?"
        return [Outgoing(*row) for row in self._rows(query, most)]

    def noticed(self, through: int) -> None:
        """Delete notices with number <= through: the alerts have taken them."""
        self._change("DELETE FROM notices WHERE number <= ?", through)

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
            rows = self._file.execute("SELECT * FROM states")
            return seq, {SeriesKey(*key): state for *key, state in rows}

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

    def _fault(self, error: Exception) -> StateBroken:
        """Return an error of damaged content, of a full or read-only disk, or of any other kind."""
        name = getattr(error, "sqlite_errorname", "")
        unwritable = name in _REFUSED or name.startswith("SQLITE_READONLY")
        kind = StateUnwritable if unwritable else StateBroken
        return (StateDamaged if is_damage(error) else kind)(f"{self._path}: {error}")
