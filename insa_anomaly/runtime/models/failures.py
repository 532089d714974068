"""Failed refits, until the database has them: the health check counts them like retrainings."""

from collections import deque
from collections.abc import Callable
from uuid import uuid4

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.jobs import Job
from insa_anomaly.runtime.models.events import BY_ITSELF

WAITING_MOST = 1000


class Failures:
    """Failures that one thread adds and another writes down; the newest wait while that fails."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[Job] = deque(maxlen=WAITING_MOST)

    def add(self, key: SeriesKey, model_id: str, reason: str) -> None:
        """Add a refit of this model that made no model."""
        now = self._clock.now()
        self._waiting.append(
            Job(
                id=str(uuid4()),
                kind="retrain",
                **key._asdict(),
                window_days=None,
                champion_id=model_id,
                requested_by=BY_ITSELF,
                status="failed",
                progress=0,
                created_at=now,
                finished_at=now,
                reason=reason,
            )
        )

    def write_down(self, keep: Callable[[Job], None]) -> None:
        """Store every failure, at least once each. Raises the errors of `keep`; the rest waits."""
        while self._waiting:
            one = self._waiting[0]
            keep(one)
            if self._waiting[0] is one:  # else it fell out meanwhile, as there were too many
                self._waiting.popleft()
