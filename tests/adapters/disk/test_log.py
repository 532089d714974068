"""The log on disk: restarts, damage, full disks, access."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from insa_anomaly.adapters.disk.log import LogFile, salvaged
from insa_anomaly.errors import LogBroken, LogDamaged, LogFull
from insa_anomaly.ports.log import Swap


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the place of the log."""
    return tmp_path / "private" / "spool.db"


def test_a_restart_changes_nothing(path: Path) -> None:
    """Id, last sequence, receive times and entries survive closing and opening.

    The same holds for a log with no entries left.
    """
    with LogFile(path) as spool:
        entry = spool.append([("t", b"x")] * 5, [], 100)
        name = spool.id
    with LogFile(path) as spool:
        assert (spool.id, spool.last, spool.read(0, 9)) == (name, 1, [entry])
        assert spool.append([], [], 0).received == 105
        spool.drop(2)
    with LogFile(path) as spool:
        assert (spool.id, spool.last, spool.read(0, 9)) == (name, 2, [])
        following = spool.append([], [], 0)
        assert (following.seq, following.received) == (3, 106)


def test_a_new_file_is_a_new_log(tmp_path: Path) -> None:
    """Two logs have different ids, because a cursor is valid for its own log only."""
    with LogFile(tmp_path / "a.db") as one, LogFile(tmp_path / "b.db") as other:
        assert one.id != other.id


