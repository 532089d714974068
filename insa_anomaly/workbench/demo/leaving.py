"""The time to leave: a person stops the program, or the process that started it is gone."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Leaving:
    """Watch that is asked at every pause.

    The first signal asks to leave; a second signal interrupts at once.
    """

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._signalled = False

    @property
    def orphaned(self) -> bool:
        """Whether the process that started this program is gone."""
        return os.getppid() != self._parent

    @property
    def due(self) -> bool:
        """Whether to leave."""
        return self._signalled or self.orphaned

    def check(self) -> None:
        """Raise KeyboardInterrupt when it is time to leave.

        For work that keeps no half-done result.
        """
        if self.due:
            raise KeyboardInterrupt

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note SIGINT or SIGTERM."""
        del number, frame
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled = True


@contextmanager
def leaving() -> Iterator[Leaving]:
    """Catch SIGINT and SIGTERM in the block, in the main thread; then restore the handlers."""
    state = Leaving()
    numbers = signal.SIGINT, signal.SIGTERM
    before = {number: signal.signal(number, state.on_signal) for number in numbers}
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
