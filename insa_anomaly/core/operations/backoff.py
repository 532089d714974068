"""Backoff: longer pauses after each failure, and a circuit that spares a failing target.

Times are seconds of any clock that only moves forward; they are arguments, so a test needs no
waiting.
"""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class BackoffPolicy:
    """Pauses between attempts: `first` seconds, doubled with each to `last`.

    After `trip` failures in a row the circuit opens for `rest` seconds.
    """

    first: float = 2.0
    last: float = 900.0
    trip: int = 5
    rest: float = 30.0


class Circuit(NamedTuple):
    """Circuit of a target: failures in a row, and the time until which it is open."""

    failures: int = 0
    open_until: float = 0.0

    def permits(self, now: float) -> bool:
        """Return whether an attempt may be made."""
        return now >= self.open_until

    @property
    def failing(self) -> bool:
        """Whether the newest attempt failed."""
        return self.failures > 0


def backoff(attempts: int, retry: BackoffPolicy, chance: float) -> float:
    """Return the seconds to wait after so many failed attempts, at least 1.

    `chance` in [0, 1) takes up to a quarter off, which spreads retries.
    """
    return float(min(retry.first * 2.0 ** min(attempts - 1, 40), retry.last) * (1.0 - chance / 4))


def failed(
    circuit: Circuit, now: float, retry: BackoffPolicy, chance: float, asked: float | None = None
) -> Circuit:
    """Return the circuit after another failure; the target `asked` for so many seconds of rest."""
    failures = circuit.failures + 1
    over, rest = failures - retry.trip, 0.0
    if over >= 0:
        rest = min(retry.rest * 2.0 ** min(over, 40), retry.last) * (1.0 - chance / 4)
    return Circuit(failures, now + max(rest, asked or 0.0))
