"""Backups: whole copies of the daemon's files while it writes, and restored logs renamed."""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID, uuid4

from insa_anomaly.errors import BackupFailed
from insa_anomaly.ports.closing import Closing


class Snapshot(Closing):
    """A SQLite file as it is now; writes to it before `close` do not show.

    Any call may raise BackupFailed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _faults(path):
            address = f"file:{path}?mode=ro"
            self._source = sqlite3.connect(address, 10.0, isolation_level=None, uri=True)
            self._source.execute("BEGIN")
            # The first read fixes the state of the file for this transaction.
            self._source.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def copy(self, target: Path) -> None:
        """Write the snapshot to `target`, readable by its owner alone."""
        with _faults(self._path):
            target.touch(0o600)
            with closing(sqlite3.connect(target)) as copied:
                self._source.backup(copied)

    def close(self) -> None:
        """End the snapshot."""
        self._source.close()


def copy_models(directory: Path, target: Path) -> None:
    """Copy the index, then the models. Raises BackupFailed.

    In this order, a file added meanwhile does no harm, and no file named by the index is altered.
    """
    with _faults(directory):
        target.mkdir(mode=0o700)
        with Snapshot(directory / "models.db") as index:
            index.copy(target / "models.db")
        for path in sorted(directory.rglob("*")):
            copy = target / path.relative_to(directory)
            if path.is_dir():
                copy.mkdir(mode=0o700, exist_ok=True)
            elif not path.name.startswith(("models.db", ".")) and path.exists():
                copy_private(path, copy)


def copy_private(source: Path, target: Path) -> None:
    """Copy a file so that its owner alone may read the copy."""
    with _faults(source):
        target.touch(0o600)
        shutil.copyfile(source, target)


def rename_log(spool: Path, state: Path) -> tuple[UUID, UUID]:
    """Assign a new name to a restored log and its state; return the old name and the new.

    The database may hold records of the old log from after the backup. Under the old name they
    would be taken for records of the restored log. Raises BackupFailed.
    """
    new = uuid4()
    with (
        _faults(spool),
        closing(sqlite3.connect(spool)) as log,
        closing(sqlite3.connect(state)) as states,
    ):
        old = UUID(log.execute("SELECT id FROM log").fetchone()[0])
        log.execute("UPDATE log SET id = ?", (str(new),))
        states.execute("UPDATE place SET log_id = ? WHERE log_id = ?", (str(new), str(old)))
        log.commit()
        states.commit()
    return old, new


def last_of(spool: Path) -> int:
    """Return the sequence of the last entry of a log. Raises BackupFailed."""
    with _faults(spool), closing(sqlite3.connect(spool)) as log:
        query = "SELECT max(last, coalesce((SELECT max(seq) FROM entries), 0)) FROM log"
        return int(log.execute(query).fetchone()[0])


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path. Raises BackupFailed."""
    found = {}
    with _faults(folder):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            found[str(path.relative_to(folder))] = digest.hexdigest()
    return found


def sync(folder: Path) -> None:
    """Fsync a folder and all below it. Raises BackupFailed."""
    with _faults(folder):
        for path in (folder, *folder.rglob("*")):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise BackupFailed(f"{path}: {error}") from error
