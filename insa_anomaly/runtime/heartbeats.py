"""Liveness of threads: each beats when it begins a turn, and is stuck if silent for too long.

A process that was suspended as a whole finds all of its threads silent at once, the watching thread
among them: that is no reason to end.
"""

from collections.abc import Iterable, Mapping
from math import inf

SUSPENDED_SECONDS = 10.0  # between two checks that are a second apart


class Heartbeats:
    """Times of the threads' last turns, in monotonic seconds.

    `limits` are the seconds that threads may be silent, `usual` the limit of all other threads.
    """

    def __init__(self, usual: float, limits: Mapping[str, float] | None = None) -> None:
        self._usual = usual
        self._limits = dict(limits or {})
        self._beats: dict[str, float] = {}
        self._checked_at = -inf

    def beat(self, name: str, now: float) -> None:
        """Record that a thread begins a turn; its first turn begins the watch over it."""
        self._beats[name] = now

    def stuck(
        self, now: float, others: Iterable[tuple[str, float]] = ()
    ) -> tuple[str, float] | None:
        """Return a thread that has been silent for too long, and its silence in seconds.

        `others` are threads that measure their silence themselves.
        """
        checked_at, self._checked_at = self._checked_at, now
        if now - checked_at > SUSPENDED_SECONDS:
            self._beats = dict.fromkeys(self._beats, now)
            return None
        silent = [*((name, now - beat) for name, beat in self._beats.items()), *others]
        limit = self._limits.get
        return next((one for one in silent if one[1] > limit(one[0], self._usual)), None)
