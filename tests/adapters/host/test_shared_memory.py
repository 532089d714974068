"""Memory of two processes: a process writes, and the other reads at once and cannot write."""

import fcntl
import mmap
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from insa_anomaly.adapters.host.shared_memory import SharedMemory

SHAPES = [((3, 5), np.float64), ((7,), "S36"), ((2, 4096), np.int64), ((1,), np.bool_)]


def test_a_child_reads_what_is_written() -> None:
    """A child reads values that were written after it began.

    Arrays requested in the same order are the same arrays in both processes.
    """
    memory = SharedMemory()
    arrays = [memory.zeros(shape, kind) for shape, kind in SHAPES]
    memory.seal()
    assert all(not array.any() for array in arrays if array.dtype.kind != "S")
    program = f"""
        import sys, numpy as np
        from insa_anomaly.adapters.host.shared_memory import SharedMemory
        memory = SharedMemory({memory.descriptor})
        shapes = [((3, 5), float), ((7,), "S36"), ((2, 4096), np.int64), ((1,), bool)]
        arrays = [memory.zeros(shape, kind) for shape, kind in shapes]
        print("here", flush=True)
        sys.stdin.readline()
        print(arrays[0][2, 4], arrays[1][6].decode(), arrays[2][1, 4095], arrays[3][0])
    """
    argv = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[memory.descriptor], text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        arrays[0][2, 4], arrays[1][6], arrays[2][1, 4095], arrays[3][0] = 1.5, b"a model", 42, True
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.read() == "1.5 a model 42 True\n"
    os.close(memory.descriptor)


def test_whoever_reads_cannot_write() -> None:
    """A reader cannot write through the arrays, nor map the memory anew, nor shorten it."""
    memory = SharedMemory()
    ours = memory.zeros((4,), np.float64)
    memory.seal()
    theirs = SharedMemory(memory.descriptor).zeros((4,), np.float64)
    with pytest.raises(ValueError, match="read-only"):
        theirs[0] = 1.0
    with pytest.raises(PermissionError):
        mmap.mmap(memory.descriptor, mmap.PAGESIZE, access=mmap.ACCESS_WRITE)
    with pytest.raises(PermissionError):
        os.pwrite(memory.descriptor, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(memory.descriptor, 0)
    ours[0] = 2.0
    assert theirs[0] == 2.0
    os.close(memory.descriptor)


def test_an_older_kernel_does_with_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that does not know the newest seal still forbids shortening the memory."""
    real = fcntl.fcntl

    def older(descriptor: int, command: int, seals: int) -> int:
        if seals == 0x10:
            raise OSError(22, "Invalid argument")
        return real(descriptor, command, seals)

    monkeypatch.setattr(fcntl, "fcntl", older)
    memory = SharedMemory()
    memory.zeros((4,), np.float64)
    memory.seal()
    with pytest.raises(PermissionError):
        os.ftruncate(memory.descriptor, 0)
    os.close(memory.descriptor)


def test_memory_is_taken_where_something_is_written() -> None:
    """A board has room for all series there may ever be; unwritten pages take no memory."""
    memory = SharedMemory()
    array = memory.zeros((1 << 20, 64), np.int64)
    assert os.fstat(memory.descriptor).st_blocks == 0
    array[1000, 0] = 1
    assert os.fstat(memory.descriptor).st_blocks * 512 <= 2 * mmap.PAGESIZE
    os.close(memory.descriptor)
