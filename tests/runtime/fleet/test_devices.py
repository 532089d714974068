"""Devices in the score reader: their results are a function of the log alone.

While a device episode is open, its metrics open none.
"""

from collections.abc import Sequence
from functools import cache

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.notification.event import NO_MODEL, Event, episode_id
from insa_anomaly.core.reading.series_key import DEVICE_METRIC
from insa_anomaly.errors import StateUnwritable
from insa_anomaly.ports.log import Swap
from insa_anomaly.ports.state import Outgoing
from insa_anomaly.testing.log import MemoryLog
from insa_anomaly.testing.models import MemoryModels
from tests.runtime.device_streams import (
    PUMP,
    device_model,
    device_row,
    device_stream,
    device_swap,
    shelf,
)
from tests.runtime.streams import Message, Stream, message, swap
from tests.runtime.world import Outcome, World

PUMPS = tuple(f"pump-{i}" for i in range(5))


def scored(log: MemoryLog) -> Outcome:
    """Score the log with an undisturbed reader."""
    return World(log, shelf=shelf()).outcome()


@cache
def expected(seed: int) -> Outcome:
    """Score a stream in the fewest possible entries."""
    return scored(device_stream(seed, 200).log(set()))


def told(outgoing: Sequence[Outgoing]) -> list[Event]:
    """Return the events."""
    return [msgspec.json.decode(one.payload, type=Event) for one in outgoing]


# -------------------------------------------------------------------------------- laws
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 5), st.sets(st.integers(0, 400), max_size=60))
def test_chunking_changes_nothing(seed: int, cuts: set[int]) -> None:
    """Other entries with the same messages yield the same anomalies, episodes and events.

    The states are the same to the bit.
    """
    assert scored(device_stream(seed, 200).log(cuts)) == expected(seed)


def test_an_entry_for_every_message_changes_nothing() -> None:
    """An entry for every message is the finest chunking."""
    assert scored(device_stream(3, 200).log(set(range(1000)))) == expected(3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5), st.sets(st.integers(0, 400), max_size=60), st.data())
def test_a_restart_anywhere_is_invisible(seed: int, cuts: set[int], data: st.DataObject) -> None:
    """A reader restarted after any entry yields the same to the bit, and no result twice.

    The restart may happen with or without a checkpoint.
    """
    world = World(shelf=shelf())
    for entry in device_stream(seed, 200).entries(cuts):
        world.take(entry.messages, entry.swaps)
        for happening in data.draw(
            st.lists(st.sampled_from(["step", "keep", "start"]), max_size=3)
        ):
            {
                "step": lambda: world.score.step(0.0),
                "keep": world.score.write_checkpoint,
                "start": world.start,
            }[happening]()
    assert world.outcome() == expected(seed)


@cache
def fleet_stream(seed: int) -> Stream:
    """Build a stream of five pumps that each send most seconds, the faulty pump in turn.

    Two models have a third metric, and a pump gets another model.
    """
    random = np.random.default_rng(seed)
    messages, swaps = (
        list[Message](),
        {0: [Swap(pump, DEVICE_METRIC, device_model(i % 2).id) for i, pump in enumerate(PUMPS)]},
    )
    for second in range(-70, 70):
        for pump in PUMPS:
            faulty = pump == PUMPS[second // 14 % len(PUMPS)] and second >= 0
            values = {
                name: 10 + float(random.normal()) + 9.0 * (faulty and name == "a") for name in "abc"
            }
            kind = random.random()
            messages += [message(pump, second, values)] if kind < 0.9 else []
            messages += [message(pump, second - 5, values)] if kind > 0.97 else []
        if second == 30:
            swaps[len(messages)] = [Swap(PUMPS[0], DEVICE_METRIC, device_model(2).id)]
    return Stream(messages, swaps)


def fleet_outcome(seed: int, cuts: set[int]) -> Outcome:
    """Score the stream of the five pumps."""
    return World(fleet_stream(seed).log(cuts), shelf=shelf(), capacity=30).outcome()


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 3), st.sets(st.integers(0, 700), max_size=30))
def test_rows_of_many_devices_at_once_are_those_of_one_after_another(
    seed: int, cuts: set[int]
) -> None:
    """Batches with messages of several devices yield the same to the bit as single messages."""
    assert fleet_outcome(seed, cuts) == fleet_outcome(seed, set(range(700)))


