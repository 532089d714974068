"""Knowing when to go: a person says so, or the process that started us is gone."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Leaving:
    """Asked at every pause whether it is time to go. The first signal asks politely, a second one interrupts at once."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._signalled = False

    @property
    def orphaned(self) -> bool:
        """Whether nobody is left to work for."""
        return os.getppid() != self._parent

    @property
    def due(self) -> bool:
        """Whether to go."""
        return self._signalled or self.orphaned

    def check(self) -> None:
        """Raise KeyboardInterrupt when it is time to go: for work that cannot end half done and keep something."""
        if self.due:
            raise KeyboardInterrupt

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Take note of SIGINT or SIGTERM."""
        del number, frame
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled = True


@contextmanager
def leaving() -> Iterator[Leaving]:
    """Catch SIGINT and SIGTERM within the block, in the main thread; the handlers before are put back."""
    state = Leaving()
    before = {
        number: signal.signal(number, state.on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
