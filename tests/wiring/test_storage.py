"""The storage directory belongs to a single process, and its lock to a single account."""

from pathlib import Path

import pytest

from insa_anomaly.errors import AlreadyRunning
from insa_anomaly.wiring.storage import alone, taken


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """The lock holds while the block runs, and no longer."""
    with alone(tmp_path):
        assert taken(tmp_path)
        with pytest.raises(AlreadyRunning, match="another daemon"), alone(tmp_path):
            pass
    assert not taken(tmp_path)


def test_no_other_account_may_hold_the_lock(tmp_path: Path) -> None:
    """A file that an earlier version left open to others is closed to them."""
    lock = tmp_path / "daemon.lock"
    lock.touch()
    lock.chmod(0o644)
    with alone(tmp_path):
        assert lock.stat().st_mode & 0o777 == 0o600
