"""Silence: usual pauses are learnt, and an unusual pause is reported once.

No device counts as silent while the daemon is disconnected.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.core.notification.cadence import Cadence, Patience, learnt, limits
from insa_anomaly.core.notification.silence import Silence, Silent

PATIENCE = Patience()
HOUR, DAY = 3600.0, 86_400.0


def learnt_from(pauses: list[float], patience: Patience = PATIENCE) -> Cadence:
    """Return the cadence of a series with these pauses."""
    cadence = Cadence.unknown(1)
    for pause in pauses:
        cadence = learnt(cadence, np.array([pause]), patience.device_seconds, patience)
    return cadence


def limit(pauses: list[float]) -> float:
    """Return the seconds after which a series with these pauses is overdue."""
    return float(limits(learnt_from(pauses), PATIENCE.device_seconds, PATIENCE)[0])


# --------------------------------------------------------------------------------------------- laws
@given(pauses=st.lists(st.floats(0.0, DAY), min_size=1, max_size=60))
def test_law_a_habit_is_never_late(pauses: list[float]) -> None:
    """A pause within the limit is within the limit again right afterwards."""
    cadence = Cadence.unknown(1)
    for pause in pauses:
        before = float(limits(cadence, PATIENCE.device_seconds, PATIENCE)[0])
        cadence = learnt(cadence, np.array([pause]), PATIENCE.device_seconds, PATIENCE)
        if pause <= before:
            assert float(limits(cadence, PATIENCE.device_seconds, PATIENCE)[0]) >= pause


@given(pauses=st.lists(st.floats(0.0, DAY), min_size=2, max_size=60), cut=st.integers(1, 59))
def test_law_series_do_not_mix(pauses: list[float], cut: int) -> None:
    """Learning many series together equals learning each alone."""
    mine, other = learnt_from(pauses), learnt_from(pauses[:cut])
    both = Cadence(
        *(np.concatenate(pair) for pair in zip(columns(mine), columns(other), strict=True))
    )
    after = learnt(both, np.array([7.0, 9.0]), 300.0, PATIENCE)
    alone = learnt(other, np.array([9.0]), 300.0, PATIENCE)
    assert [column[1] for column in columns(after)] == [column[0] for column in columns(alone)]


def columns(cadence: Cadence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the three columns of a cadence."""
    return cadence.longest, cadence.pauses, cadence.span


@given(
    st.lists(
        st.tuples(st.floats(0.5, 2000.0), st.sets(st.integers(0, 7)), st.booleans()), max_size=80
    )
)
def test_law_whoever_is_silent_was_known_and_is_told_with_a_reason(
    steps: list[tuple[float, set[int], bool]],
) -> None:
    """A device that has just reported is not silent, and every new silence has a text."""
    plant = Plant(4, 2)
    was: Silent = {}
    for pause, heard, listening in steps:
        plant.now += pause
        numbers = np.array(sorted(heard), np.int64)
        plant.silence.hear(numbers, plant.now)
        found = plant.silence.look(was, plant.now, listening=listening)
        assert all(text for name, (_, text) in found.items() if name not in was)
        if listening and numbers.size:
            spoke = {f"press-{number // 2}" for number in numbers.tolist()}
            assert not spoke & (found.keys() - was.keys())
        was = found


# -------------------------------------------------------------------------------------------- cases
def test_a_steady_series_is_missed_soon() -> None:
    """A series with a reading a second is overdue after 300 s, once twenty readings are learnt."""
    assert limit([1.0] * 19) == np.inf
    assert limit([1.0] * 20) == 300.0


def test_a_machine_that_rests_is_not_missed_on_sunday() -> None:
    """A week of nightly rests allows a longer rest on Sunday."""
    assert limit(([10.0] * 5000 + [10 * HOUR]) * 7) > 20 * HOUR


def test_a_long_pause_fades() -> None:
    """A long pause is unusual again after enough steady work."""
    assert limit([60.0] * 1000 + [500.0] + [3600.0] * 1) >= 1500.0
    busy = [60.0] * 1440 * 60
    assert limit([60.0] * 100 + [600.0] + busy[:30_000]) < 1000.0


def test_an_accident_is_not_learnt_and_a_habit_is() -> None:
    """A single long silence at most triples the limit; several long silences become usual."""
    steady = [1.0] * 5000
    assert limit([*steady, 10 * HOUR]) <= 3 * 300.0
    assert limit(steady + ([10 * HOUR] + [1.0] * 100) * 5) > 10 * HOUR


@dataclass
class Plant:
    """Devices whose series report every ten seconds, and the silence detection over them."""

    devices: int
    series: int = 1
    now: float = 0.0
    was: Silent = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.silence = Silence(PATIENCE, self.now)
        names = [f"press-{number // self.series}" for number in range(self.devices * self.series)]
        self.silence.admit(names, Cadence.unknown(len(names)), self.now)

    def run(
        self, seconds: float, dead: AbstractSet[int] = frozenset(), *, listening: bool = True
    ) -> list[tuple[float, str | None, str]]:
        """Advance time in steps of 10 s, and return the changes with their times."""
        changes: list[tuple[float, str | None, str]] = []
        began = self.now
        while self.now < began + seconds:
            self.now += 10.0
            alive = [
                number
                for number in range(self.devices * self.series)
                if number // self.series not in dead and listening
            ]
            self.silence.hear(np.array(alive, np.int64), self.now)
            found = self.silence.look(self.was, self.now, listening=listening)
            changes += [
                (self.now - began, name, "silent") for name in found if name not in self.was
            ]
            changes += [(self.now - began, name, "back") for name in self.was if name not in found]
            self.was = found
        return changes


