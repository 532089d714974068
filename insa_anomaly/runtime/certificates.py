"""How long certificates are still good, in a thread of its own: whoever renews them must hear of it in time."""

from collections.abc import Callable, Mapping

from insa_anomaly import instrumentation
from insa_anomaly.core.reading.parser import SECOND
from insa_anomaly.runtime.step import Step

EVERY_SECONDS = 1.0
EARLY = 30 * 86_400 * SECOND
_DAY = 86_400 * SECOND


class Certificates(Step):
    """One thread of the daemon. `ends`: when each ends, by what it is of; None while that is not known. Times in microseconds."""

    def __init__(
        self, ends: Mapping[str, Callable[[], int | None]], clock: Callable[[], int]
    ) -> None:
        self._ends = ends
        self._clock = clock
        self._told: dict[str, int] = {}

    def step(self, _: float) -> float:
        """Look at each, and say once a day which will end within thirty; answers how many seconds may pass before the next call."""
        now = self._clock()
        for of, asked in self._ends.items():
            end = asked()
            if end is None:
                continue
            instrumentation.certificate_looked_at(of, (end - now) / SECOND)
            if end - now < EARLY and not 0 <= now - self._told.get(of, -_DAY) < _DAY:
                self._told[of] = now
                instrumentation.certificate_ending(of, (end - now) / SECOND)
        return EVERY_SECONDS
