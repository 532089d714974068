"""The log on disk: a group commit of incoming messages is a single row of a SQLite file.

The row is fsynced before `append` returns. SQLite is used rather than a file format of our own,
because its behaviour under crashes is tested better than ours would ever be. A row holds the whole
group as one blob: a row per message costs three times as much.
"""

import sqlite3
import threading
import uuid
import zlib
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from insa_anomaly.adapters.disk.sqlite_file import WAL_PAGES, SqliteFile, bring_up
from insa_anomaly.errors import LogBroken, LogDamaged, LogDead, LogFull
from insa_anomaly.files.sqlite import is_damage, transaction, write_ahead
from insa_anomaly.ports.log import Entry, Swap, received

_Body = tuple[list[tuple[str, bytes]], list[Swap]]
_VERIFIED_AT_ONCE = 10_000  # messages
# Entries deleted in one transaction, which bounds the time that an append waits.
_DROP_AT_ONCE = 64
_FREE_PAGES = 4096  # free pages kept for reuse; any more are returned to the file system
_REFUSED_WRITE = "SQLITE_IOERR_WRITE"  # a read-only disk: no written page awaits an fsync
# A write-ahead file that grew beyond this size, because of a slow reader, is truncated.
_WAL_BYTES = 64 << 20

_SCHEMA = """
    CREATE TABLE entries (
        seq INTEGER PRIMARY KEY, received INTEGER NOT NULL, count INTEGER NOT NULL,
        crc INTEGER NOT NULL, body BLOB NOT NULL
    );
    CREATE TABLE log (id TEXT NOT NULL, last INTEGER NOT NULL, free INTEGER NOT NULL);
"""
_INSERT = "INSERT INTO entries (seq, received, count, crc, body) VALUES (?, ?, ?, ?, ?)"


