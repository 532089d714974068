"""The health thread: its work, its pace, and its patience with an unreachable database."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import (
    DatabaseAway,
    DatabaseRefused,
    InsaError,
    ModelFileError,
    StateUnwritable,
)
from insa_anomaly.instrumentation.scoring import readings_scored
from insa_anomaly.ports.jobs import Job
from insa_anomaly.ports.model_health import ScoringCounts
from insa_anomaly.runtime.models import failures as failures_module
from insa_anomaly.runtime.models import health
from insa_anomaly.runtime.models.activity import Activity
from insa_anomaly.runtime.models.failures import Failures
from insa_anomaly.runtime.models.health import HealthKeeper, Notes
from insa_anomaly.testing.clock import SettableClock
from tests.runtime.models.test_activity import KEYS, batch

NOW, HERE = 1_800_000_000_000_000, UUID(int=1)


@dataclass
class Ward:
    """A keeper whose check and remedies are only counted.

    The database, or the disk, raises `trouble`.
    """

    clock: SettableClock = field(default_factory=lambda: SettableClock(NOW))
    noted: list[ScoringCounts] = field(default_factory=list)
    kept: list[Job] = field(default_factory=list)
    turns: int = 0
    trouble: InsaError | None = None

    def __post_init__(self) -> None:
        self.activity = Activity()
        self.failures = Failures(self.clock)
        ward: Any = self
        notes = Notes(self.activity, self.note, lambda: self.failures.write_down(self.keep))
        self.keeper = HealthKeeper(
            service=ward, remedies=ward, notes=notes, instance=HERE, latency=0.1, clock=self.clock
        )

    def note(self, instance: UUID, counted: ScoringCounts, now: int) -> None:
        """Store the counts of scored readings."""
        assert (instance, now) == (HERE, NOW)
        if self.trouble:
            raise self.trouble
        self.noted.append(counted)

    def keep(self, job: Job) -> None:
        """Store a refit that made no model."""
        if self.trouble:
            raise self.trouble
        self.kept.append(job)

    def run_due(self, now: int) -> None:
        """Run the check like the service."""
        assert now == NOW
        if self.trouble:
            raise self.trouble

    def step(self, instance: UUID, now: int) -> int:
        """Count a turn of the remedies."""
        assert (instance, now) == (HERE, NOW)
        self.turns += 1
        return 0

    def seconds(self, count: int) -> None:
        """Let `count` seconds pass, with a step in each."""
        for _ in range(count):
            self.clock.seconds += 1.0
            assert self.keeper.step(0.0) == health.TURN_SECONDS


@pytest.fixture
def ward() -> Ward:
    """Return a ward with a clock of its own."""
    return Ward()


def test_it_looks_often_and_writes_down_now_and_then(ward: Ward) -> None:
    """The thread notes the readings scored so far soon after the start, then every five minutes."""
    ward.activity.count(*batch([(1, True, True), (1, True, False)]))
    readings_scored(2, 1, 0.2, None)
    ward.seconds(300)
    assert ward.turns == 60
    assert [(one.keys, one.readings, one.anomalies) for one in ward.noted] == [
        ([KEYS[1]], [2], [1])
    ]
    assert ward.noted[0].slow >= 1
    ward.activity.count(*batch([(2, True, False)]))
    readings_scored(1, 0, 0.01, None)
    ward.seconds(300)
    assert (
        ward.noted[1].keys,
        ward.noted[1].readings,
        ward.noted[1].batches,
        ward.noted[1].slow,
    ) == ([KEYS[2]], [1], 1, 0)


@pytest.mark.parametrize(
    "trouble", [DatabaseAway, DatabaseRefused, StateUnwritable, ModelFileError]
)
def test_what_is_away_is_waited_for(ward: Ward, trouble: Callable[[], InsaError]) -> None:
    """The thread tries again after a minute, and then notes all readings scored meanwhile."""
    ward.trouble = trouble()
    ward.activity.count(*batch([(1, True, True)]))
    ward.seconds(119)
    assert (ward.turns, ward.noted) == (0, [])
    ward.trouble = None
    ward.activity.count(*batch([(1, True, False)]))
    ward.seconds(60)
    assert [(one.readings, one.anomalies) for one in ward.noted] == [([2], [1])]


def test_refits_that_made_no_model_are_written_down_once(ward: Ward) -> None:
    """Failures are noted in their order, once the database is back."""
    ward.failures.add(KEYS[1], "m1", "too few")
    ward.trouble = DatabaseAway()
    ward.seconds(30)
    ward.failures.add(KEYS[2], "m2", "crashed")
    ward.trouble = None
    ward.seconds(60)
    assert [
        ((one.device_id, one.metric_name), one.champion_id, one.reason) for one in ward.kept
    ] == [(KEYS[1], "m1", "too few"), (KEYS[2], "m2", "crashed")]
    assert {(one.kind, one.status, one.requested_by, one.finished_at) for one in ward.kept} == {
        ("retrain", "failed", "automatic", NOW)
    }


def test_of_very_many_failures_the_newest_are_kept() -> None:
    """Memory has a bound while the database is unreachable, and a write stays whole."""
    failures, kept = Failures(SettableClock(NOW)), list[str]()
    for number in range(failures_module.WAITING_MOST):
        failures.add(SeriesKey("pump", str(number)), "m", "")

    def keep(job: Job) -> None:
        if not kept:
            # another refit fails while the oldest is written
            failures.add(SeriesKey("pump", "newer"), "m", "")
        kept.append(job.metric_name)

    failures.write_down(keep)
    assert kept == [*map(str, range(failures_module.WAITING_MOST)), "newer"]


def test_nothing_is_checked_before_the_plant_was_heard() -> None:
    """Decisions of an earlier run are carried out while the first check is pending."""
    checks: list[int] = []
    remedies: Any = SimpleNamespace(step=lambda _instance, _now: checks.append(0))
    service: Any = SimpleNamespace(run_due=lambda _now: checks.append(1))
    clock = SettableClock(NOW)
    notes = Notes(Activity(), lambda *_: None, lambda: None)
    keeper = HealthKeeper(
        service=service,
        remedies=remedies,
        notes=notes,
        instance=HERE,
        latency=0.1,
        clock=clock,
        settle=300.0,
    )
    keeper.turn()
    clock.sleep(301.0)
    keeper.turn()
    assert checks == [0, 1, 0]
