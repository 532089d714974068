"""Refits that made no model, until the database has them: the health check counts them like retrainings that were asked for."""

from collections import deque
from collections.abc import Callable
from uuid import uuid4

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.jobs import Job
from insa_anomaly.runtime.models.events import BY_ITSELF

WAITING_MOST = 1000


class Failures:
    """One thread adds, another writes down; while that cannot be, the newest wait in memory. `clock` is microseconds since the epoch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[Job] = deque(maxlen=WAITING_MOST)

    def add(self, key: SeriesKey, model_id: str, reason: str) -> None:
        """A refit of this model made none."""
        now = self._clock.now()
        self._waiting.append(
            Job(
                str(uuid4()),
                "retrain",
                *key,
                None,
                model_id,
                BY_ITSELF,
                "failed",
                0,
                now,
                finished_at=now,
                reason=reason,
            )
        )

    def write_down(self, keep: Callable[[Job], None]) -> None:
        """Have all kept, each once or, where that was cut off, again. Raises what `keep` raises: the rest waits."""
        while self._waiting:
            one = self._waiting[0]
            keep(one)
            if self._waiting[0] is one:  # else it fell out meanwhile, as there were too many
                self._waiting.popleft()
