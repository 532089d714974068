"""The daemon: a stop loses no acknowledged message, and a restart is invisible.

A daemon that has lost a thread ends.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from subprocess import Popen
from threading import Event, Thread, active_count
from time import sleep

import pytest
from structlog.testing import capture_logs

from insa_anomaly.core.reading.reading import Quality
from insa_anomaly.errors import BrokerRefused, DatabaseAway, StateBroken, StateUnwritable
from insa_anomaly.instrumentation.metrics import REGISTRY, TROUBLES
from insa_anomaly.runtime import daemon as running
from insa_anomaly.runtime import latest as showing
from insa_anomaly.runtime.admin_process import AdminProcess
from insa_anomaly.runtime.alerting.dispatcher import AlertDispatcher
from insa_anomaly.runtime.daemon import Daemon, DaemonParts, Listeners, Supervision
from insa_anomaly.runtime.feed import Feed
from insa_anomaly.runtime.fleet.fleet import Fleet
from insa_anomaly.runtime.fleet.registry import Registry
from insa_anomaly.runtime.heartbeats import Heartbeats
from insa_anomaly.runtime.intake import Intake
from insa_anomaly.runtime.latest import LatestPublisher
from insa_anomaly.runtime.models.activity import Activity
from insa_anomaly.runtime.models.trainer import Trainer
from insa_anomaly.runtime.publish import EventPublisher
from insa_anomaly.runtime.record import RecordReader
from insa_anomaly.runtime.score import ScoreReader
from insa_anomaly.runtime.status import TOPIC, StatusPublisher
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.sections import (
    AlertsSettings,
    IntakeSettings,
    RecordSettings,
    TrainingSettings,
)
from insa_anomaly.testing.alerts import MemoryAlerts
from insa_anomaly.testing.broker import MemoryBroker
from insa_anomaly.testing.latest import MemoryLatest
from insa_anomaly.testing.log import MemoryLog
from insa_anomaly.testing.models import MemoryModels
from insa_anomaly.testing.recorder import MemoryRecorder, MemoryTables
from insa_anomaly.testing.state import MemoryState
from insa_anomaly.wiring.clock import SystemClock
from tests.conftest import wait_for
from tests.runtime.streams import (
    CAPACITY,
    NOW,
    PARAMETERS,
    POLICY,
    SECOND,
    Message,
    message,
    model_row,
    models,
    parser,
    stream,
    swap,
    topic,
)

THREADS = ("intake", "score", "tell", "record", "trainer", "show")


class SameDay(SystemClock):
    """The system's clock, at a time of day that stands still."""

    def now(self) -> int:
        """Return the time of the stream's messages."""
        return NOW


clock = SameDay()


class Careful(MemoryLog):
    """A log that drops only entries that are recorded, in a checkpoint and on disk."""

    def __init__(self) -> None:
        super().__init__()
        self.state = MemoryState()
        self.recorder = MemoryRecorder()
        self.dropped = 0

    def drop(self, through: int) -> None:
        """Drop entries."""
        assert through <= self.state.synced
        assert through <= self.state.restore()[0]
        assert through <= self.recorder.tables.cursors.get(self.id, 0)
        self.dropped = max(self.dropped, through)
        super().drop(through)


class Server(MemoryBroker):
    """A broker that may refuse the connection."""

    refusal: Exception | None = None

    def open(self, patience: float = 0.0) -> bool:
        """Connect, or refuse to."""
        if self.refusal:
            raise self.refusal
        return super().open(patience)


