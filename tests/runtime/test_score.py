"""The score reader: its results are a function of the log alone.

Chunks and restarts change no result.
"""

from collections.abc import Sequence
from functools import cache
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.event import NO_MODEL, Event, episode_id
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import StateBroken, StateUnwritable
from insa_anomaly.instrumentation.metrics import REGISTRY
from insa_anomaly.ports.log import Swap
from insa_anomaly.ports.state import Outgoing
from insa_anomaly.runtime.detections import Detections
from insa_anomaly.runtime.fleet.fleet import Fleet
from insa_anomaly.runtime.fleet.registry import Registry
from insa_anomaly.runtime.score import ANOMALY_TOPIC, ScoreReader
from insa_anomaly.testing.log import MemoryLog
from insa_anomaly.testing.state import MemoryState
from tests.runtime.streams import (
    NOW,
    PARAMETERS,
    POLICY,
    SECOND,
    SERIES,
    Message,
    message,
    model,
    model_row,
    models,
    removal,
    stream,
    swap,
)
from tests.runtime.world import EVERYTHING, SHELF, Outcome, World


def scored(log: MemoryLog) -> Outcome:
    """Score the log with an undisturbed reader."""
    return World(log).outcome()


@cache
def expected(seed: int, length: int = 200) -> Outcome:
    """Score a stream in the fewest possible entries."""
    return scored(stream(seed, length).log(set()))


def told(outgoing: Sequence[Outgoing]) -> list[Event]:
    """Return the events."""
    return [msgspec.json.decode(one.payload, type=Event) for one in outgoing]


# -------------------------------------------------------------------------------- laws
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9), st.sets(st.integers(0, 410), max_size=60))
def test_chunking_changes_nothing(seed: int, cuts: set[int]) -> None:
    """Other entries with the same messages yield the same anomalies, episodes and events.

    The states are the same to the bit.
    """
    assert scored(stream(seed, 200).log(cuts)) == expected(seed)


def test_an_entry_for_every_message_changes_nothing() -> None:
    """An entry for every message is the finest chunking."""
    assert scored(stream(3, 200).log(set(range(1000)))) == expected(3)


def test_the_streams_are_worth_it() -> None:
    """The streams have all transitions, anomalies in and out of episodes, and several models."""
    outcomes = [expected(seed) for seed in range(10)]
    events = [event for outcome in outcomes for event in told(outcome[2])]
    anomalies = [anomaly for outcome in outcomes for anomaly in outcome[0]]
    assert {event.kind for event in events} == {"opened", "worsened", "closed"}
    assert {anomaly.episode_id is None for anomaly in anomalies} == {True, False}
    assert len({anomaly.model_id for anomaly in anomalies}) > 3
    assert min(len(outcome[0]) for outcome in outcomes) > 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.sets(st.integers(0, 410), max_size=60), st.data())
def test_a_restart_anywhere_is_invisible(seed: int, cuts: set[int], data: st.DataObject) -> None:
    """A reader restarted after any entry yields the same to the bit, and no result twice.

    The restart may happen with or without a checkpoint.
    """
    world = World()
    for entry in stream(seed, 200).entries(cuts):
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


class Unsafe(MemoryState):
    """A state whose next commit fails on request, before it is done or after."""

    fails = ""

    def commit(
        self, seq: int, results: bytes | None, events: Sequence[tuple[str, bytes]]
    ) -> list[Outgoing]:
        """Commit, or fail first, or fail afterwards."""
        fails, self.fails = self.fails, ""
        outgoing = [] if fails == "before" else super().commit(seq, results, events)
        if fails:
            raise StateBroken
        return outgoing


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9), st.sets(st.integers(0, 410), min_size=1, max_size=30), st.data())
def test_a_commit_that_fails_or_seems_to_is_made_good_by_a_restart(
    seed: int, cuts: set[int], data: st.DataObject
) -> None:
    """The next start recognises whether a failed commit was written.

    No result is written twice, and none is missing.
    """
    state = Unsafe()
    world = World(state=state)
    for entry in stream(seed, 200).entries(cuts):
        world.take(entry.messages, entry.swaps)
        state.fails = data.draw(st.sampled_from(["", "", "before", "after"]))
        if state.fails:
            with pytest.raises(StateBroken):
                world.score.step(0.0)
            world.start()
    assert world.outcome() == expected(seed)


