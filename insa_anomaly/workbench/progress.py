"""Progress of long work: a bar on a terminal, elsewhere a line at the start and at the end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

Advance = Callable[[int], None]
_PLAIN_WIDTH = 160  # a log file or a pipe has no width of its own
_REFRESH = 0.1  # seconds


def open_console(stream: IO[str]) -> Console:
    """Make a console that colours and draws only on a terminal and never folds a line elsewhere."""
    return Console(
        file=stream,
        highlight=False,
        width=None if stream.isatty() else _PLAIN_WIDTH,
        soft_wrap=True,
    )


@contextmanager
def progress(console: Console, title: str, total: int | None) -> Iterator[Advance]:
    """Show work of `total` steps (None: unknown).

    The result is called with the number of steps done since the last call.
    """
    if not console.is_terminal:
        console.print(f"{title} ...")
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task, throttle = bar.add_task(title, total=total), _Throttle()

        def advance(steps: int) -> None:
            if due := throttle.add(steps):
                bar.advance(task, due)

        started = time.monotonic()
        yield advance
    console.print(f"{title}: {throttle.total:,} in {time.monotonic() - started:.1f} s")


class _Throttle:
    """Counter that passes steps on ten times a second: drawing must not cost more than the work."""

    def __init__(self) -> None:
        self.total = self._waiting = 0
        self._next = time.monotonic()

    def add(self, steps: int) -> int:
        """Return the steps to show now, 0 while it is too early."""
        self.total += steps
        self._waiting += steps
        if time.monotonic() < self._next:
            return 0
        due, self._waiting, self._next = self._waiting, 0, time.monotonic() + _REFRESH
        return due
