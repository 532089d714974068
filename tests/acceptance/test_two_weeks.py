"""Two weeks of a fleet in a few seconds, through the whole life of its models.

Models age, degrade, are retrained, refused and promoted, fail, are disabled and recover.

The clock is the test's. Detector, trainings with their gate, database, files, jobs and the health
check are real; the child process is left out, and so are the parts of the stream that do not matter
here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import msgspec
import numpy as np
import psycopg
import pytest

from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.adapters.postgres.catalogue import PostgresCatalogue
from insa_anomaly.adapters.postgres.history import PostgresHistory
from insa_anomaly.adapters.postgres.jobs import PostgresJobs
from insa_anomaly.adapters.postgres.model_health import PostgresHealth
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.postgres.recorder import PostgresRecorder
from insa_anomaly.core.device.detector import DeviceParameters
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.notice import Notice
from insa_anomaly.core.operations.model_health import DAY, HOUR
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.units import Floats, Ints
from insa_anomaly.ports.model_health import DecisionFilter
from insa_anomaly.ports.recorder import Page, Telemetry
from insa_anomaly.processes.trainer import show_others
from insa_anomaly.runtime.fleet.fleet import Fleet
from insa_anomaly.runtime.fleet.registry import Registry
from insa_anomaly.runtime.fleet.view import stream_view
from insa_anomaly.runtime.models.activity import Activity
from insa_anomaly.runtime.models.child import TrainingOrder, TrainingReply
from insa_anomaly.runtime.models.health import HealthKeeper, Notes
from insa_anomaly.runtime.models.jobs import JobRunner
from insa_anomaly.services.audit import Author
from insa_anomaly.services.model_health import DecisionView
from insa_anomaly.services.training import DeviceTraining, SeriesTraining, TrainingService
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.sections import TrainingSettings
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.testing.state import MemoryState
from insa_anomaly.wiring import services
from insa_anomaly.wiring.health import assembled

START = 1_800_000_000_000_000 // DAY * DAY
PAUSE = 300_000_000  # between two readings: 288 a day
BEFORE, DAYS = 8, 15
SHIFT_DAY, RESTLESS_DAY, REPAIR_DAY = 3, 12, 12
PARAMETERS = Parameters(n_estimators=8, history_readings_least=500, mature_days=99.0)
LIVE: tuple[SeriesKey, ...] = (
    SeriesKey("steady", "a"),
    SeriesKey("drifting", "a"),
    SeriesKey("failing", "a"),
)
SILENT = SeriesKey("silent", "a")


def values(key: SeriesKey, times: Ints) -> Floats:
    """Return the readings of this series.

    One series moves to another level for good, another loses every level near the end.
    """
    random = np.random.default_rng([int(times[0] // HOUR), LIVE.index(key) if key in LIVE else 9])
    level: Floats = np.full(len(times), 50.0)
    if key.device_id == "drifting":
        level += 40.0 * (times >= START + SHIFT_DAY * DAY)
    elif key.device_id == "steady":
        level += 40.0 * np.maximum(0, (times - START - RESTLESS_DAY * DAY) // (3 * HOUR))
    level += 3 * np.sin(2 * np.pi * times / (6 * HOUR)) + random.normal(size=len(times))
    return level


@dataclass
class School:
    """A trainer that works as the child does; for one device it fails until that is repaired."""

    service: TrainingService
    files: ModelFiles
    catalogue: PostgresCatalogue
    history: PostgresHistory
    clock: SettableClock
    repaired: bool = False
    closed: bool = False

    def train(
        self, order: TrainingOrder, name: object, tell: Callable[[int], None]
    ) -> TrainingReply:
        """Train a model."""
        del name, tell
        if order.device_id == "failing" and not self.repaired:
            return TrainingReply(300.0, None, "the training process ended, or took too long")
        row = self.service.from_history(order.key, self.history, self.clock.now())
        show_others(self.files, self.catalogue, row)
        return TrainingReply(0.5, row.id)


@dataclass
class Site:
    """A daemon with its database, hour by hour."""

    dsn: str
    pool: Pool
    files: ModelFiles
    history: PostgresHistory
    recorder: PostgresRecorder
    clock: SettableClock = field(default_factory=lambda: SettableClock(START))
    state: MemoryState = field(default_factory=MemoryState)

    def __post_init__(self) -> None:
        settings = Settings(training=TrainingSettings(jobs=20))
        self.registry = Registry(8)
        self.activity = Activity()
        self.instance = uuid4()
        self.fleet = Fleet(self.registry, PARAMETERS, Policy())
        self.service = TrainingService(
            self.files,
            SeriesTraining(PARAMETERS, Policy()),
            DeviceTraining(DeviceParameters(), 1.0, Policy()),
            self.clock,
        )
        catalogue = PostgresCatalogue(self.pool)
        self.school = School(self.service, self.files, catalogue, self.history, self.clock)
        school: Any = self.school
        parts: Any = services.ServiceParts(
            self.files, stream_view(self.fleet, self.clock), school, self.instance, lambda _: None
        )
        remedies, self.health = assembled(
            settings, services.Pools(self.pool, self.pool), parts, self.state, lambda _: None
        )
        note = PostgresHealth(self.pool).note
        self.keeper = HealthKeeper(
            self.health,
            remedies,
            Notes(self.activity, note, lambda: None),
            instance=self.instance,
            latency=0.1,
            clock=self.clock,
        )
        self.runner = JobRunner(
            PostgresJobs(self.pool, self.instance),
            school,
            self.files,
            state=self.state,
            enqueue=lambda _: None,
            clock=self.clock,
        )
        self.changes = services.model_changes(
            settings, services.Pools(self.pool, self.pool), self.files
        )
        self.catalogue = catalogue
        self.serving = dict[SeriesKey, str]()

    @property
    def now(self) -> int:
        """Present time of the test."""
        return self.clock.now()

    def read(self, key: SeriesKey, since: int, until: int) -> None:
        """Score, count and record the readings of a span."""
        times = np.arange(since, until, PAUSE)
        n, number = len(times), self.registry.index_of(key)
        zeros, good = np.zeros(n, np.int64), np.zeros(n, np.int16)
        telemetry = Telemetry(
            keys=self.registry.keys,
            key=np.full(n, number, np.int32),
            timestamp=times,
            discriminator=zeros,
            value=values(key, times),
            quality=good,
            flags=good,
        )
        self.activity.count(telemetry, self.fleet.advance(telemetry))
        self.recorder.record(Page(UUID(int=1), 0, telemetry))

    def follow(self) -> None:
        """Load the models that the index names as active, and record their rows."""
        active = self.files.active()
        for key in self.serving.keys() - active.keys():
            self.fleet.swap(key, None)
        for key, model_id in active.items():
            if self.serving.get(key) != model_id:
                self.fleet.swap(key, Model.from_bytes(self.files.scorer(model_id)))
                self.recorder.record(Page(UUID(int=1), 0, EMPTY, models=[self.files.row(model_id)]))
        self.serving = active

    def hour(self) -> None:
        """Let an hour pass, then give every part a turn."""
        for key in LIVE:
            self.read(key, self.now, self.now + HOUR)
        self.clock.sleep(HOUR / 1e6)
        self.keeper.turn()
        while self.runner.step(0.0) == 0.0:
            pass
        self.follow()

    def query(self, statement: LiteralString, *said: object) -> list[tuple[Any, ...]]:
        """Return rows of the database."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return connection.execute(statement, said).fetchall()

    def trail(self, device_id: str) -> list[DecisionView]:
        """Return the decisions about a device, in order."""
        return self.health.decisions(DecisionFilter(device_id), None, 1000).decisions[::-1]

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """Return topics, without their common prefix, and payloads of the model events."""
        return [
            (one.topic.removeprefix("insa/iiot/ml/model/"), msgspec.json.decode(one.payload))
            for one in self.state.outgoing(0, 1000)
        ]