class Full(MemoryState):
    """A state on a disk that a test can make full."""

    full = False

    def commit(
        self, seq: int, results: bytes | None, events: Sequence[tuple[str, bytes]]
    ) -> list[Outgoing]:
        """Commit, where there is room."""
        self._room()
        return super().commit(seq, results, events)

    def checkpoint(self, seq: int, states: dict[SeriesKey, bytes]) -> None:
        """Store the states, where there is room."""
        self._room()
        super().checkpoint(seq, states)

    def _room(self) -> None:
        if self.full:
            raise StateUnwritable


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9), st.sets(st.integers(0, 410), min_size=1, max_size=30), st.data())
def test_a_full_disk_is_waited_out(seed: int, cuts: set[int], data: st.DataObject) -> None:
    """No reading is scored twice and none is missing, however often the disk is full.

    The same holds if the reader is restarted meanwhile.
    """
    state = Full()
    world = World(state=state)
    world.score._next_checkpoint = 0.0
    for entry in stream(seed, 200).entries(cuts):
        world.take(entry.messages, entry.swaps)
        state.full = data.draw(st.booleans())
        for _ in range(data.draw(st.integers(0, 2))):
            world.score.step(0.0)
            assert world.score.writable != state.full
        if data.draw(st.integers(0, 9)) == 0:
            world.start()
            world.score._next_checkpoint = 0.0
    state.full = False
    assert world.outcome() == expected(seed)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.sets(st.integers(0, 410), max_size=20), st.integers(1, 6))
def test_a_full_house_is_decided_by_the_log(seed: int, cuts: set[int], capacity: int) -> None:
    """The series admitted at full capacity do not depend on chunks or restarts."""
    plain = World(stream(seed, 200).log(set()), capacity=capacity).outcome()
    world = World(capacity=capacity)
    for entry in stream(seed, 200).entries(cuts):
        world.take(entry.messages, entry.swaps)
        world.score.step(0.0)
        world.score.write_checkpoint()
        world.start()
    assert world.outcome() == plain
    assert len(plain[3]) <= capacity


def test_time_is_the_logs() -> None:
    """A message without a timestamp has its receive time, however late it is read again."""
    world = World()
    world.take([("insa/iiot/telemetry/pump", b'{"a": 1}')])
    assert world.outcome()[3].keys() == {("pump", "a")}
    state = world.state.restore()[1][SeriesKey("pump", "a")]
    world.state = MemoryState()
    world.start()
    assert world.outcome()[3][SeriesKey("pump", "a")] == state


# ------------------------------------------------------------------------------ models
def faulty(places: range, faults: range, device_id: str = "pump") -> list[Message]:
    """Build a message a second with the metric a, far off in `faults`."""
    return [
        message(device_id, i, {"a": 60.0 if i in faults else 10 + (i * 37 % 11 - 5) / 5})
        for i in places
    ]


