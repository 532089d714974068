"""Faults, drawn at random from a seed: each has an end, and a subject with one fault at a time."""

import heapq
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

# Seconds from the beginning of a fault to the beginning of the next, at least and at most.
PAUSE = (0.5, 1.5)


@dataclass(frozen=True)
class Fault:
    """A kind of fault: `begin` causes it, `heal` ends it and returns whether it is over.

    The fault lasts between `least` and `most` seconds.
    """

    subject: str
    name: str
    begin: Callable[[], None]
    heal: Callable[[], bool] = lambda: True
    least: float = 0.0
    most: float = 0.0

    @property
    def kind(self) -> str:
        """Name of the kind of fault."""
        return f"{self.subject} {self.name}"


class Span(NamedTuple):
    """A fault that is over; times are monotonic."""

    kind: str
    began: float
    ended: float


@dataclass
class Injector:
    """A source of faults: it draws them, ends them in time and records their spans."""

    faults: Sequence[Fault]
    chance: random.Random
    pause: tuple[float, float] = PAUSE
    done: Counter[str] = field(default_factory=Counter)
    over: list[Span] = field(default_factory=list)
    # Time to end the fault, a number, time of its beginning, the fault.
    _due: list[tuple[float, int, float, Fault]] = field(default_factory=list)
    _numbers: Iterable[int] = field(default_factory=count)

    def run(self, seconds: float, watch: Callable[[], None], *, spared: str | None = None) -> None:
        """Inject faults for `seconds`, except into the `spared` subject; call `watch` often.

        Faults that last at the end continue.
        """
        now = time.monotonic()
        until, following = now + seconds, now + self.chance.uniform(*self.pause)
        while (now := time.monotonic()) < until:
            self._heal()
            if now >= following:
                self._inject(spared)
                following = max(now, following) + self.chance.uniform(*self.pause)
            watch()
            time.sleep(0.02)

    def heal_all(self, watch: Callable[[], None], seconds: float = 60.0) -> None:
        """Wait until every fault is over."""
        until = time.monotonic() + seconds
        while self._due and time.monotonic() < until:
            self._heal()
            watch()
            time.sleep(0.02)
        assert not self._due, (
            f"not over after {seconds} s: {[fault.kind for *_, fault in self._due]}"
        )

    def _inject(self, spared: str | None) -> None:
        busy = {fault.subject for *_, fault in self._due}
        free = [
            fault for fault in self.faults if fault.subject not in busy and fault.subject != spared
        ]
        if free:
            fault = self.chance.choice(free)
            lasts = self.chance.uniform(fault.least, fault.most)
            began = time.monotonic()
            fault.begin()
            self.done[fault.kind] += 1
            heapq.heappush(
                self._due, (time.monotonic() + lasts, next(iter(self._numbers)), began, fault)
            )

    def _heal(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            _, number, began, fault = heapq.heappop(self._due)
            if fault.heal():
                self.over.append(Span(fault.kind, began, time.monotonic()))
            else:
                heapq.heappush(self._due, (time.monotonic() + 0.05, number, began, fault))
                return
