"""A deadline for work that only a cut-off from another thread can end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

AGAIN_SECONDS = 0.1


@contextmanager
def bounded(seconds: float, cut_off: Callable[[], None]) -> Iterator[None]:
    """Call `cut_off` once the block has taken `seconds`, and again until the block ends.

    The first call may come before there is any connection to cut.
    """
    done = Event()
    thread = Thread(target=_watch, args=(done, seconds, cut_off), name="deadline", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(done: Event, seconds: float, cut_off: Callable[[], None]) -> None:
    pause = seconds
    while not done.wait(pause):
        cut_off()
        pause = AGAIN_SECONDS
