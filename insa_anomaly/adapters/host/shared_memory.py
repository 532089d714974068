"""Memory that this process writes and a child reads: anonymous, gone with the last of them, taken only where something was written."""

import fcntl
import math
import mmap
import os
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

_SEAL_FUTURE_WRITE = (
    0x10  # F_SEAL_FUTURE_WRITE of Linux 5.1: nobody maps it for writing from now on
)


class SharedMemory:
    """Gives arrays of zeros, one behind the other. Whoever asks for the same in the same order elsewhere has the same memory."""

    def __init__(self, descriptor: int | None = None) -> None:
        """New memory, or with the `descriptor` of another's, that, to be read."""
        self.descriptor = (
            os.memfd_create("insa-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            if descriptor is None
            else descriptor
        )
        self._ours = descriptor is None
        self._end = 0

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - whatever numpy takes for one
        """One more array."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        begin, self._end = self._end, self._end + -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._ours:
            os.ftruncate(self.descriptor, self._end)
        access = mmap.ACCESS_WRITE if self._ours else mmap.ACCESS_READ
        found = mmap.mmap(self.descriptor, self._end - begin, access=access, offset=begin)
        return np.frombuffer(found, kind, math.prod(shape)).reshape(shape)

    def seal(self) -> None:
        """No more arrays; whoever has the descriptor may read, and not write."""
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        with suppress(
            OSError
        ):  # an older kernel: a child is trusted then not to do what it has no code for
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEAL_FUTURE_WRITE)