@dataclass
class Plant:
    """The parts that outlive the daemon, and a daemon on them."""

    log: Careful = field(default_factory=Careful)
    shelf: MemoryModels = field(default_factory=lambda: models(6))
    latest: MemoryLatest = field(default_factory=MemoryLatest)
    published: list[tuple[str, bytes]] = field(default_factory=list)
    acknowledged: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = self.log.state
        self.recorder = self.log.recorder
        self.start()

    def start(self) -> None:
        """Put a daemon together."""
        registry = Registry(CAPACITY)
        feed = Feed(self.log, parser(), registry, clock)
        grouping = IntakeSettings(messages=50, seconds=0.001, waiting=200, patience=5.0)
        intake = Intake(self.log, feed, clock, grouping)
        self.broker = intake.broker = Server(intake.hand_over)
        fleet = Fleet(registry, PARAMETERS, POLICY)
        trainer = Trainer(
            self.shelf, intake.swap, no_child, TrainingSettings(automatic=False), clock
        )
        tell, show = (
            EventPublisher(self.state, self.broker, clock),
            LatestPublisher(self.latest, clock),
        )
        score = ScoreReader(
            feed,
            self.state,
            fleet,
            self.shelf,
            Listeners(tell, trainer, show, Activity()),
            clock=clock,
            checkpoint_seconds=0.02,
        )
        paging = RecordSettings(readings=100, linger=0.0, first_retry=0.001, last_retry=0.001)
        record = RecordReader(
            log=self.log,
            feed=feed,
            state=self.state,
            recorder=self.recorder,
            models=self.shelf,
            settings=paging,
            clock=clock,
        )
        alert = AlertDispatcher(
            state=self.state,
            store=MemoryAlerts(),
            targets=[],
            couriers=[],
            alerting=AlertsSettings(),
            clock=clock,
        )
        self.parts = DaemonParts(
            log=self.log,
            state=self.state,
            feed=feed,
            fleet=fleet,
            intake=intake,
            broker=self.broker,
            score=score,
            record=record,
            publisher=tell,
            latest=show,
            trainer=trainer,
            dispatcher=alert,
        )
        self.daemon = Daemon(self.parts, clock)
        self.daemon.restore()

    @contextmanager
    def running(self) -> Iterator[Callable[[], int]]:
        """Run the daemon, and yield a function that ends it and returns its exit status."""
        statuses: list[int] = []
        thread = Thread(target=lambda: statuses.append(self.daemon.run()))
        before = active_count()
        thread.start()

        def end() -> int:
            self.daemon.end()
            thread.join(30)
            assert active_count() == before
            self.published += [(one[1], one[2]) for one in self.broker.published]
            self.acknowledged += [
                one for delivery in self.broker.acknowledged for one in delivery.messages
            ]
            return statuses[0]

        try:
            wait_for(lambda: self.broker.connected or not thread.is_alive())
            yield end
        finally:
            self.daemon.end()
            thread.join(30)


def no_child() -> "Popen[bytes]":
    """Fail the test: no child trains here."""
    raise AssertionError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TURN_SECONDS", 0.005)
    monkeypatch.setattr(running, "WATCH_SECONDS", 0.002)
    monkeypatch.setattr(running, "TRIM_SECONDS", 0.01)
    monkeypatch.setattr(showing, "EVERY_SECONDS", 0.002)


def numbered(count: int) -> list[Message]:
    """Build messages, each with a time of its own."""
    return [message("pump", i / 1000, {"a": i % 9}) for i in range(count)]


# -------------------------------------------------------------------------------- laws
@pytest.mark.parametrize("seed", range(4))
def test_stops_and_starts_are_invisible(seed: int) -> None:
    """A daemon stopped again and again records and publishes like a daemon that ran through.

    Unacknowledged messages come again, as from a broker, so that some messages come twice.
    """
    plain, plant = Plant(), Plant()
    messages = [one for one in stream(seed, 150).messages if stamped(one)]
    for number in (0, 1, 2):
        plain.shelf.put(model_row(number, "active"), plain.shelf.scorer(model_row(number).id))
        plant.shelf.put(model_row(number, "active"), plant.shelf.scorer(model_row(number).id))
    pause = random.Random(seed)
    for one in (plain, plant):  # the models serve from the first message on
        one.daemon.restore()
        one.parts.intake.step(0.0)
    while len(plant.acknowledged) < len(messages):
        with plant.running() as end:
            deliver(plant, messages[len(plant.acknowledged) :], pause)
            assert end() == 0
        plant.start()
    with plain.running() as end:
        deliver(plain, messages, None)
        wait_for(lambda: len(plain.broker.acknowledged) == len(messages))
        wait_for(lambda: plain.log.dropped)
        assert end() == 0
    assert plant.recorder.tables.telemetry == plain.recorder.tables.telemetry
    assert plant.recorder.tables.anomalies == plain.recorder.tables.anomalies != {}
    assert plant.recorder.tables.episodes == plain.recorder.tables.episodes
    assert plant.state.restore()[1] == plain.state.restore()[1]
    assert sorted(set(plant.published)) == sorted(plain.published) != []


