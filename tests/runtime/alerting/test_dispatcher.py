"""The way from the outbox to the targets: every event is delivered once, in any crash."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event

import msgspec
import pytest
from structlog.testing import capture_logs

from insa_anomaly.core.notification.alert import (
    ANOMALY_TOPIC,
    SUMMARY,
    Alert,
    alerts_of,
    delivery_id,
)
from insa_anomaly.core.notification.routing import Dispatch, Route, Target
from insa_anomaly.core.operations.backoff import BackoffPolicy
from insa_anomaly.errors import AlertsBroken, StateUnwritable, TargetAway, TargetRefused
from insa_anomaly.ports.clock import Clock
from insa_anomaly.runtime.alerting import courier as couriers
from insa_anomaly.runtime.alerting.courier import Courier, running
from insa_anomaly.runtime.alerting.dispatcher import AlertDispatcher as AlertReader
from insa_anomaly.settings.sections import AlertsSettings
from insa_anomaly.testing.alerts import MemoryAlerts
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.testing.state import MemoryState
from tests.conftest import wait_for
from tests.core.alerts import DAY_ZERO
from tests.core.notification.test_alert import EVENT

QUICK = BackoffPolicy(first=1.0, last=2.0, trip=3, rest=1.0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(couriers, "IDLE_SECONDS", 0.005)


@dataclass
class Person:
    """The port `AlertTarget`: each alert is remembered, unless there is trouble to raise."""

    heard: list[tuple[str, Alert]] = field(default_factory=list)
    trouble: list[Exception] = field(default_factory=list)
    during: Callable[[], None] = lambda: None

    def deliver(self, delivery_id: str, alert: Alert, decided_at: int) -> None:
        """Remember the alert, or raise the trouble."""
        del decided_at
        self.during()
        if self.trouble:
            raise self.trouble.pop(0)
        self.heard.append((delivery_id, alert))

    def interrupt(self) -> None:
        """Interrupt no delivery, because none takes long here."""


@dataclass
class Office:
    """A state with events, a store and a mailbox."""

    budget: int = 50
    clock: SettableClock = field(default_factory=lambda: SettableClock(DAY_ZERO))
    state: MemoryState = field(default_factory=MemoryState)
    store: MemoryAlerts = field(default_factory=MemoryAlerts)
    person: Person = field(default_factory=Person)

    def __post_init__(self) -> None:
        self.start()

    def start(self, retry: BackoffPolicy = QUICK) -> None:
        """Start where the last run ended, or was killed."""
        targets = [Target("mail", (Route(),), self.budget)]
        self.courier = courier("mail", self.person, self.store, retry, self.clock)
        self.reader = AlertReader(
            state=self.state,
            store=self.store,
            targets=targets,
            couriers=[self.courier],
            alerting=AlertsSettings(),
            clock=self.clock,
        )

    def post(self, *numbers: int, kind: str = "opened") -> None:
        """Post events of episodes."""
        for number in numbers:
            event = msgspec.structs.replace(
                EVENT, event_id=f"{kind}-{number}", episode_id=f"ep-{number}", kind=kind
            )
            self.state.post([(ANOMALY_TOPIC + "press-1", msgspec.json.encode(event))])

    def deliver(self) -> None:
        """Deliver all alerts that are due."""
        while not self.courier.step(0.0):
            pass

    @property
    def told(self) -> list[str]:
        """Ids of the events that were delivered."""
        return [alert.event_id for _, alert in self.person.heard]


def courier(
    name: str, target: Person, store: MemoryAlerts, retry: BackoffPolicy, clock: Clock
) -> Courier:
    """Build a courier that tries for a day."""
    return Courier(name=name, target=target, store=store, retry=retry, keep=86_400.0, clock=clock)


# -------------------------------------------------------------------------- the reader
def test_an_event_becomes_an_alert_once() -> None:
    """An event is an alert once, and is removed from the notices; the outbox is not affected."""
    office = Office()
    office.post(1, 2, 1)
    office.reader.step(0.0)
    office.reader.step(0.0)
    office.deliver()
    assert office.told == ["opened-1", "opened-2"]
    assert office.state.notices(9) == []
    assert len(office.state.outgoing(0, 9)) == 3


@pytest.mark.parametrize("crash", ["before", "after"])
def test_a_crash_between_the_two_files_loses_and_repeats_nothing(crash: str) -> None:
    """An event is delivered once although the process was killed before its notice was dropped.

    The decision may have been stored or not.
    """
    office = Office()
    office.post(1, 2)

    class Killed(BaseException):
        """The end of the process."""

    def die(*_: object) -> None:
        raise Killed

    broken, name = (office.store, "keep") if crash == "before" else (office.state, "noticed")
    setattr(broken, name, die)
    with pytest.raises(Killed):
        office.reader.step(0.0)
    delattr(broken, name)
    office.start()
    office.post(3)
    office.reader.step(0.0)
    office.deliver()
    assert office.told == ["opened-1", "opened-2", "opened-3"]


def test_notices_that_cannot_be_dropped_repeat_nothing() -> None:
    """Decisions stand while the disk refuses, also of a cause that is over already."""
    office = Office()
    office.post(1)
    office.post(1, kind="closed")
    whole, refusals = office.state.noticed, [StateUnwritable("full")] * 3

    def noticed(through: int) -> None:
        if refusals:
            raise refusals.pop()
        whole(through)

    office.state.noticed = noticed  # type: ignore[method-assign]
    with capture_logs() as logs:
        for number in range(2, 7):
            office.post(number)
            office.reader.step(0.0)
    office.deliver()
    assert office.told == [f"opened-{number}" for number in range(1, 7)]
    assert [line["action"] for line in logs] == ["alerts_unwritable"] * 3


def test_what_is_no_event_of_ours_is_passed_over() -> None:
    """A foreign notice must not block the others."""
    office = Office()
    office.state.post([("insa/iiot/ml/anomaly/x", b"{"), ("something", b"\xff")])
    office.post(1)
    office.reader.step(0.0)
    assert office.state.notices(9) == []
    assert office.store.backlog() == {"mail": 1}


def test_a_store_that_cannot_be_written_is_waited_for() -> None:
    """The events wait in the state, and the reader lives."""
    office = Office()
    office.post(1)

    def broken(*_: object) -> None:
        raise AlertsBroken

    office.store.keep = broken  # type: ignore[assignment]
    with capture_logs() as logs:
        assert office.reader.step(0.0) > 0
    assert {line["action"] for line in logs} == {"alerts_unwritable"}
    assert len(office.state.notices(9)) == 1
    del office.store.keep
    office.reader.step(0.0)
    assert office.store.backlog() == {"mail": 1}


def test_a_storm_becomes_a_summary() -> None:
    """All alerts of a storm are counted, with more notices than a turn reads.

    No alert is there twice.
    """
    office = Office(budget=5)
    office.post(*range(1234))
    for _ in range(3):
        office.reader.step(0.0)
    assert office.state.notices(9) == []
    assert office.store.backlog() == {"mail": 4}
    office.clock.sleep(7200)
    office.reader.step(0.0)
    office.start()  # a restart in between
    office.reader.step(0.0)
    office.deliver()
    assert len(office.person.heard) == 5
    summary = office.person.heard[-1][1]
    assert (summary.kind, summary.event["count"]) == (SUMMARY, 1230)


def test_the_budget_outlives_a_restart() -> None:
    """A daemon that is restarted every minute sends no more than another."""
    office = Office(budget=3)
    for number in range(10):
        office.post(number)
        office.reader.step(0.0)
        office.start()
    office.deliver()
    assert len(office.told) == 2


# ------------------------------------------------------------------------- the courier
def waiting(office: Office, *numbers: int) -> None:
    """Decide alerts that wait."""
    office.post(*numbers)
    office.reader.step(0.0)


def test_a_target_that_is_away_hears_later_all_of_it() -> None:
    """Every alert is delivered in the end, each under its own id."""
    office = Office()
    waiting(office, 1, 2, 3)
    office.person.trouble = [TargetAway("x"), TargetAway("x"), OSError("y"), *[TargetAway("z")] * 5]
    with capture_logs() as logs:
        for _ in range(200):
            office.clock.sleep(0.5)
            office.courier.step(0.0)
            if len(office.told) == 3:
                break
    assert sorted(office.told) == ["opened-1", "opened-2", "opened-3"]
    assert {one for one, _ in office.person.heard} == {
        delivery_id("mail", alert) for _, alert in office.person.heard
    }
    assert [line["action"] for line in logs].count("target_away") == 8
    assert [line["action"] for line in logs].count("target_answers") == 1
    assert office.store.backlog() == {}


def test_a_target_that_fails_is_left_alone_for_a_while() -> None:
    """A failing target rests, however many alerts wait for it."""
    office = Office()
    office.start(replace(QUICK, rest=60.0, last=60.0))
    waiting(office, *range(20))
    office.person.trouble = [TargetAway("x")] * 100
    assert office.reader.trouble is None
    for _ in range(50):
        office.clock.sleep(0.01)
        office.courier.step(0.0)
    assert len(office.person.trouble) == 97
    office.reader.step(0.0)
    assert office.reader.trouble == "alerts are not delivered to: mail"


def test_a_target_that_asks_for_rest_gets_it() -> None:
    """A target that asks for rest gets it at once, after a single failure."""
    office = Office()
    waiting(office, 1, 2)
    office.person.trouble = [TargetAway("429", 30.0)]
    office.deliver()
    office.clock.sleep(20.0)
    office.deliver()
    assert office.told == []


def test_what_a_target_refuses_is_a_dead_letter_and_the_next_is_told() -> None:
    """A refused alert is a dead letter at once, because it would be refused again."""
    office = Office()
    waiting(office, 1, 2)
    office.person.trouble = [TargetRefused("422")]
    office.deliver()
    assert office.told == ["opened-2"]
    assert [(one.alert.event_id, reason) for one, reason in office.store.dead] == [
        ("opened-1", "422")
    ]


def test_what_is_too_old_is_a_dead_letter() -> None:
    """An alert that has failed for a day is a dead letter.

    Younger and untried alerts are delivered.
    """
    office = Office()
    waiting(office, 1)
    office.person.trouble = [TargetAway("x")]
    office.deliver()
    waiting(office, 3)
    office.clock.sleep(23 * 3600)
    waiting(office, 2)
    office.clock.sleep(7200)
    with capture_logs() as logs:
        office.deliver()
    assert office.told == ["opened-3", "opened-2"]
    assert [one.alert.event_id for one, _ in office.store.dead] == ["opened-1"]
    (line,) = [line for line in logs if line["action"] == "alert_given_up"]
    assert (line["target"], line["event_id"], line["about"]) == (
        "mail",
        "opened-1",
        "press-1/pressure",
    )


def test_a_target_that_hangs_holds_up_nobody() -> None:
    """Another target receives its alerts meanwhile, and the end does not wait."""
    store, release = MemoryAlerts(), Event()
    slow, quick = Person(during=lambda: (release.wait(30), None)[1]), Person()
    ways = {"mail": slow, "webhook:scada": quick}
    both = [
        courier(name, person, store, QUICK, SettableClock(DAY_ZERO))
        for name, person in ways.items()
    ]
    alert = Office()
    alert.post(1)
    (told,) = alerts_of(ANOMALY_TOPIC, alert.state.notices(1)[0].payload, 0.9)
    store.keep(Dispatch(sent=[(name, told) for name in ways]), [], DAY_ZERO)
    with running(both, SettableClock()):
        wait_for(lambda: quick.heard)
        assert slow.heard == []
        release.set()
        wait_for(lambda: slow.heard)
    assert store.backlog() == {}


def test_a_fault_in_the_store_does_not_end_a_courier() -> None:
    """A courier continues when the store works again."""
    office = Office()
    waiting(office, 1)
    whole, failures = office.store.next, [AlertsBroken("x"), ValueError("y")]

    def broken(target: str, now: int) -> object:
        if failures:
            raise failures.pop()
        return whole(target, now)

    office.store.next = broken  # type: ignore[method-assign, assignment]
    with capture_logs() as logs, running([office.courier], office.clock):
        wait_for(lambda: office.told)
    assert [line["action"] for line in logs].count("courier_stumbled") == 2
