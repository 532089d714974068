"""Sizes on disk, of files that appear and vanish."""

from pathlib import Path

import pytest

from insa_anomaly.adapters.disk.sizes import size_of_file, size_of_folder
from insa_anomaly.errors import DiskUnreadable


def test_a_folder_is_all_that_lies_below_it(tmp_path: Path) -> None:
    """A folder's size is that of all files below it, however deep.

    The target of a link is not counted, and a folder that does not exist holds 0 bytes.
    """
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name, size in (("one", 10), ("a/two", 200), ("a/b/three", 3000)):
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "a" / "link").symlink_to(Path("/"))
    link = (tmp_path / "a" / "link").lstat().st_size
    assert size_of_folder(tmp_path) == 3210 + link
    assert size_of_folder(tmp_path / "nowhere") == 0


def test_a_file_of_sqlite_is_three(tmp_path: Path) -> None:
    """A SQLite file counts with its write-ahead file and its index, without files set aside."""
    for name, size in (("s.db", 1), ("s.db-wal", 20), ("s.db-shm", 300), ("s.db.damaged-1", 4000)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert size_of_file(tmp_path / "s.db") == 321
    assert size_of_file(tmp_path / "t.db") == 0


def test_what_cannot_be_looked_at_is_an_error_of_ours(tmp_path: Path) -> None:
    """A file in the place of a folder raises DiskUnreadable."""
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DiskUnreadable):
        size_of_folder(tmp_path / "file")
    with pytest.raises(DiskUnreadable):
        size_of_file(tmp_path / "file" / "s.db")