def stamped(one: Message) -> bool:
    """Return whether the message has an accepted timestamp.

    The receive time differs between two plants.
    """
    found = re.search(rb'"timestamp": ([0-9.]+)', one[1])
    return found is not None and float(found[1]) < NOW / SECOND + 250


def deliver(plant: Plant, messages: list[Message], pause: random.Random | None) -> None:
    """Deliver messages singly; with `pause`, wait now and then, and stop early by chance.

    The connection may be closed with the stop.
    """
    for one in messages:
        plant.broker.deliver([one])
        if pause and pause.random() < 0.02:
            sleep(0.003)
        if pause and pause.random() < 0.02:
            if pause.random() < 0.5:
                plant.broker.close()  # unacknowledged messages come again
            return


# ------------------------------------------------------------------------------ the end
def test_an_end_winds_down_in_order_and_drains() -> None:
    """All accepted messages are logged, acknowledged, scored, checkpointed and recorded at an end.

    Events are published; then the broker is disconnected and no thread is left.
    """
    plant = Plant()
    with plant.running() as end:
        for one in numbered(500):
            plant.broker.deliver([one])
        assert end() == 0
    assert plant.acknowledged == numbered(500)
    assert len(plant.recorder.tables.telemetry) == 500
    assert plant.state.restore()[0] == plant.state.cursor == plant.log.last
    assert not plant.broker.connected
    assert plant.latest.shown.keys() == {("pump", "a")}


def test_what_comes_after_the_end_began_is_not_taken() -> None:
    """A message after the end began is not acknowledged, and comes again after the next start."""
    plant = Plant()
    with plant.running() as end:
        plant.broker.deliver(numbered(1))
        wait_for(lambda: plant.broker.acknowledged)
        assert end() == 0
    plant.broker.open()
    plant.broker.deliver(numbered(2)[1:])
    assert plant.acknowledged == numbered(1)
    assert len(plant.recorder.tables.telemetry) == 1


def test_a_database_that_is_away_holds_up_no_end() -> None:
    """Unrecorded readings stay in the log, and are recorded after the next start."""
    plant = Plant()
    plant.recorder.trouble = DatabaseAway("no answer")
    with plant.running() as end:
        plant.broker.deliver(numbered(20))
        wait_for(lambda: plant.parts.record.trouble)
        assert end() == 0
    assert plant.recorder.tables == MemoryTables()
    plant.recorder.trouble = None
    plant.start()
    with plant.running() as end:
        assert end() == 0
    assert len(plant.recorder.tables.telemetry) == 20


