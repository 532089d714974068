"""The state on disk: restarts, the remains of a crash, access."""

import sqlite3
import stat
from pathlib import Path
from uuid import uuid4

import pytest

from insa_anomaly.adapters.disk.state import StateFile
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import StateBroken


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the place of the state."""
    return tmp_path / "private" / "state.db"


def test_a_restart_changes_nothing(path: Path) -> None:
    """Every row survives closing and opening, the numbers of published events included."""
    log_id = uuid4()
    with StateFile(path) as state:
        state.bind(log_id)
        events = state.commit(4, b"r", [("a", b"1"), ("b", b"2")])
        state.checkpoint(3, {SeriesKey("d", "m"): b"\x00\xff"})
        state.told([events[1].number])
    with StateFile(path) as state:
        state.bind(log_id)
        assert (state.cursor, state.restore(), state.results(0, 9)) == (
            4,
            (3, {("d", "m"): b"\x00\xff"}),
            {4: b"r"},
        )
        assert state.outgoing(0, 9) == [events[0]]
        assert state.commit(5, None, [("c", b"3")])[0].number > events[1].number


def test_a_commit_that_fails_changes_nothing(path: Path) -> None:
    """Results, events and cursor are committed together or not at all."""
    with StateFile(path) as state:
        state.bind(uuid4())
        state.commit(1, b"r", [])
        state._file.execute("PRAGMA max_page_count = 10")
        with pytest.raises(StateBroken, match="full"):
            state.commit(2, b"x" * 200_000, [("a", b"1")])
        assert (state.cursor, state.results(0, 9), state.outgoing(0, 9)) == (1, {1: b"r"}, [])


def test_after_sync_all_of_it_is_in_the_file_itself(path: Path, tmp_path: Path) -> None:
    """A copy of the file without its write-ahead file has all committed rows."""
    copy = tmp_path / "copy" / "state.db"
    copy.parent.mkdir()
    with StateFile(path) as state:
        state.commit(1, b"r" * 10_000, [])
        state.sync()
        copy.write_bytes(path.read_bytes())
    with StateFile(copy) as copied:
        assert (copied.cursor, copied.results(0, 1)) == (1, {1: b"r" * 10_000})


def test_sync_says_when_it_could_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A foreign reader that keeps SQLite from syncing raises an error.

    The log is therefore not dropped.
    """
    monkeypatch.setattr("insa_anomaly.adapters.disk.sqlite_file._WAIT", 0.05)
    with StateFile(path) as state:
        state.commit(1, b"r", [])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN")
        other.execute("SELECT * FROM results").fetchall()
        state.commit(2, b"r", [])
        with pytest.raises(StateBroken, match="synced"):
            state.sync()
        other.close()
        state.sync()


def test_a_damaged_file_is_ours_to_report(path: Path) -> None:
    """No SQLite error leaves the adapter."""
    path.parent.mkdir()
    path.write_bytes(b"not a database, " * 100)
    with pytest.raises(StateBroken, match=r"state\.db"):
        StateFile(path)


def test_only_the_owner_may_read_it(path: Path) -> None:
    """The folder has mode 0700 and every file 0600."""
    with StateFile(path) as state:
        state.commit(1, b"r", [])
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_state_of_the_version_before_is_taken_over(path: Path) -> None:
    """A state of the version before keeps its outgoing events, and gets a list of notices."""
    with StateFile(path) as state:
        told = state.post([("a", b"1")])
    with sqlite3.connect(path) as file:
        file.execute("DROP TABLE notices")
        file.execute("PRAGMA user_version = 1")
    file.close()
    with StateFile(path) as state:
        assert state.outgoing(0, 9) == told
        assert state.notices(9) == []
        assert state.post([("b", b"2")]) == state.notices(9)
