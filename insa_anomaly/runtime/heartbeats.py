"""Is every thread alive? Each says when it begins a turn; one that is silent for longer than a turn can take is stuck.

A process that was suspended as a whole finds all of its threads silent at once, and the watcher with them: that is no reason to end.
"""

from collections.abc import Iterable, Mapping
from math import inf

SUSPENDED_SECONDS = 10.0  # between two looks that are to be a second apart


class Heartbeats:
    """`limits` are the seconds that threads may be silent, `usual` that of those not named. Times are monotonic seconds."""

    def __init__(self, usual: float, limits: Mapping[str, float] | None = None) -> None:
        self._usual = usual
        self._limits = dict(limits or {})
        self._beats: dict[str, float] = {}
        self._looked = -inf

    def beat(self, name: str, now: float) -> None:
        """The thread begins a turn; with its first one it becomes one that is watched."""
        self._beats[name] = now

    def stuck(
        self, now: float, others: Iterable[tuple[str, float]] = ()
    ) -> tuple[str, float] | None:
        """A thread that is silent for too long, and for how long; `others` are threads that say themselves how long they have been."""
        looked, self._looked = self._looked, now
        if now - looked > SUSPENDED_SECONDS:
            self._beats = dict.fromkeys(self._beats, now)
            return None
        silent = [*((name, now - beat) for name, beat in self._beats.items()), *others]
        return next(
            (
                (name, seconds)
                for name, seconds in silent
                if seconds > self._limits.get(name, self._usual)
            ),
            None,
        )
