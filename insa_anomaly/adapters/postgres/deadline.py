"""A deadline that holds although the server is frozen: at its end the socket is shut down.

The shutdown frees the thread that waits for the server. No setting of server or driver does so:
a stopped backend cancels no query, and its kernel continues to acknowledge packets.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf


class Deadline:
    """Time limit of `seconds` for guarded blocks, a block at a time; `close` ends its thread.

    The thread sleeps until the last block known to it would be overdue, so that thousands of short
    blocks wake it once.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._changed = threading.Condition()
        self._guarded: socket.socket | None = None
        self._due = inf
        self._wakes = inf
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="postgres-deadline", daemon=True)
        self._thread.start()

    @contextmanager
    def guard(self, guarded: socket.socket) -> Iterator[None]:
        """Shut `guarded` down if the block exceeds its time; the block then fails by itself."""
        self._arm(guarded, time.monotonic() + self.seconds)
        try:
            yield
        finally:
            self._arm(None, inf)

    def close(self) -> None:
        """End the watching thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _arm(self, guarded: socket.socket | None, due: float) -> None:
        with self._changed:
            self._guarded, self._due = guarded, due
            if due < self._wakes:
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                if time.monotonic() >= self._due:
                    self._cut()
                self._wakes = self._due
                left = max(0.0, self._due - time.monotonic())
                self._changed.wait(None if self._due == inf else left)

    def _cut(self) -> None:
        self._due = inf
        if self._guarded is not None:
            with suppress(OSError):  # the connection ended by itself at this moment
                self._guarded.shutdown(socket.SHUT_RDWR)