def test_a_device_that_falls_silent_is_told_once_and_so_is_its_return() -> None:
    """A silent device and its return are each reported once.

    The report comes after six minutes: five, and a moment to see whether other devices follow.
    """
    plant = Plant(10, 3)
    assert plant.run(HOUR) == []
    ((after, name, change),) = plant.run(HOUR, {4})
    assert (name, change) == ("press-4", "silent")
    assert 300.0 < after <= 370.0
    ((after, name, change),) = plant.run(HOUR)
    assert (after, name, change) == (10.0, "press-4", "back")


def test_when_all_fall_silent_it_is_the_stream() -> None:
    """The silence of all devices is a single event of the stream, after a minute.

    The return is a single event too, though the devices return at different times.
    """
    plant = Plant(10)
    plant.run(HOUR)
    ((after, name, change),) = plant.run(HOUR, set(range(10)))
    assert (name, change) == (None, "silent")
    assert 60.0 < after <= 80.0
    # Device 1 keeps its usual time to follow the others.
    assert plant.run(200.0, {1}) == [(10.0, None, "back")]
    assert [(name, change) for _, name, change in plant.run(HOUR, {1})] == [("press-1", "silent")]


def test_a_plant_that_rests_every_night_is_not_told_for_ever() -> None:
    """A week of nightly rests makes them usual for the stream and for its devices."""
    plant = Plant(5)
    nights = []
    for _ in range(8):
        plant.run(4 * HOUR)
        nights.append(len(plant.run(8 * HOUR, set(range(5)))))
    assert nights[0] == 1
    assert nights[-1] == 0


def test_where_half_of_the_plant_falls_silent_it_is_the_stream_too() -> None:
    """The silence of six of ten devices is a single event of the stream, and so is the return."""
    plant = Plant(10)
    plant.run(HOUR)
    assert [(name, change) for _, name, change in plant.run(HOUR, {0, 1, 2, 3, 4, 5})] == [
        (None, "silent")
    ]
    assert [(name, change) for _, name, change in plant.run(HOUR)] == [(None, "back")]


def test_two_devices_of_two_are_two() -> None:
    """A silent device in a plant of two is an event of the device, because a stream needs three."""
    plant = Plant(2)
    plant.run(HOUR)
    assert [(name, change) for _, name, change in plant.run(HOUR, {0})] == [("press-0", "silent")]


def test_an_outage_of_the_broker_is_one_word() -> None:
    """An outage of the broker is a single event; pauses of devices count from its end on."""
    plant = Plant(100)
    plant.run(HOUR)
    ((after, name, _),) = plant.run(2 * DAY, listening=False)
    assert name is None
    assert 60.0 < after <= 80.0
    assert plant.run(HOUR) == [(10.0, None, "back")]


def test_a_short_outage_is_none() -> None:
    """An outage of 40 s leads to no event."""
    plant = Plant(100)
    plant.run(HOUR)
    assert plant.run(40.0, listening=False) == []
    assert plant.run(HOUR) == []


def test_who_was_silent_stays_so_through_an_outage() -> None:
    """A device silent before an outage is neither reported again nor back because of it."""
    plant = Plant(10)
    plant.run(HOUR)
    plant.run(HOUR, {3})
    changes = plant.run(HOUR, {3}, listening=False) + plant.run(HOUR, {3})
    assert [(name, change) for _, name, change in changes] == [(None, "silent"), (None, "back")]
    assert [(name, change) for _, name, change in plant.run(HOUR)] == [("press-3", "back")]


def test_a_start_gives_everybody_time() -> None:
    """A device that died before a restart is reported after its full time."""
    before = Plant(10)
    before.run(HOUR)
    after = Plant(10, now=0.0)
    after.silence = Silence(PATIENCE, 0.0)
    after.silence.admit([f"press-{number}" for number in range(10)], before.silence.series, 0.0)
    after.silence.stream = before.silence.stream
    ((seconds, name, _),) = after.run(HOUR, {7})
    assert name == "press-7"
    assert 300.0 < seconds <= 370.0


def test_a_start_into_silence_is_one_word() -> None:
    """Silence after a start is a single event; after its end each device has its full time."""
    before, after = Plant(10), Plant(10)
    before.run(HOUR)
    after.silence = Silence(PATIENCE, 0.0)
    after.silence.admit([f"press-{number}" for number in range(10)], before.silence.series, 0.0)
    after.silence.stream = before.silence.stream
    assert [name for _, name, _ in after.run(2 * HOUR, set(range(10)))] == [None]
    assert after.run(300.0, set(range(3))) == [(10.0, None, "back")]
    assert after.run(HOUR) == []


def test_a_sensor_that_dies_does_not_silence_its_device() -> None:
    """A device whose busiest series stops is alive while another series reports."""
    silence = Silence(PATIENCE, 0.0)
    silence.admit(["press-1", "press-1", "press-2"], Cadence.unknown(3), 0.0)
    was: Silent = {}
    told = []
    for second in range(0, 100_000, 10):
        fast = [0] if second < 50_000 else []
        slow = [1] if second % 2000 == 0 else []
        silence.hear(np.array([*fast, *slow, 2], np.int64), float(second))
        found = silence.look(was, float(second), listening=True)
        told += [name for name in found if name not in was]
        was = found
    assert told.count("press-1") <= 1
    assert was == {}
