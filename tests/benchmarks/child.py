"""A process of the benchmark that receives and answers lines of JSON.

Secrets go over its standard input.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from insa_anomaly.adapters import embedded

ROOT = Path(__file__).parent.parent.parent
Answer = TypeVar("Answer")


class Child:
    """A child process, which ends with its parent."""

    def __init__(self, module: str) -> None:
        self._module = module
        argv = [sys.executable, "-m", module]
        self._process = embedded.spawn(
            argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def tell(self, said: object) -> None:
        """Write a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(said) + b"\n")
        self._process.stdin.flush()

    def hear(self) -> bytes:
        """Wait for a line.

        A child that sends none has failed, and has logged the reason on standard error.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            message = f"{self._module} ended with {self._process.wait()}"
            raise RuntimeError(message)
        return line

    def answer(self, kind: type[Answer]) -> Answer:
        """Return the next line, decoded."""
        return msgspec.json.decode(self.hear(), type=kind)

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        embedded.stop(self._process, seconds=5.0)


@contextmanager
def child(module: str) -> Iterator[Child]:
    """Run a module for the length of the block."""
    started = Child(module)
    try:
        yield started
    finally:
        started.close()