class LogFile(SqliteFile):
    """The port `Log` on a SQLite file (write-ahead, synchronous=FULL) of `most_bytes`.

    Any call may raise LogBroken. A disk that is full or read-only is not final: the next `append`
    may succeed. After any other error of the device the log stays broken (LogDead), since a failed
    fsync must never be tried again: the kernel may have dropped the pages it could not write.
    """

    def __init__(self, path: Path, most_bytes: int | None = None) -> None:
        self._most_bytes = most_bytes
        self._readers = threading.local()
        self._dead: str | None = None
        self._most_pages: int | None = None
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(_Body).decode
        self._last = self._free = 0
        super().__init__(path)

    def _open(self) -> None:
        # A drop undone by a power cut does no harm, and no append waits for its fsync.
        self._dropper = self._connect("NORMAL")
        with transaction(self._file):
            if not bring_up(self._file, [_SCHEMA], f"{self._path} is a log", LogBroken):
                self._file.execute("INSERT INTO log VALUES (?, 0, 0)", (str(uuid.uuid4()),))
        name, *ends = self._file.execute("SELECT id, last, free FROM log").fetchone()
        self._id = uuid.UUID(name)
        query = "SELECT seq, received + max(1, count) FROM entries ORDER BY seq DESC LIMIT 1"
        self._last, self._free = self._file.execute(query).fetchone() or ends
        if self._most_bytes is not None:
            page_bytes = self._file.execute("PRAGMA page_size").fetchone()[0]
            self._most_pages = self._most_bytes // int(page_bytes)
            # SQLite never sets this limit below the pages that exist.
            self._file.execute(f"PRAGMA max_page_count = {self._most_pages}")

    def _connect(self, synchronous: str = "FULL") -> sqlite3.Connection:
        connection = super()._connect()
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect in a new file only
        write_ahead(connection)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        # Otherwise every drop overwrites the freed space with zeros.
        connection.execute("PRAGMA secure_delete = FAST")
        # `drop` makes the checkpoints, so that no append waits for their fsync.
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        return connection

    @property
    def id(self) -> uuid.UUID:
        """Identity of this log; a new file is a new log."""
        return self._id

    @property
    def last(self) -> int:
        """Sequence of the newest entry, 0 for a log that never had an entry."""
        return self._last

    def append(self, messages: list[tuple[str, bytes]], swaps: list[Swap], now: int) -> Entry:
        """Write an entry and return it once it is on disk; otherwise raise LogBroken.

        `now` is in microseconds since the epoch.
        """
        body = self._encode((messages, swaps))
        with self._lock, self._faults():
            if self._dead:
                raise LogDead(self._dead)
            entry = Entry(self._last + 1, received(now, self._free), messages, swaps)
            about = (entry.seq, entry.received, len(messages))
            try:
                self._file.execute(_INSERT, (*about, _checksum(*about, body), body))
            except sqlite3.OperationalError as error:
                if self._is_full(error, len(body)):
                    size = f"the full size it may have, {self._most_bytes} bytes"
                    raise LogFull(f"{self._path} has {size} (storage.log_bytes)") from error
                raise
            self._last, self._free = entry.seq, entry.received + max(1, len(messages))
            return entry

    def _is_full(self, error: sqlite3.OperationalError, size: int) -> bool:
        """Return whether our own limit, not the disk, lacks room for `size` bytes."""
        if self._most_pages is None or error.sqlite_errorname != "SQLITE_FULL":
            return False
        (pages,) = self._file.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = self._file.execute("PRAGMA page_size").fetchone()
        return bool(pages + size // page_bytes + 8 >= self._most_pages)

    def read(self, after: int, most: int) -> list[Entry]:
        """Return entries with seq > after in order, until they hold `most` messages or more.

        At least one entry is returned if one exists.
        """
        entries: list[Entry] = []
        had = 0
        query = "SELECT seq, received, count, crc, body FROM entries WHERE seq > ? ORDER BY seq"
        with self._faults(), closing(self._reader().execute(query, (after,))) as rows:
            for row in rows:
                entries.append(self._entry(*row))
                had += row[2]
                if had >= most:
                    break
        return entries

    def received(self, after: int) -> int | None:
        """Return when the oldest entry with seq > after was received; None if no entry is left."""
        query = "SELECT received FROM entries WHERE seq > ? ORDER BY seq LIMIT 1"
        with self._faults():
            row = self._reader().execute(query, (after,)).fetchone()
        return None if row is None else int(row[0])

    def _entry(self, seq: int, received: int, count: int, crc: int, body: bytes) -> Entry:
        if crc != _checksum(seq, received, count, body):
            raise LogDamaged(f"{self._path}: entry {seq} is damaged: its checksum is wrong")
        return Entry(seq, received, *self._decode(body))

    def verify(self) -> None:
        """Check the file and read every entry. Raises LogDamaged at the first sign of damage."""
        with self._faults():
            found = self._reader().execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise LogDamaged(f"{self._path}: {found}")
        after = 0
        while entries := self.read(after, _VERIFIED_AT_ONCE):
            after = entries[-1].seq

    def drop(self, through: int) -> None:
        """Delete entries with seq <= through in small transactions, and keep the files small."""
        with self._faults():
            while self._drop_some(through):
                pass
            self._dropper.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._shrink()

    def _drop_some(self, through: int) -> bool:
        with self._lock, transaction(self._dropper):
            first = self._dropper.execute("SELECT min(seq) FROM entries").fetchone()[0]
            if first is None or first > through:
                return False
            last = min(through, first + _DROP_AT_ONCE - 1)
            self._dropper.execute("DELETE FROM entries WHERE seq <= ?", (last,))
            self._dropper.execute("UPDATE log SET last = ?, free = ?", (self._last, self._free))
            return True

    def _shrink(self) -> None:
        with self._lock:
            spare = self._dropper.execute("PRAGMA freelist_count").fetchone()[0] - _FREE_PAGES
            if spare > 0:
                few = min(spare, _FREE_PAGES)
                self._dropper.execute(f"PRAGMA incremental_vacuum({few})").fetchall()
            with suppress(FileNotFoundError):
                if Path(f"{self._path}-wal").stat().st_size > _WAL_BYTES:
                    self._dropper.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _reader(self) -> sqlite3.Connection:
        reader: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        if reader is None:
            reader = self._readers.connection = self._connect("FULL")
            reader.execute("PRAGMA query_only = ON")
        return reader

    def _fault(self, error: Exception) -> LogBroken:
        """Return the error, and record an error of the device or of the content for good."""
        name = getattr(error, "sqlite_errorname", "")
        text = f"{self._path}: {error}" + (f" ({name})" if name else "")
        device_failed = name.startswith("SQLITE_IOERR") and name != _REFUSED_WRITE
        if not is_damage(error) and not device_failed:
            return LogBroken(text)
        self._dead = text
        return LogDead(text) if device_failed else LogDamaged(text)


def salvaged(aside: Path, spool: LogFile) -> tuple[int, int]:
    """Append the readable entries of a damaged log to a new log, in order.

    Return how many entries were readable and how many were not.
    """
    kept = lost = 0
    with closing(sqlite3.connect(aside, isolation_level=None)) as damaged:
        for seq in _sequences(damaged):
            entry = _salvageable(damaged, seq)
            if entry is None:
                lost += 1
                continue
            spool.append(entry.messages, entry.swaps, entry.received)
            kept += 1
    return kept, lost


def _salvageable(damaged: sqlite3.Connection, seq: int) -> Entry | None:
    try:
        query = "SELECT received, count, crc, body FROM entries WHERE seq = ?"
        row = damaged.execute(query, (seq,)).fetchone()
        received, count, crc, body = row or (0, 0, -1, b"")
        if crc != _checksum(seq, received, count, body):
            return None
        return Entry(seq, received, *msgspec.msgpack.decode(body, type=_Body))
    except (sqlite3.Error, TypeError, msgspec.DecodeError):
        return None


def _sequences(damaged: sqlite3.Connection) -> range:
    """Return the range of sequences in a damaged log; empty if the file is no database at all."""
    query = "SELECT (SELECT min(seq) FROM entries), (SELECT max(seq) FROM entries)"
    try:
        first, last = damaged.execute(query).fetchone()
    except sqlite3.Error:
        return range(0)
    return range(first or 0, (last or -1) + 1)


def _checksum(seq: int, received: int, count: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(b"%d %d %d" % (seq, received, count)))