def test_the_streams_are_worth_it() -> None:
    """The streams have episodes of devices and of metrics that open and close.

    Anomalies of metrics belong to either.
    """
    outcomes = [expected(seed) for seed in range(6)]
    events = [event for outcome in outcomes for event in told(outcome[2])]
    assert {(event.metric_name, event.kind) for event in events} >= {
        (DEVICE_METRIC, "opened"),
        (DEVICE_METRIC, "closed"),
        ("a", "opened"),
        ("a", "closed"),
    }
    anomalies = [anomaly for outcome in outcomes for anomaly in outcome[0]]
    devices = {anomaly.episode_id for anomaly in anomalies if anomaly.metric_name == DEVICE_METRIC}
    assert any(
        anomaly.metric_name == "a" and anomaly.episode_id in devices - {None}
        for anomaly in anomalies
    )
    assert (
        len({anomaly.model_id for anomaly in anomalies if anomaly.metric_name == DEVICE_METRIC}) > 1
    )


# ------------------------------------------------------------------------------- cases
def rows(places: range, faults: range = range(0), size: float = 9.0) -> list[Message]:
    """Build a message a second with a and b; a is off by `size` in `faults`."""
    wobble = [(i * 37 % 11 - 5) / 5 for i in places]
    return [
        message("pump", i, {"a": 10 + w + size * (i in faults), "b": 10 - w})
        for i, w in zip(places, wobble, strict=True)
    ]


def test_a_device_episode_is_told_like_any_other() -> None:
    """A row of a device episode carries the value of the metric with the largest share.

    The shares are the reasons.
    """
    world = World(shelf=shelf())
    world.take(rows(range(200), range(100, 140)), [device_swap(0)])
    anomalies, episodes, outgoing, _ = world.outcome()
    kinds = [(event.kind, event.device_id, event.metric_name) for event in told(outgoing)]
    assert kinds[0] == ("opened", *PUMP)
    assert kinds[-1] == ("closed", *PUMP)
    first = anomalies[0]
    assert (first.model_id, first.model_version, first.metric_name) == (
        device_model(0).id,
        1,
        DEVICE_METRIC,
    )
    assert first.value > 15
    assert first.reasons[0].feature == "a"
    assert first.reasons[0].share > 0.5
    assert first.upper < first.value
    assert {anomaly.episode_id for anomaly in anomalies if anomaly.episode_id} == {episodes[0].id}
    assert episodes[0].id == episode_id(*PUMP, episodes[0].started_at)
    assert len({anomaly.id for anomaly in anomalies}) == len(anomalies)


def test_while_a_device_episode_is_open_its_metrics_open_none() -> None:
    """Anomalies of the metrics are recorded in the device's episode, and open none of their own.

    Once the device episode is closed, metrics open episodes again.
    """
    alone, together = World(shelf=shelf()), World(shelf=shelf())
    messages = rows(range(300), range(100, 140))
    # after the device episode has opened, and after it has closed
    for second in (*range(120, 124), *range(250, 254)):
        messages[second] = message("pump", second, {"a": 10.0, "b": 400.0})
    alone.take(messages, [swap(0), swap(1)])
    together.take(messages, [swap(0), swap(1), device_swap(0)])
    anomalies, _, outgoing, _ = together.outcome()
    of_device = [event for event in told(outgoing) if event.metric_name == DEVICE_METRIC]
    first, closed = of_device[0], next(event for event in of_device if event.kind == "closed")
    opened_alone, opened = (
        [one for one in told(world.outcome()[2]) if one.kind == "opened"]
        for world in (alone, together)
    )
    assert next(one.timestamp for one in opened_alone if one.metric_name == "b") < closed.timestamp
    assert not [
        one
        for one in opened
        if one.metric_name == "b" and first.timestamp <= one.timestamp < closed.timestamp
    ]
    assert [one for one in opened if one.metric_name == "b" and one.timestamp > closed.timestamp]
    assert [
        anomaly
        for anomaly in anomalies
        if anomaly.metric_name == "b" and anomaly.episode_id == first.episode_id
    ]


