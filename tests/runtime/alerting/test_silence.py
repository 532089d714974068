"""Silences are published as events of their own, once, and habits outlive a restart."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from insa_anomaly.adapters.disk.alerts import AlertFile
from insa_anomaly.core.notification.alert import SILENCE_TOPIC, alerts_of
from insa_anomaly.core.notification.cadence import Patience
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import StateUnwritable
from insa_anomaly.ports.alerts import AlertStore
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.ports.state import Outgoing
from insa_anomaly.runtime.alerting.silence import SilenceEvent, SilenceMonitor
from insa_anomaly.testing.alerts import MemoryAlerts
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.testing.state import MemoryState
from tests.core.alerts import DAY_ZERO

HOUR = 3600.0
KEYS: list[SeriesKey] = [
    SeriesKey(f"press-{number // 2}", f"m{number % 2}") for number in range(20)
]


@dataclass
class Plant:
    """Ten devices and their listener; a second is a step."""

    store: AlertStore = field(default_factory=MemoryAlerts)
    state: MemoryState = field(default_factory=MemoryState)
    clock: SettableClock = field(default_factory=lambda: SettableClock(DAY_ZERO))
    listening: bool = True
    offered: list[Outgoing] = field(default_factory=list)
    known: list[SeriesKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a new run."""
        self.listen = SilenceMonitor(
            state=self.state,
            store=self.store,
            known=self.known,
            patience=Patience(),
            listening=lambda: self.listening,
            clock=self.clock,
            enqueue=self.offered.extend,
        )

    def run(self, seconds: float, dead: frozenset[str] = frozenset()) -> list[SilenceEvent]:
        """Let time pass, and return the events published meanwhile."""
        told, end = len(self.offered), self.clock.seconds + seconds
        while self.clock.seconds < end:
            self.clock.sleep(5.0)
            alive = [
                number
                for number, key in enumerate(KEYS)
                if key.device_id not in dead and self.listening
            ]
            if alive:
                self.known.extend(KEYS[len(self.known) :])
                self.listen.observe(telemetry(alive))
            assert self.listen.step(0.0) == 1.0
        return [msgspec.json.decode(one.payload, type=SilenceEvent) for one in self.offered[told:]]


def telemetry(numbers: list[int]) -> Telemetry:
    """Build a reading of each of these series."""
    n, zeros = len(numbers), np.zeros(len(numbers), np.int64)
    flags = np.zeros(n, np.int16)
    return Telemetry(
        keys=KEYS,
        key=np.array(numbers, np.int32),
        timestamp=zeros,
        discriminator=zeros,
        value=np.zeros(n),
        quality=flags,
        flags=flags,
    )


ALL = frozenset(key.device_id for key in KEYS)


def test_a_silence_is_an_event_of_its_own() -> None:
    """A silence is published on a topic of its own, with its begin and reason.

    The return of the device is published too.
    """
    plant = Plant()
    assert plant.run(HOUR) == []
    with capture_logs() as logs:
        (silent,) = plant.run(HOUR, frozenset({"press-3"}))
        (back,) = plant.run(60.0)
    assert (silent.kind, silent.device_id, back.kind, back.since) == (
        "device_silent",
        "press-3",
        "device_back",
        silent.since,
    )
    assert silent.since < silent.timestamp < back.timestamp
    assert "nothing has come of it for" in silent.reason
    assert [one.topic for one in plant.offered] == [f"{SILENCE_TOPIC}/press-3"] * 2
    assert plant.state.notices(9) == plant.offered
    assert [line["action"] for line in logs] == ["device_silent", "device_back"]
    opened, ended = (alerts_of(one.topic, one.payload, 0.9)[0] for one in plant.offered)
    assert (opened.cause, opened.ends, ended.cause, ended.ends) == (
        "silence:press-3",
        False,
        "silence:press-3",
        True,
    )


def test_an_outage_of_the_broker_is_one_event() -> None:
    """An outage is a single event, and its end another, however many devices there are."""
    plant = Plant()
    plant.run(HOUR)
    plant.listening = False
    events = plant.run(5 * HOUR)
    plant.listening = True
    events += plant.run(HOUR)
    assert [(event.kind, event.device_id) for event in events] == [
        ("stream_silent", None),
        ("stream_back", None),
    ]


@pytest.mark.parametrize("body", ["memory", "disk"])
def test_a_restart_tells_nothing_twice(tmp_path: Path, body: str) -> None:
    """A silent device stays silent, and each device gets its time after the start.

    Habits are known, so that a device that died meanwhile is reported.
    """
    store = MemoryAlerts() if body == "memory" else AlertFile(tmp_path / "alerts.db")
    plant = Plant(store)
    plant.run(HOUR)
    plant.run(HOUR, frozenset({"press-1"}))
    plant.listen.save()
    plant.clock.sleep(5 * HOUR)
    plant.start()
    (event,) = plant.run(HOUR, frozenset({"press-1", "press-2"}))
    assert (event.kind, event.device_id) == ("device_silent", "press-2")
    assert [event.kind for event in plant.run(HOUR)] == ["device_back", "device_back"]
    if isinstance(store, AlertFile):
        store.close()


def test_a_process_that_slept_missed_nobody() -> None:
    """A process that was suspended for an hour reports no silence."""
    plant = Plant()
    plant.run(HOUR)
    plant.clock.sleep(HOUR)
    assert plant.run(HOUR) == []


def test_a_total_silence_is_one_event_and_devices_have_their_time_after_it() -> None:
    """A total silence is a single event although the broker is connected.

    Each device has its time after it.
    """
    plant = Plant()
    plant.run(HOUR)
    events = (
        plant.run(HOUR, ALL) + plant.run(240.0, frozenset({"press-1", "press-2"})) + plant.run(HOUR)
    )
    assert [event.kind for event in events] == ["stream_silent", "stream_back"]


def test_a_state_that_cannot_be_written_is_waited_for() -> None:
    """The silence is published once the state can be written."""
    plant = Plant()
    plant.run(HOUR)
    whole = plant.state.post

    def full(*_: object) -> list[Outgoing]:
        raise StateUnwritable

    plant.state.post = full  # type: ignore[method-assign, assignment]
    with capture_logs() as logs:
        assert plant.run(HOUR, frozenset({"press-1"})) == []
    assert {line["action"] for line in logs} == {"alerts_unwritable"}
    plant.state.post = whole  # type: ignore[method-assign]
    assert [event.kind for event in plant.run(60.0, frozenset({"press-1"}))] == ["device_silent"]


def test_what_is_learnt_is_kept_from_time_to_time() -> None:
    """A crash costs ten minutes of the habits learnt, not all."""
    plant = Plant()
    plant.run(HOUR)
    keys, cadence = plant.store.cadences()
    assert set(keys) == {*KEYS, ("", "")}
    assert cadence.pauses.min() > 500
