"""A reserve of disk space: a file that takes up room and is removed when the disk is full.

Work in progress can then be finished. Deleting rows needs room as well: on a disk without any, not
even the log could delete finished entries.
"""

import os
from contextlib import suppress
from pathlib import Path


class FileReserve:
    """The port `FileReserve` as a file of `size` bytes; size 0 means no file and counts as held."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._held = size == 0

    @property
    def held(self) -> bool:
        """Whether the space is reserved."""
        return self._held

    def hold(self) -> bool:
        """Reserve the space if twice as much is free; return whether it is reserved.

        The margin prevents the next writes from filling the disk at once.
        """
        if not self._held:
            with suppress(OSError):
                self._held = self._taken()
        return self._held

    def release(self) -> None:
        """Release the space to the file system."""
        if self._size:
            self._held = False
            with suppress(OSError):  # a disk that is read-only is not full
                self._path.unlink(missing_ok=True)

    def _taken(self) -> bool:
        if self._path.exists() and self._path.stat().st_size == self._size:
            return True
        about = os.statvfs(self._path.parent)
        if about.f_bavail * about.f_frsize < 2 * self._size:
            return False
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, self._size)
        finally:
            os.close(file)
        return True
