"""The thread that keeps the fleet healthy.

Notes counts, runs the daily check, acts on decisions.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from uuid import UUID

from insa_anomaly.errors import DatabaseAway, DatabaseRefused, ModelFileError, StateUnwritable
from insa_anomaly.instrumentation.model_health import health_unreachable
from insa_anomaly.instrumentation.scoring import batches_scored
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.model_health import ScoringCounts
from insa_anomaly.runtime.models.activity import Activity
from insa_anomaly.runtime.step import Step
from insa_anomaly.services.model_health import HealthService
from insa_anomaly.services.remedies import Remedies

TURN_SECONDS = 0.5
LOOK_SECONDS = 5.0
NOTE_SECONDS = 300.0
TROUBLE_SECONDS = 60.0


@dataclass(frozen=True)
class Notes:
    """Notes for the check: scored readings by `note`, failed refits by `note_failures`."""

    activity: Activity
    note: Callable[[UUID, ScoringCounts, int], None]
    note_failures: Callable[[], None]


@dataclass(eq=False)
class HealthKeeper(Step):
    """Thread of the daily health check.

    While the database is unreachable the check waits; only a crash loses counts. A batch is slow
    from `latency` seconds on. For `settle` seconds no check runs, so that the plant is received
    first.
    """

    service: HealthService
    remedies: Remedies
    notes: Notes
    instance: UUID
    latency: float
    _: KW_ONLY
    clock: Clock
    settle: float = 0.0

    def __post_init__(self) -> None:
        self._next_look = 0.0
        self._next_note = self.clock.monotonic() + LOOK_SECONDS
        self._first_check = self.clock.monotonic() + self.settle
        self._batches, self._slow = batches_scored(self.latency)  # written down, or none of ours

    def step(self, _: float) -> float:
        """Do the work that is due; return the seconds until the next step."""
        if self.clock.monotonic() < self._next_look:
            return TURN_SECONDS
        self._next_look = self.clock.monotonic() + LOOK_SECONDS
        try:
            self.turn()
        except (DatabaseAway, DatabaseRefused, StateUnwritable, ModelFileError) as error:
            health_unreachable(str(error))
            self._next_look = self.clock.monotonic() + TROUBLE_SECONDS
        return TURN_SECONDS

    def turn(self) -> None:
        """Write down counts, check, act.

        Raises DatabaseAway, DatabaseRefused, StateUnwritable or ModelFileError.
        """
        if self.clock.monotonic() >= self._next_note:
            self._write_down()
            self._next_note = self.clock.monotonic() + NOTE_SECONDS
        if self.clock.monotonic() >= self._first_check:
            self.service.run_due(self.clock.now())
        self.remedies.step(self.instance, self.clock.now())
        self.notes.note_failures()

    def _write_down(self) -> None:
        taken, (batches, slow) = (self.notes.activity.counts(), batches_scored(self.latency))
        readings, anomalies = taken.counts.tolist()
        more, slower = batches - self._batches, slow - self._slow
        counted = ScoringCounts(taken.keys, readings, anomalies, more, slower)
        self.notes.note(self.instance, counted, self.clock.now())
        self.notes.activity.subtract(taken)
        self._batches, self._slow = batches, slow