def test_a_metric_that_is_already_told_goes_on() -> None:
    """An episode that a metric opened before the device's stays its own, and closes."""
    world = World(shelf=shelf())
    messages = rows(range(200), range(100, 140), size=40.0)
    world.take(messages, [swap(0), swap(1), device_swap(0)])
    events = [(event.metric_name, event.kind) for event in told(world.outcome()[2])]
    assert events.index(("a", "opened")) < events.index((DEVICE_METRIC, "opened"))
    assert ("a", "closed") in events


def test_a_device_whose_model_is_taken_away_still_closes() -> None:
    """The closing event has no model and no expected value."""
    world = World(shelf=shelf())
    world.take(rows(range(120), range(100, 120)), [device_swap(0)])
    world.take(rows(range(120, 150)), [Swap(*PUMP, None)])
    _, _, outgoing, kept = world.outcome()
    closed = told(outgoing)[-1]
    assert (closed.kind, closed.metric_name, closed.model_id, closed.expected) == (
        "closed",
        DEVICE_METRIC,
        NO_MODEL,
        None,
    )
    assert PUMP in kept
    world.start()
    assert world.fleet.devices.models == {}


def test_a_model_that_cannot_be_loaded_leaves_the_device_without() -> None:
    """A device whose model cannot be loaded continues without, at the swap and at a start."""
    models = MemoryModels()
    models.put(device_row(0), b"not a model")
    world = World(shelf=models)
    world.take(rows(range(80)), [device_swap(0)])
    assert world.outcome()[0] == []
    assert world.fleet.devices.models == {}
    models.put(device_row(0), device_model(0).to_bytes())
    world.take(rows(range(80, 90)), [device_swap(0)])
    world.score.drain()
    assert world.fleet.devices.models == {PUMP: device_model(0).id}
    models.lost.add(device_model(0).id)
    world.start()
    assert world.fleet.devices.models == {}
    assert len(world.fleet.devices) == 1


def test_a_device_asks_for_its_refit() -> None:
    """A device asks for its refit at the step of its model."""
    world = World(shelf=shelf())
    world.take(rows(range(100)), [device_swap(0)])
    world.score.drain()
    assert world.audience.asked.count(PUMP) == 1
    assert device_model(0).refit_step == 40


def test_historical_rows_are_told_as_such() -> None:
    """A row is historical if its first reading is."""
    world = World(shelf=shelf())
    world.take(rows(range(-2000, -1800), range(-1900, -1880)), [device_swap(0)])
    anomalies, episodes, outgoing, _ = world.outcome()
    assert {anomaly.historical for anomaly in anomalies} == {True}
    assert {episode.historical for episode in episodes} == {True}
    assert {event.historical for event in told(outgoing)} == {True}


def test_without_a_device_model_nothing_is_kept_of_devices() -> None:
    """Neither states nor rows of devices are stored without a device model."""
    world = World(shelf=shelf())
    world.take(rows(range(100)), [swap(0)])
    assert PUMP not in world.outcome()[3]
    assert len(world.fleet.devices) == 0


def test_a_device_that_finds_no_room_goes_without() -> None:
    """Series and devices share the places, and the log decides the order."""
    world = World(shelf=shelf(), capacity=2)
    world.take(rows(range(100)))
    world.take(rows(range(100, 200), range(150, 180)), [device_swap(0)])
    assert world.outcome()[0] == []
    assert world.fleet.series == 2
    roomy = World(shelf=shelf(), capacity=3)
    roomy.take(rows(range(100)))
    roomy.take(rows(range(100, 200), range(150, 180)), [device_swap(0)])
    assert roomy.outcome()[0]
    assert roomy.fleet.series == 2


def test_a_refused_checkpoint_loses_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose checkpoint the disk refused is in the next checkpoint, with its window."""

    def full(*_: object) -> None:
        raise StateUnwritable

    world, plain = World(shelf=shelf()), World(shelf=shelf())
    for one in (world, plain):
        one.take(rows(range(80)), [device_swap(0)])
        one.score.step(0.0)
    with monkeypatch.context() as disk:
        disk.setattr(world.state, "checkpoint", full)
        with pytest.raises(StateUnwritable):
            world.score.write_checkpoint()
    world.score.write_checkpoint()
    assert world.state.restore()[1] == plain.outcome()[3]
    world.start()
