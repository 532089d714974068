"""Sizes of stored files as they are now, while other processes may write to them."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from insa_anomaly.errors import DiskUnreadable


def size_of_file(path: Path) -> int:
    """Return the bytes of a SQLite file and the files beside it; 0 if there is no such file.

    Raises DiskUnreadable.
    """
    return sum(_size(Path(f"{path}{part}")) for part in ("", "-wal", "-shm"))


def size_of_folder(path: Path) -> int:
    """Return the bytes of all files below a folder. Raises DiskUnreadable."""
    return sum(_sizes(path))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise DiskUnreadable(str(error)) from error


def _sizes(path: Path) -> Iterator[int]:
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _sizes(Path(entry.path))
                else:
                    with suppress(FileNotFoundError):  # replaced since it was listed
                        yield entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return
    except OSError as error:
        raise DiskUnreadable(str(error)) from error
