"""The health thread: what it does, how often, and that it waits out what is away without losing anything."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from insa_anomaly import instrumentation
from insa_anomaly.errors import DatabaseAway, DatabaseRefused, InsaError, ModelFileError, StateUnwritable
from insa_anomaly.ports import Counted
from insa_anomaly.runtime import health
from insa_anomaly.runtime.activity import Activity
from insa_anomaly.runtime.health import HealthKeeper
from tests.runtime.test_activity import KEYS, batch

NOW, HERE = 1_800_000_000_000_000, UUID(int=1)


@dataclass
class Ward:
    """A keeper whose check and remedies are only counted; `trouble` is what the database, or the disk, says."""

    monotonic: float = 1000.0
    noted: list[Counted] = field(default_factory=list)
    turns: int = 0
    trouble: InsaError | None = None

    def __post_init__(self) -> None:
        self.activity = Activity()
        ward: Any = self
        self.keeper = HealthKeeper(ward, ward, self.activity, self.note, HERE, 0.1, lambda: NOW)

    def note(self, instance: UUID, counted: Counted, now: int) -> None:
        """Keep what was scored."""
        assert (instance, now) == (HERE, NOW)
        if self.trouble:
            raise self.trouble
        self.noted.append(counted)

    def run_due(self, now: int) -> None:
        """As the service."""
        assert now == NOW
        if self.trouble:
            raise self.trouble

    def step(self, instance: UUID, now: int) -> int:
        """As the remedies."""
        assert (instance, now) == (HERE, NOW)
        self.turns += 1
        return 0

    def seconds(self, count: int) -> None:
        """So many pass, with a step in each."""
        for _ in range(count):
            self.monotonic += 1.0
            assert self.keeper.step() == health.TURN_SECONDS


@pytest.fixture
def ward(monkeypatch: pytest.MonkeyPatch) -> Ward:
    """One with a clock of its own."""
    ward: list[Ward] = []
    monkeypatch.setattr(health, "monotonic", lambda: ward[0].monotonic if ward else 1000.0)
    ward.append(Ward())
    return ward[0]


def test_it_looks_often_and_writes_down_now_and_then(ward: Ward) -> None:
    """Soon after the start, then every five minutes: what was scored since."""
    ward.activity.results(*batch([(1, True, True), (1, True, False)]))
    instrumentation.readings_scored(2, 1, 0.2, None)
    ward.seconds(300)
    assert ward.turns == 60
    assert [(one.keys, one.readings, one.anomalies) for one in ward.noted] == [([KEYS[1]], [2], [1])]
    assert ward.noted[0].slow >= 1
    ward.activity.results(*batch([(2, True, False)]))
    instrumentation.readings_scored(1, 0, 0.01, None)
    ward.seconds(300)
    assert (ward.noted[1].keys, ward.noted[1].readings, ward.noted[1].batches, ward.noted[1].slow) == ([KEYS[2]], [1], 1, 0)


@pytest.mark.parametrize("trouble", [DatabaseAway, DatabaseRefused, StateUnwritable, ModelFileError])
def test_what_is_away_is_waited_for(ward: Ward, trouble: Callable[[], InsaError]) -> None:
    """A minute between tries; what was scored meanwhile is written down then."""
    ward.trouble = trouble()
    ward.activity.results(*batch([(1, True, True)]))
    ward.seconds(119)
    assert (ward.turns, ward.noted) == (0, [])
    ward.trouble = None
    ward.activity.results(*batch([(1, True, False)]))
    ward.seconds(60)
    assert [(one.readings, one.anomalies) for one in ward.noted] == [([2], [1])]