# ----------------------------------------------------------------------------- failures
@pytest.mark.parametrize("name", THREADS)
def test_a_thread_that_dies_ends_the_daemon(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon exits with status 1 and its reason, and all other threads end.

    The broker is disconnected, so that no further message is accepted.
    """
    plant = Plant()

    def die(*_: object) -> None:
        raise RuntimeError("by accident")

    monkeypatch.setattr(type(dict(plant.daemon._steps())[name]), "step", die)
    with plant.running() as end:
        wait_for(lambda: plant.daemon._failure is not None)
        wait_for(lambda: not plant.broker.connected)
        assert end() == 1
    assert f"the {name} thread died: by accident" in plant.daemon.troubles()


@pytest.mark.parametrize("name", ["score", "tell", "trainer"])
def test_a_thread_that_is_stuck_ends_the_daemon(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon exits with status 1, its reason and the stacks of all threads.

    The supervisor's watchdog is no longer notified.
    """
    plant, release, words, given_up = Plant(), Event(), list[str](), list[bool]()
    monkeypatch.setattr(running, "JOIN_SECONDS", 0.1)
    monkeypatch.setattr(
        type(dict(plant.daemon._steps())[name]), "step", lambda *_: release.wait(30)
    )
    supervision = Supervision(
        heartbeats=Heartbeats(0.3, dict.fromkeys({*THREADS} - {name}, 30.0)), notify=words.append
    )
    plant.daemon = Daemon(
        plant.parts, clock, replace(supervision, give_up=lambda: given_up.append(True))
    )
    with capture_logs() as logs, plant.running() as end:
        wait_for(lambda: plant.daemon._failure is not None)
        fed = words.count("WATCHDOG=1")
        wait_for(lambda: "STOPPING=1" in words)
        release.set()
        assert end() == 1
    assert words[0] == "READY=1"
    assert 0 < fed == words.count("WATCHDOG=1")
    assert given_up == [True]
    [death] = [log for log in logs if log["action"] == "thread_died"]
    assert "silent" in str(death["exc_info"])
    assert any("wait" in place for place in death["stacks"][name])


def test_the_state_is_announced() -> None:
    """The state is degraded with the reason while the database is unreachable, then running again.

    At the end the state is stopped.
    """
    plant = Plant()
    plant.daemon = Daemon(
        plant.parts, clock, Supervision(StatusPublisher(plant.broker, "line-1", "1.2.3"))
    )

    def states() -> list[str]:
        return [
            json.loads(payload)["state"]
            for _, topic, payload, _ in plant.broker.published
            if topic == TOPIC
        ]

    with plant.running() as end:
        wait_for(lambda: states() == ["running"])
        plant.recorder.trouble = DatabaseAway("no answer")
        plant.broker.deliver(numbered(1))
        wait_for(lambda: states() == ["running", "degraded"])
        assert REGISTRY.get_sample_value("insa_trouble", {"what": "database"}) == 1
        plant.recorder.trouble = None
        wait_for(lambda: states() == ["running", "degraded", "running"])
        assert REGISTRY.get_sample_value("insa_degraded") == 0
        assert end() == 0
    assert states()[-1] == "stopped"


def unbegun(_: Settings) -> "Popen[bytes]":
    """Fail the test: no process is needed here."""
    raise AssertionError


def test_every_trouble_has_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every possible trouble has a label of the metric."""
    monkeypatch.setattr(AlertDispatcher, "trouble", "alerts are not delivered to: mail")
    plant = Plant()
    plant.parts.intake.trouble, plant.parts.score.writable = "it is full", False
    plant.broker.undelivered = "nothing comes back"
    plant.parts.publisher.trouble = "refused"
    monkeypatch.setattr(AdminProcess, "trouble", "it ended")
    plant.daemon = Daemon(
        replace(plant.parts, admin=AdminProcess(unbegun, Settings(), clock)), clock
    )
    plant.parts.record.trouble, plant.daemon._failure = "no answer", ("score", ValueError("a bug"))
    assert tuple(plant.daemon._troubles()) == TROUBLES


def test_after_a_death_nothing_is_finished_that_may_be_half_done() -> None:
    """The states are not checkpointed and no reading is recorded after a death.

    The next start computes the results again from the log.
    """
    plant = Plant()
    with plant.running() as end:
        plant.recorder.trouble = ValueError("a bug")
        plant.broker.deliver(numbered(3))
        wait_for(lambda: plant.daemon._failure is not None)
        assert end() == 1
    assert plant.recorder.tables == MemoryTables()
    plant.recorder.trouble = None
    plant.start()
    with plant.running() as end:
        assert end() == 0
    assert len(plant.recorder.tables.telemetry) == 3


def test_a_broker_that_refuses_ends_the_start() -> None:
    """The start raises the broker's reason, and leaves no thread."""
    plant = Plant()
    plant.broker.refusal = BrokerRefused("not authorised")
    before = active_count()
    with pytest.raises(BrokerRefused, match="not authorised"):
        plant.daemon.run()
    assert active_count() == before


def test_a_state_that_cannot_be_put_on_disk_ends_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The daemon ends before it drops the entries of the log that made the state."""
    plant = Plant()

    def refuse(_: object) -> None:
        raise StateBroken("no space left on device")

    monkeypatch.setattr(MemoryState, "sync", refuse)
    with pytest.raises(StateBroken):
        plant.daemon.run()
    assert plant.log.dropped == 0


def test_a_full_disk_drops_nothing_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries stay in the log until the states made from them are on disk."""
    plant = Plant()

    def refuse(_: object) -> None:
        raise StateUnwritable

    with monkeypatch.context() as patch:
        patch.setattr(MemoryState, "sync", refuse)
        with plant.running() as end:
            plant.broker.deliver(numbered(5))
            wait_for(lambda: plant.parts.record.reached == plant.log.last != 0)
            sleep(0.1)
            assert plant.log.dropped == 0
            patch.undo()
            wait_for(lambda: plant.log.dropped)
            assert end() == 0


# -------------------------------------------------------------------------- the outside
def test_troubles_are_said_in_words() -> None:
    """A daemon that works has no trouble; each fault has a line."""
    plant = Plant()
    assert plant.daemon.troubles() == ["the broker is not connected: not connected yet"]
    plant.broker.open()
    assert plant.daemon.troubles() == []
    plant.parts.intake.trouble = "it is full"
    plant.parts.record.trouble = "no answer"
    assert plant.daemon.troubles() == [
        "the log cannot be written: it is full",
        "the database does not record: no answer",
    ]


def test_figures_say_where_every_reader_is() -> None:
    """All readers are at the end of the log after an end."""
    plant = Plant()
    plant.shelf.put(model_row(0, "active"), plant.shelf.scorer(model_row(0).id))
    with plant.running() as end:
        plant.broker.deliver(numbered(5))
        wait_for(lambda: plant.parts.fleet.model)
        assert end() == 0
    figures = plant.daemon.figures()
    assert (
        figures.pop("series"),
        figures.pop("series_with_model"),
        figures.pop("devices_with_model"),
    ) == (1, 1, 0)
    assert set(figures) == {"log_last", "scored", "recorded", "checkpoint"}
    assert set(figures.values()) == {plant.log.last}


def test_a_start_follows_the_index_and_the_log() -> None:
    """The state is bound to the log, and models that became active meanwhile are swapped in."""
    plant = Plant()
    plant.shelf.put(model_row(1, "active"), plant.shelf.scorer(model_row(1).id))
    plant.start()
    plant.parts.intake.step(0.0)
    assert plant.log.read(0, 10)[-1].swaps == [swap(1)]
    before = plant.log.last
    plant.parts.score.drain()
    plant.start()
    plant.parts.intake.step(0.0)
    assert plant.log.last == before


def test_readings_of_every_kind_reach_the_tables() -> None:
    """Readings good and bad, stamped and unstamped, are recorded.

    A message without a reading is a dead letter.
    """
    plant = Plant()
    with plant.running() as end:
        said = [
            message("pump", 0, {"a": 1.0}, '"quality": "bad", '),
            (topic("pump"), b'{"b": 2}'),
            (topic("pump"), b"{"),
        ]
        plant.broker.deliver(said)
        wait_for(lambda: plant.broker.acknowledged)
        assert end() == 0
    assert sorted(row[1] for row in plant.recorder.tables.telemetry.values()) == [
        Quality.GOOD,
        Quality.BAD,
    ]
    assert len(plant.recorder.tables.dead_letters) == 1