def test_a_model_takes_over_exactly_where_the_log_says() -> None:
    """Readings before a swap belong to the old model, and readings of its entry to the new model.

    Readings after a removal belong to no model.
    """
    world = World()
    world.take(faulty(range(100), range(0)), [swap(0)])
    world.take(faulty(range(100, 110), range(100, 110)))
    world.take(faulty(range(110, 120), range(110, 120)), [swap(3)])
    world.take(faulty(range(120, 130), range(120, 130)), [removal(3)])
    anomalies, _, _, states = world.outcome()
    found = [
        (anomaly.model_id, anomaly.model_version, (anomaly.timestamp - NOW) // SECOND)
        for anomaly in anomalies
    ]
    assert found == [(model(0).id, 1, i) for i in range(100, 110)] + [
        (model(3).id, 4, i) for i in range(110, 120)
    ]
    assert msgspec.msgpack.decode(states[SeriesKey("pump", "a")])[0] is None


def test_a_model_that_cannot_be_loaded_leaves_its_series_without() -> None:
    """A series whose model cannot be loaded continues unscored, and all others scored.

    A restart meets the same model without harm.
    """
    shelf = models(3)
    shelf.lost.add(model(0).id)
    world = World(shelf=shelf)
    world.take(faulty(range(70), range(0)), [swap(0), swap(2), Swap("pump", "b", "never heard of")])
    world.take(faulty(range(70, 80), range(70, 80)))
    world.score.step(0.0)
    world.score.write_checkpoint()
    world.start()
    world.take([message("fan", i, {"a": 10.0 if i < 65 else 90.0}) for i in range(70)])
    anomalies = world.outcome()[0]
    assert {(anomaly.device_id, anomaly.metric_name) for anomaly in anomalies} == {SERIES[2]}


def test_a_model_that_fails_its_check_gives_way_to_the_one_before_it() -> None:
    """The index returns to the version before, at the swap.

    A disk that only refuses for a moment changes no version.
    """
    shelf = models(6)
    for number in (0, 3):
        shelf.put(model_row(number, "active"), shelf.scorer(model(number).id))
    shelf.lost.add(model(3).id)
    world = World(shelf=shelf)
    world.take(faulty(range(10), range(0)), [swap(3)])
    world.score.step(0.0)
    assert shelf.active() == {SERIES[0]: model(0).id}
    assert shelf.row(model(3).id).status == "failed"

    shelf.away = True
    world.take(faulty(range(10, 20), range(0)), [swap(0)])
    world.score.step(0.0)
    assert shelf.active() == {SERIES[0]: model(0).id}


def test_lost_states_take_up_the_active_models() -> None:
    """If the states were lost, the log is scored again by the active models.

    The swaps may be long gone from the log.
    """
    shelf = models(3)
    shelf.put(model_row(0, "active"), shelf.scorer(model(0).id))
    log = MemoryLog()
    log.append(faulty(range(80), range(70, 80)), [], NOW)
    world = World(log, shelf=shelf)
    world.state.bind(log.id)
    world.score.adopt_active_models()
    world.score.restore()
    assert world.state.restore()[1].keys() == {SERIES[0]}
    assert {one.model_id for one in world.outcome()[0]} == {model(0).id}


def test_a_model_with_more_trees_than_there_is_room_for_is_one_that_cannot_be_loaded() -> None:
    """A configuration with fewer trees than a stored model ends neither the swap nor the start."""
    world = World()
    world.fleet = Fleet(Registry(2), Parameters(n_estimators=4), POLICY)
    world.score = ScoreReader(
        world.feed, world.state, world.fleet, SHELF, world.audience, clock=world.clock
    )
    world.take(faulty(range(80), range(70, 80)), [swap(0)])
    assert world.outcome()[0] == []
    assert world.fleet.model == {}


def test_a_checkpoint_with_more_series_than_there_is_room_for_keeps_those_that_fit() -> None:
    """A smaller `models.max_bytes` than before costs series, not the start.

    No series gets the state of another.
    """
    world = World()
    world.take(
        [
            message(device, i, {metric: i + j})
            for i in range(3)
            for j, (device, metric) in enumerate(SERIES)
        ],
        [swap(0), swap(1)],
    )
    before = world.outcome()[3]
    world.capacity = 2
    world.start()
    world.fleet._moved[:] = True
    kept = world.fleet.moved()
    assert len(kept) == 2
    assert all(before[key] == state for key, state in kept.items())


# ------------------------------------------------------------------------------ events
def test_every_transition_is_an_event_on_its_devices_topic() -> None:
    """An event of an episode that opens, lasts and closes carries reading, episode and reasons."""
    world = World()
    world.take(faulty(range(100), range(0)), [swap(0)])
    world.take(faulty(range(100, 200), range(100, 105)))
    anomalies, episodes, outgoing, _ = world.outcome()
    events = told(outgoing)
    assert {one.topic for one in outgoing} == {ANOMALY_TOPIC + "pump"}
    assert [event.kind for event in events][:: len(events) - 1] == ["opened", "closed"]
    assert len({event.event_id for event in events}) == len(events)
    assert {event.episode_id for event in events} == {episode_id("pump", "a", NOW + 100 * SECOND)}
    first = anomalies[0]
    assert (events[0].value, events[0].score, events[0].expected) == (
        first.value,
        first.score,
        first.expected,
    )
    assert events[0].reasons == first.reasons != []
    assert [episode.closed_at is None for episode in episodes] == [True] * (len(episodes) - 1) + [
        False
    ]
    assert episodes[-1].readings == len(anomalies)
    assert episodes[-1].peak_confidence == max(anomaly.confidence for anomaly in anomalies)


def test_what_a_reading_without_a_score_closes_can_be_told_and_recorded() -> None:
    """An episode whose model is gone, or whose window began anew, still closes.

    Its ids are valid ids, and the expected value is null where there is none.
    """
    world = World()
    world.take(faulty(range(110), range(100, 110)), [swap(0)])
    world.take(faulty(range(110, 120), range(0)), [removal(0)])
    world.take(faulty(range(-1000, -900), range(-905, -900), "fan"), [swap(2)])
    world.take(faulty(range(10), range(0), "fan"))
    _, episodes, outgoing, _ = world.outcome()
    closed = [event for event in told(outgoing) if event.kind == "closed"]
    assert [
        (event.device_id, event.model_id, event.expected, event.lower, event.upper)
        for event in closed
    ] == [("pump", NO_MODEL, None, None, None), ("fan", model(2).id, None, None, None)]
    assert {str(UUID(episode.model_id)) for episode in episodes} == {
        NO_MODEL,
        model(0).id,
        model(2).id,
    }
    assert [str(UUID(episode.id)) for episode in episodes if episode.closed_at] == [
        event.episode_id for event in closed
    ]


def test_the_audience_is_told_once_and_after_the_commit() -> None:
    """The audience receives every committed event and every scored reading once.

    A reading that is scored again after a restart is not handed on.
    """
    world = World()
    for entry in stream(2, 200).entries({250, 300, 350}):
        world.take(entry.messages, entry.swaps)
    world.score.drain()
    assert world.audience.told == world.state.outgoing(0, EVERYTHING)
    assert world.audience.scored == sum(len(batch) for batch in world.feed.read(0, EVERYTHING))
    world.state.checkpoint(0, {})
    world.start()
    assert (world.audience.told, world.audience.scored, world.audience.asked) == ([], 0, [])


def test_a_series_without_a_model_asks_for_training() -> None:
    """A series asks for training once it has enough readings, and again after as many more."""
    world = World()
    asked = []
    for i in range(120):
        world.take([message("pump", i, {"a": i % 7})])
        world.score.step(0.0)
        asked += [i] * len(world.audience.asked)
        world.audience.asked.clear()
    assert asked == [PARAMETERS.first_fit_readings - 1, 79, 109]


# -------------------------------------------------------------------------- checkpoints
def test_states_are_kept_as_often_as_was_said() -> None:
    """A step checkpoints once its time has come; the sequence is the last entry's."""
    world = World()
    score = ScoreReader(
        world.feed,
        world.state,
        world.fleet,
        SHELF,
        world.audience,
        clock=world.clock,
        checkpoint_seconds=10.0,
    )
    for seq in (1, 2, 3):
        world.take([message("pump", seq, {"a": 1.0})])
        world.clock.sleep(10.0)
        score.step(0.0)
        assert score.checkpoint == world.state.restore()[0] == seq


def test_states_are_kept_no_oftener_than_was_said() -> None:
    """A checkpoint waits for its time since the last, because checkpoints are costly."""
    world = World()
    world.score._next_checkpoint = 0.0
    for seq in (1, 2):
        world.take([message("pump", seq, {"a": 1.0})])
        world.score.step(0.0)
    assert world.score.checkpoint == world.state.restore()[0] == 1


def test_what_is_said_again_is_found_once() -> None:
    """A strange reading that is repeated, at once or long after, is a single anomaly.

    A late reading is not scored against readings that followed it.
    """
    world = World()
    world.take(faulty(range(100), range(90, 100)), [swap(0)])
    before = world.outcome()
    world.take(faulty(range(99, 100), range(99, 100)))
    world.take(faulty(range(100), range(90, 100)))
    world.take(faulty(range(50, 60), range(50, 60)))
    assert world.outcome() == before


def test_a_state_that_is_newer_than_what_the_log_still_holds_goes_on_from_there() -> None:
    """Dropped entries are not missed after a checkpoint, nor if the state was lost."""
    world = World(stream(0, 100).log({250}))
    before = world.outcome()
    world.log.drop(world.log.last)
    world.start()
    assert world.outcome() == before
    world.state = MemoryState()
    world.start()
    world.score.step(0.0)
    assert world.outcome()[3] == {}
    world.take([message("pump", 1, {"a": 1.0})])
    assert world.outcome()[3].keys() == {("pump", "a")}


def test_findings_read_back_as_they_were() -> None:
    """The stored bytes hold all findings; without findings no bytes are stored."""
    anomalies, episodes, _, _ = expected(0)
    findings = Detections(anomalies, episodes)
    assert Detections.from_bytes(findings.to_bytes() or b"") == findings
    assert Detections([], []).to_bytes() is None


def test_the_time_to_a_result_is_from_the_receipt_of_the_oldest_reading() -> None:
    """The audience receives the receive time with the events; an earlier run's is not counted."""
    count = "insa_receive_to_score_seconds_count"
    world = World()
    spike = [message("pump", second, {"a": 10.0 + 90.0 * (second > 80)}) for second in range(90)]
    before = REGISTRY.get_sample_value(count) or 0.0
    world.take([], [swap(0)])
    world.take(spike)
    world.score.drain()
    assert world.audience.told
    assert all(came == world.feed.arrived_at(1) for came in world.audience.came)
    assert REGISTRY.get_sample_value(count) == before + 1
    again = World(world.log)
    again.score.drain()
    assert again.audience.came == [None] * len(world.audience.came)
    assert REGISTRY.get_sample_value(count) == before + 1


# ------------------------------------------------------------------------------ clocks
YEAR = 365 * 86_400 * SECOND


def clock_gone_wrong() -> MemoryLog:
    """Build a log in which the clock runs a year ahead for a while after half a warm-up.

    The right clock then repeats all, with a spike at its end.
    """
    log = MemoryLog()
    before, after = (
        stream(1, 0),
        [
            message(device, 100 + i, {metric: 10.0 + (i * 7 % 5 - 2) / 2})
            for i in range(70)
            for device, metric in SERIES
        ],
    )
    device, metric = SERIES[0]
    log.append(before.messages, [swap(0), swap(1), swap(2)], NOW)
    log.append(after[:20], [], NOW + YEAR)
    log.append(after, [], NOW + 200 * SECOND)
    log.append([message(device, 171, {metric: 500.0})], [], NOW + 201 * SECOND)
    return log


def test_a_clock_that_was_wrong_for_a_while_does_no_lasting_harm() -> None:
    """Windows that ran a year ahead begin anew once the clock is right, and a spike is found.

    The spike is published, and is not late.
    """
    anomalies, _, outgoing, _ = scored(clock_gone_wrong())
    assert [(one.timestamp, one.value) for one in anomalies] == [(NOW + 171 * SECOND, 500.0)]
    assert [event.kind for event in told(outgoing)] == ["opened"]


@pytest.mark.parametrize("place", range(1, 5))
def test_a_restart_is_invisible_also_where_the_clock_went_wrong(place: int) -> None:
    """A restart before, during or after the wrong clock is invisible.

    The same holds with and without a checkpoint.
    """
    for keeps in (False, True):
        world = World()
        for entry in clock_gone_wrong().read(0, 10**6):
            world.feed.add(world.log.append(entry.messages, entry.swaps, entry.received))
            world.score.step(0.0)
            if entry.seq == place:
                if keeps:
                    world.score.write_checkpoint()
                world.start()
        assert world.outcome() == scored(clock_gone_wrong())