EMPTY = Telemetry(
    (),
    np.zeros(0, np.int32),
    *(np.zeros(0, np.int64),) * 2,
    np.zeros(0),
    *(np.zeros(0, np.int16),) * 2,
)


@pytest.fixture
def site(database: str, tmp_path: Path) -> Iterator[Site]:
    """Open a site with eight days of history and a model for each series.

    One series has been silent for 27 days.
    """
    with (
        Pool(database) as pool,
        ModelFiles(tmp_path / "models", tmp_path / "key") as files,
        PostgresHistory(database) as history,
        PostgresRecorder(database) as recorder,
    ):
        site = Site(database, pool, files, history, recorder)
        for key, since in (
            *((key, START - BEFORE * DAY) for key in LIVE),
            (SILENT, START - (27 + BEFORE) * DAY),
        ):
            site.read(key, since, since + BEFORE * DAY)
            if key.device_id == "steady":  # an old version, which no longer serves
                site.service.from_history(key, history, START - 25 * DAY)
                site.follow()
            site.service.from_history(key, history, since + BEFORE * DAY)
        site.follow()
        yield site


def test_two_weeks(site: Site) -> None:
    """Every step is taken and explained in a table; notable steps are published and audited."""
    failing = site.files.active()[SeriesKey("failing", "a")]
    for day in range(DAYS):
        if day == REPAIR_DAY:
            assert site.health.report().disabled == 1
            site.school.repaired = True
            site.changes.activate(failing, Author("shift lead", "10.0.0.7"))
            site.follow()
        for _ in range(24):
            site.hour()
    trails = {device: site.trail(device) for device in ("steady", "drifting", "failing", "silent")}
    steps = {
        device: [(_day(one), one.kind, one.cause) for one in trail]
        for device, trail in trails.items()
    }
    outcomes = {
        device: [one.job_outcome or "" for one in trail if one.kind == "retrain"]
        for device, trail in trails.items()
    }

    # Ages. An old version is deleted. Restless at the end: reported daily, and models of it are
    # refused.
    assert steps["steady"][:2] == [(5, "clean_up", "inactive"), (7, "retrain", "age")]
    assert set(steps["steady"][2:]) == {
        (day, kind, "degraded") for day in (13, 14) for kind in ("escalate", "retrain")
    }
    assert all(outcome.startswith("refused: ") for outcome in outcomes["steady"][1:])
    # Drifts: degraded, escalated and retrained daily, until a model of the new level is promoted.
    # Then it has recovered.
    healed = next(day for day, kind, _ in steps["drifting"] if kind == "recover")
    assert steps["drifting"][0][0] == SHIFT_DAY
    assert {step for step in steps["drifting"] if step[0] < healed} == {
        (day, kind, "degraded")
        for day in range(SHIFT_DAY, healed)
        for kind in ("escalate", "retrain")
    }
    assert "promoted" in outcomes["drifting"]
    assert not [step for step in steps["drifting"] if step[0] > healed and step[1] == "escalate"]
    # Fails three times: disabled and reported. Activated and repaired by a person, it recovers and
    # is retrained.
    fails = [
        (7, "retrain", "age"),
        (8, "escalate", "failing"),
        (8, "retrain", "age"),
        (9, "escalate", "failing"),
        (9, "retrain", "age"),
    ]
    heals = [(10, "disable", "failing"), (12, "recover", "failing"), (12, "retrain", "age")]
    assert sorted(steps["failing"]) == sorted(fails + heals)
    assert [outcome == "promoted" for outcome in outcomes["failing"]] == [False, False, False, True]
    # silent for a month: it no longer serves
    assert steps["silent"] == [(3, "retire", "silent")]
    check_trail(site, [one for trail in trails.values() for one in trail])


