"""Room reserved on the disk: taken, released, and taken again only where there is enough."""

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from insa_anomaly.adapters.disk.reserve import FileReserve


class About(NamedTuple):
    """Figures of a file system: free blocks, and the bytes of a block."""

    f_bavail: int
    f_frsize: int


def test_it_takes_and_gives_back(tmp_path: Path) -> None:
    """A reserve holds blocks of the disk, not just a length; only its owner may read it.

    A later run finds it held.
    """
    path = tmp_path / "reserve"
    reserve = FileReserve(path, 1 << 20)
    assert not reserve.held
    assert reserve.hold()
    about = path.stat()
    assert (about.st_size, about.st_blocks * 512 >= 1 << 20, about.st_mode & 0o777) == (
        1 << 20,
        True,
        0o600,
    )
    assert FileReserve(path, 1 << 20).hold()
    reserve.release()
    assert (reserve.held, path.exists()) == (False, False)
    reserve.release()
    assert reserve.hold()


def test_it_is_taken_only_where_there_is_twice_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reserve is taken only where twice its size is free, so that later writes find room."""
    reserve = FileReserve(tmp_path / "reserve", 1 << 20)
    monkeypatch.setattr(os, "statvfs", lambda _: About(511, 4096))
    assert not reserve.hold()
    assert not (tmp_path / "reserve").exists()
    monkeypatch.setattr(os, "statvfs", lambda _: About(512, 4096))
    assert reserve.hold()


def test_a_disk_that_refuses_is_no_error(tmp_path: Path) -> None:
    """A disk that refuses means no reserve, and no error."""
    assert not FileReserve(tmp_path / "nowhere" / "reserve", 1 << 20).hold()


def test_none_counts_as_held(tmp_path: Path) -> None:
    """A reserve of 0 bytes counts as held, and writes no file."""
    reserve = FileReserve(tmp_path / "reserve", 0)
    reserve.release()
    assert reserve.held
    assert reserve.hold()
    assert not list(tmp_path.iterdir())
