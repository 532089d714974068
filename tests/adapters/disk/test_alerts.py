"""The file of alerts: it outlives a process, is private, and is set aside if it is damaged."""

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from insa_anomaly.adapters.disk.alerts import AlertFile
from insa_anomaly.core.notification.routing import Dispatch
from insa_anomaly.core.units import DAY
from insa_anomaly.errors import AlertsBroken, AlertsDamaged
from insa_anomaly.wiring.storage import alerts
from tests.core.alerts import DAY_ZERO, an_alert


def test_it_outlives_the_process(tmp_path: Path) -> None:
    """Waiting alerts still wait after the process was killed; only the owner may read the file."""
    path = tmp_path / "new" / "alerts.db"
    file = AlertFile(path)
    file.keep(Dispatch(sent=[("mail", an_alert(1))]), ["e1"], DAY_ZERO)
    with AlertFile(path) as again:
        assert again.backlog() == {"mail": 1}
        assert again.recent() == {"e1"}
    assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o600}
    file.close()


def test_a_dead_letter_can_be_read(tmp_path: Path) -> None:
    """A dead letter is stored for thirty days, with its reason."""
    with AlertFile(tmp_path / "alerts.db") as file:
        file.keep(Dispatch(sent=[("mail", an_alert(1))]), [], DAY_ZERO)
        one = file.next("mail", DAY_ZERO)
        assert one is not None
        file.give_up(one, "too old", DAY_ZERO)
        file.forget(DAY_ZERO + 29 * DAY)
        assert [(one.target, one.alert, one.reason) for one in file.dead()] == [
            ("mail", an_alert(1), "too old")
        ]
        file.forget(DAY_ZERO + 31 * DAY)
        assert file.dead() == []


def test_a_dead_letter_can_be_tried_again(tmp_path: Path) -> None:
    """A dead letter that is revived twice waits once, with all its time before it."""
    with AlertFile(tmp_path / "alerts.db") as file, AlertFile(tmp_path / "alerts.db") as other:
        file.keep(Dispatch(sent=[("mail", an_alert(1)), ("mail", an_alert(2))]), [], DAY_ZERO)
        one = file.next("mail", DAY_ZERO)
        assert one is not None
        file.give_up(one, "too old", DAY_ZERO)
        (letter,) = other.dead()
        for _ in range(2):
            other.revive(letter, DAY_ZERO + DAY)
        assert file.dead() == []
        assert [
            (each.target, each.alert, each.decided_at, each.attempts) for each in file.waiting()
        ] == [("mail", an_alert(2), DAY_ZERO, 0), ("mail", an_alert(1), DAY_ZERO + DAY, 0)]


def test_what_cannot_be_read_holds_nobody_up(tmp_path: Path) -> None:
    """An alert of another version is a dead letter; the next alert is delivered."""
    path = tmp_path / "alerts.db"
    with AlertFile(path) as file:
        file.keep(Dispatch(sent=[("mail", an_alert(1)), ("mail", an_alert(2))]), [], DAY_ZERO)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("UPDATE waiting SET body = x'93' WHERE number = 1")
            other.execute("INSERT INTO accounts VALUES ('mail', x'93')")
        one = file.next("mail", DAY_ZERO)
        assert one is not None
        assert one.alert == an_alert(2)
        assert file.backlog() == {"mail": 1}
        assert file.accounts() == {}


def test_a_file_of_the_future_is_refused(tmp_path: Path) -> None:
    """A file of a later version is refused rather than misread."""
    path = tmp_path / "alerts.db"
    AlertFile(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(AlertsBroken, match="version 99"):
        AlertFile(path)


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    """A damaged file is set aside and a new file begun, so that the daemon starts."""
    path = tmp_path / "alerts.db"
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    with pytest.raises(AlertsDamaged):
        AlertFile(path)
    with capture_logs() as logs, alerts(path) as file:
        assert file.backlog() == {}
    assert [line["action"] for line in logs] == ["alerts_damaged"]
    assert (tmp_path / "alerts.db.damaged-1").exists()


def test_a_file_in_other_hands_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock held for too long raises AlertsBroken, and the file is unchanged."""
    monkeypatch.setattr("insa_anomaly.adapters.disk.sqlite_file._WAIT", 0.05)
    path = tmp_path / "alerts.db"
    with AlertFile(path) as file, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AlertsBroken):
            file.keep(Dispatch(sent=[("mail", an_alert(1))]), [], DAY_ZERO)
        other.execute("ROLLBACK")
        assert file.backlog() == {}