def check_trail(site: Site, decisions: list[DecisionView]) -> None:
    """Check that every decision has its reason, its figures and its outcome.

    Decisions that change the fleet are audited, notable decisions are published.
    """
    assert all(one.reason and one.figures and one.outcome for one in decisions)
    assert {one.status for one in decisions} == {"done"}
    assert all(one.job_status in {"done", "failed"} for one in decisions if one.kind == "retrain")
    audited = site.query(
        "SELECT origin, action, count(*) FROM audit_log WHERE who = 'health check' GROUP BY 1, 2"
    )
    assert {origin for origin, _, _ in audited} == {f"decision {one.id}" for one in decisions} | {
        "schedule"
    }
    assert {action: count for _, action, count in audited if action == "health.check"} == {
        "health.check": DAYS + 1
    }  # one at the start
    told = site.told()
    notices = [
        msgspec.convert(said, Notice)
        for topic, said in told
        if topic not in {"trained", "retrained"}
    ]
    spoken = [one for one in decisions if one.kind in {"escalate", "recover", "disable"}]
    assert {one.event_id: one.reason for one in notices} == {one.id: one.reason for one in spoken}
    assert len(notices) == len(spoken)
    assert {one.cause for one in notices} == {
        "degraded:drifting/a",
        "degraded:steady/a",
        "failing:failing/a",
    }
    causes = [
        [one.open for one in notices if one.cause == f"{cause}/a"]
        for cause in ("degraded:drifting", "failing:failing")
    ]
    assert [sum(not open_ for open_ in each) for each in causes] == [1, 1]
    assert sum(topic == "retrained" for topic, _ in told) == sum(
        one.kind == "retrain" and one.job_status == "done" for one in decisions
    )


def _day(one: DecisionView) -> int:
    at = datetime.fromisoformat(one.at)
    return (at - datetime.fromtimestamp(START / 1e6, UTC)).days