def test_kill_9_loses_nothing_that_was_appended(path: Path) -> None:
    """Every entry for which `append` returned is there after the process was killed."""
    program = (
        "import sys, pathlib; from insa_anomaly.adapters.disk.log import LogFile\n"
        "spool = LogFile(pathlib.Path(sys.argv[1]))\n"
        "while True: print(spool.append([('t', b'x' * 5000)] * 3, [], 0).seq, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(20)][-1]
        child.send_signal(signal.SIGKILL)
        told = max([told, *map(int, child.stdout.read().split())])
    with LogFile(path) as spool:
        assert spool.last >= told
        assert [entry.seq for entry in spool.read(0, 10**9)] == list(range(1, spool.last + 1))


def test_readers_and_the_writer_do_not_wait_for_each_other(path: Path) -> None:
    """Other threads read and drop during appends; every reader sees whole entries in order."""
    failures: list[BaseException] = []

    def follow(spool: LogFile) -> None:
        cursor = 0
        try:
            while cursor < 200:
                for entry in spool.read(cursor, 50):
                    assert entry.seq == cursor + 1
                    assert entry.messages == [("t", b"%d" % entry.seq)] * 3
                    cursor = entry.seq
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    with LogFile(path) as spool:
        threads = [threading.Thread(target=follow, args=(spool,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for seq in range(1, 201):
            spool.append([("t", b"%d" % seq)] * 3, [], seq)
        for thread in threads:
            thread.join(30)
        spool.drop(200)
        assert not failures
        assert spool.read(0, 1) == []


def test_a_damaged_entry_is_named(path: Path) -> None:
    """A row with a wrong checksum raises an error that names the file and the entry.

    The entries before it can be read.
    """
    with LogFile(path) as spool:
        for _ in range(3):
            spool.append([("t", b"x")], [], 0)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE entries SET body = zeroblob(10) WHERE seq = 2")
    file.close()
    with LogFile(path) as spool:
        assert [entry.seq for entry in spool.read(0, 1)] == [1]
        with pytest.raises(LogBroken, match=r"spool\.db: entry 2 is damaged"):
            spool.read(1, 1)


def test_what_can_be_read_of_a_damaged_log_is_salvaged(path: Path) -> None:
    """Every intact entry comes into the new log, in order, with its receive time.

    The other entries are counted.
    """
    aside = path.with_name("aside.db")
    with LogFile(aside) as spool:
        for number in range(1, 6):
            spool.append(
                [("t", b"%d" % number)],
                [Swap("d", "m", None)] if number == 3 else [],
                1000 * number,
            )
        damage(aside, "UPDATE entries SET body = zeroblob(10) WHERE seq = 2")
        with pytest.raises(LogDamaged, match="entry 2"):
            spool.verify()
    damage(aside, "DELETE FROM entries WHERE seq = 4")
    with LogFile(path) as spool:
        assert salvaged(aside, spool) == (3, 2)
        assert [
            (entry.received, entry.messages, len(entry.swaps)) for entry in spool.read(0, 10)
        ] == [(1000, [("t", b"1")], 0), (3000, [("t", b"3")], 1), (5000, [("t", b"5")], 0)]
        spool.verify()


def test_nothing_is_salvaged_of_what_is_no_log(path: Path) -> None:
    """No entry is salvaged from a file that is no log, and no error is raised."""
    path.parent.mkdir()
    aside = path.with_name("aside.db")
    aside.write_bytes(b"not a database, " * 1000)
    with LogFile(path) as spool:
        assert salvaged(aside, spool) == (0, 0)


def damage(path: Path, statement: str) -> None:
    """Change the file behind the log's back."""
    file = sqlite3.connect(path)
    with file:
        file.execute(statement)
    file.close()


def test_a_full_disk_refuses_and_recovers(path: Path) -> None:
    """An append that finds no room raises LogBroken and writes no entry.

    The next append succeeds once there is room again.
    """
    with LogFile(path) as spool:
        spool.append([("t", b"x")], [], 0)
        spool._file.execute("PRAGMA max_page_count = 8")
        with pytest.raises(LogBroken, match="full"):
            spool.append([("t", b"x" * 100_000)], [], 0)
        spool._file.execute("PRAGMA max_page_count = 100000")
        assert spool.append([("t", b"x" * 100_000)], [], 0).seq == 2
        assert len(spool.read(0, 10)) == 2


def test_what_is_no_log_is_refused(path: Path) -> None:
    """A file that is no log is left unchanged."""
    path.parent.mkdir()
    path.write_bytes(b"not a database, " * 100)
    with pytest.raises(LogBroken, match=r"spool\.db"):
        LogFile(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_log_of_a_later_version_is_refused(path: Path) -> None:
    """A log of a later version raises an error instead of being misread."""
    LogFile(path).close()
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(LogBroken, match="version 99"):
        LogFile(path)


def test_only_the_owner_may_read_it(path: Path) -> None:
    """The folder has mode 0700 and every file 0600, under any umask."""
    before = os.umask(0)
    try:
        with LogFile(path) as spool:
            spool.append([("t", b"secret")], [], 0)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"spool.db": 0o600, "spool.db-wal": 0o600, "spool.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_unusable_place_is_one_clear_error(tmp_path: Path) -> None:
    """A folder that cannot be made raises an error that names the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LogBroken, match="file"):
        LogFile(tmp_path / "file" / "spool.db")


def test_dropped_room_is_used_again(path: Path) -> None:
    """A log that is dropped as fast as it grows stays small."""
    with LogFile(path) as spool:
        for _ in range(10):
            for _ in range(20):
                spool.append([("t", b"x" * 50_000)], [], 0)
            spool.drop(spool.last)
        assert path.stat().st_size < 5_000_000


def test_a_log_has_a_limit(path: Path) -> None:
    """A full log raises LogFull, which names the setting, also after a restart.

    Dropped entries make room, and appending continues.
    """
    block = [("t", os.urandom(20_000))]
    with LogFile(path, most_bytes=1 << 20) as spool:
        with suppress(LogFull):
            for _ in range(1000):
                spool.append(block, [], 0)
        with pytest.raises(LogFull, match=r"1048576 bytes \(storage.log_bytes\)"):
            spool.append(block, [], 0)
        full = spool.last
        assert 40 < full < 52
        assert spool.read(full - 1, 1)[0].messages == block
    with LogFile(path, most_bytes=1 << 20) as spool:
        with pytest.raises(LogFull):
            spool.append(block, [], 0)
        spool.drop(10)
        for _ in range(9):
            spool.append(block, [], 0)
        assert spool.last == full + 9
    assert path.stat().st_size <= 1 << 20
