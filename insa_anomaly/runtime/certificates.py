"""Warnings of certificates that will end soon, in time for an operator to renew them."""

from collections.abc import Callable, Mapping

from insa_anomaly.core.units import DAY, SECOND
from insa_anomaly.instrumentation.certificates import certificate_ending, certificate_looked_at
from insa_anomaly.ports.clock import Clock
from insa_anomaly.runtime.step import Step

EVERY_SECONDS = 1.0
EARLY_US = 30 * DAY


class Certificates(Step):
    """Watch over certificates.

    `ends` are functions that return when each certificate ends (microseconds; None while unknown),
    by its use.
    """

    def __init__(self, ends: Mapping[str, Callable[[], int | None]], clock: Clock) -> None:
        self._ends = ends
        self._clock = clock
        self._warned_at: dict[str, int] = {}

    def step(self, _: float) -> float:
        """Measure every certificate, and warn once a day of an end within thirty days."""
        now = self._clock.now()
        for use, end_of in self._ends.items():
            end = end_of()
            if end is None:
                continue
            certificate_looked_at(use, (end - now) / SECOND)
            if end - now < EARLY_US and not 0 <= now - self._warned_at.get(use, -DAY) < DAY:
                self._warned_at[use] = now
                certificate_ending(use, (end - now) / SECOND)
        return EVERY_SECONDS
