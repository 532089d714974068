"""Memory that this process writes and a child reads.

The memory is anonymous, disappears with the last process that maps it, and takes room only where
it has been written.
"""

import fcntl
import math
import mmap
import os
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

# F_SEAL_FUTURE_WRITE of Linux 5.1: no process maps the memory for writing from now on.
_SEAL_FUTURE_WRITE = 0x10


class SharedMemory:
    """Source of arrays of zeros, laid out in the order of the calls.

    A process that requests the same arrays in the same order shares the same memory.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        """Create new memory, or open the memory behind another process's `descriptor` to read."""
        self._ours = descriptor is None
        if descriptor is None:
            descriptor = os.memfd_create("insa-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.descriptor = descriptor
        self._end = 0

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - any dtype of numpy
        """Return the next array."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        begin, self._end = self._end, self._end + -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._ours:
            os.ftruncate(self.descriptor, self._end)
        access = mmap.ACCESS_WRITE if self._ours else mmap.ACCESS_READ
        found = mmap.mmap(self.descriptor, self._end - begin, access=access, offset=begin)
        return np.frombuffer(found, kind, math.prod(shape)).reshape(shape)

    def seal(self) -> None:
        """Forbid further arrays; a process with the descriptor may then read but not write."""
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        # An older kernel refuses: the child is then trusted, as it has no code that writes.
        with suppress(OSError):
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEAL_FUTURE_WRITE)
