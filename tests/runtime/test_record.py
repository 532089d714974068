"""The record reader: every page reaches the database exactly once, in any trouble.

No reading is recorded before it is scored.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.errors import DatabaseAway, DatabaseRefused
from insa_anomaly.ports.recorder import Page, Telemetry
from insa_anomaly.runtime import score as scoring
from insa_anomaly.runtime.detections import Detections
from insa_anomaly.runtime.record import RecordReader
from insa_anomaly.settings.sections import RecordSettings
from insa_anomaly.testing.recorder import MemoryRecorder, MemoryTables
from tests.runtime.streams import NOW, SECOND, Stream, message, model, models, stream, swap
from tests.runtime.world import EVERYTHING, World

PAGING = RecordSettings(readings=25, linger=0.0, first_retry=1e-9, last_retry=1e-9)
TROUBLES = {
    "away": DatabaseAway("no answer"),
    "refused": DatabaseRefused("relation does not exist"),
}


class Unsure(MemoryRecorder):
    """A recorder that fails on request, before or after it has recorded, and remembers commits."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[Page] = []
        self.fails_before: str | None = None
        self.fails_after: str | None = None
        self.asked = 0

    def record(self, page: Page) -> None:
        """Record, unless it fails first; then perhaps fail."""
        self.asked += 1
        before, after = self.fails_before, self.fails_after
        self.fails_before = self.fails_after = None
        if before:
            raise TROUBLES[before]
        super().record(page)
        self.pages.append(page)
        if after:
            raise TROUBLES[after]


class Recording(World):
    """A world whose log is recorded too."""

    def __post_init__(self) -> None:
        self.recorder = Unsure()
        super().__post_init__()

    def start(self) -> None:
        """Start where the last reader ended."""
        super().start()
        self.record = recording(self, PAGING)

    def turn(self) -> None:
        """Record the next page, if there is any."""
        self.record._next_at = 0.0
        self.record.step(0.0)

    def finish(self) -> MemoryTables:
        """Score and record the whole log without failures."""
        self.recorder.fails_before = self.recorder.fails_after = None
        self.score.drain()
        self.turn()
        self.record.drain(self.clock.monotonic() + 10.0)
        return self.recorder.tables


def recording(world: Recording, paging: RecordSettings) -> RecordReader:
    """Build a record reader of the world's log."""
    return RecordReader(
        log=world.log,
        feed=world.feed,
        state=world.state,
        recorder=world.recorder,
        models=world.shelf,
        settings=paging,
        clock=world.clock,
    )


@cache
def expected(seed: int) -> MemoryTables:
    """Return the tables of an undisturbed stream, without the log's own id."""
    return nameless(Recording(stream(seed, 150).log(set())))


def nameless(world: Recording) -> MemoryTables:
    """Return the tables without the log's id, which is never the same."""
    return replace(world.finish(), cursors={})


# -------------------------------------------------------------------------------- laws
def test_what_is_expected_is_all_of_it() -> None:
    """The expected tables hold every reading, anomaly, episode, rejection and model."""
    world = World(stream(4, 150).log(set()))
    anomalies, episodes, _, _ = world.outcome()
    batches = world.feed.read(0, EVERYTHING)
    tables = expected(4)
    assert len(tables.telemetry) == len(
        {place for batch in batches for place in _places(batch.telemetry)}
    )
    on_time = {anomaly.id: anomaly for anomaly in anomalies}
    late = {
        one.anomaly.id
        for body in world.state.results(0, EVERYTHING).values()
        for one in Detections.from_bytes(body).late
    }
    assert tables.anomalies.items() >= on_time.items()
    assert set() != tables.anomalies.keys() - on_time.keys() <= late
    assert tables.episodes.keys() == {episode.id for episode in episodes} != set()
    rejected = [(one.raw.topic, one.raw.payload) for batch in batches for one in batch.rejected]
    assert (
        {(one.raw.topic, one.raw.payload): times for one, times, _ in tables.dead_letters.values()}
        == Counter(rejected)
        != {}
    )
    assert tables.models.keys() == {one.model_id for batch in batches for one in batch.swaps} - {
        None
    }


def _places(telemetry: Telemetry) -> Iterator[tuple[int, int, int]]:
    return zip(
        telemetry.key.tolist(),
        telemetry.timestamp.tolist(),
        telemetry.discriminator.tolist(),
        strict=True,
    )


@pytest.mark.parametrize("together", [True, False])
def test_a_late_reading_that_stands_out_is_an_anomaly_and_one_said_again_is_none(
    together: bool,
) -> None:
    """The recorded rows distinguish a late reading from a repeated reading.

    The earlier reading may be on the same page or on an earlier page.
    """
    world = Recording()
    on_time, late = message("pump", 95, {"a": 10.0}), message("pump", 97.5, {"a": 60.0})
    level = [message("pump", i, {"a": 10 + (i * 37 % 11 - 5) / 5}) for i in range(100)]
    far_off = [message("pump", i, {"a": 30.0}) for i in range(100, 160)]
    world.take([*level[:95], on_time, *level[96:]], [swap(0)])
    if not together:
        world.score.drain()
        world.turn()
    world.take([*far_off, late, on_time, late])
    anomalies = world.finish().anomalies
    found = {(one.timestamp - NOW) / SECOND for one in anomalies.values()}
    assert 97.5 in found
    assert 95 not in found
    assert [
        one.episode_id for one in anomalies.values() if one.timestamp == NOW + 97.5 * SECOND
    ] == [None]


HAPPENINGS = [
    "score",
    "record",
    "record",
    "away",
    "refused",
    "unsure",
    "keep",
    "start",
    "back_from_cursor",
]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9), st.sets(st.integers(0, 360), max_size=40), st.data())
def test_every_page_is_recorded_exactly_once(
    seed: int, cuts: set[int], data: st.DataObject
) -> None:
    """Every entry is in a single committed page, through refusals, lost commits and restarts."""
    world = Recording()
    for entry in stream(seed, 150).entries(cuts):
        world.take(entry.messages, entry.swaps)
        for happening in data.draw(st.lists(st.sampled_from(HAPPENINGS), max_size=4)):
            happen(world, happening)
            assert world.record.reached <= max(
                world.state.cursor, world.recorder.tables.cursors.get(world.log.id, 0)
            )
    assert nameless(world) == expected(seed)
    assert [page.seq for page in world.recorder.pages] == sorted(
        {page.seq for page in world.recorder.pages}
    )
    total = sum(len(batch) for batch in world.feed.read(0, EVERYTHING))
    assert sum(len(page.telemetry.value) for page in world.recorder.pages) == total
    assert world.state.results(0, EVERYTHING) == {}
    assert world.record.trouble is None
    assert world.record.reached == world.log.last


def happen(world: Recording, what: str) -> None:
    """Let an event happen."""
    recorder = world.recorder
    if what == "score":
        world.score.step(0.0)
    elif what == "keep":
        world.score.write_checkpoint()
    elif what == "start":
        world.start()
    elif what == "back_from_cursor":
        recorder.trouble = DatabaseAway("no answer")
        world.turn()
        recorder.trouble = None
    else:
        recorder.fails_before, recorder.fails_after = {
            "record": (None, None),
            "unsure": (None, "away"),
        }.get(what, (what, None))
        world.turn()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 9),
    st.sets(st.integers(200, 360), min_size=10, max_size=60),
    st.sampled_from([1, 20, 2000]),
    st.data(),
)
def test_a_power_cut_that_takes_the_newest_states_takes_no_finding(
    seed: int, cuts: set[int], most: int, data: st.DataObject
) -> None:
    """The state may fall back to any commit since it was last synced, unlike the database.

    No finding is missing in the database.
    """
    world = Recording()
    *entries, last = stream(seed, 150).entries(cuts)
    saved = [fallen_back(world)]
    for entry in entries:
        world.take(entry.messages, entry.swaps)
        for happening in data.draw(
            st.lists(st.sampled_from(["score", "record", "keep"]), max_size=2)
        ):
            happen(world, happening)
            saved.append(fallen_back(world))
    world.score.drain()
    world.turn()
    world.state.__dict__.update(data.draw(st.sampled_from(saved)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "MOST_READINGS", most)
        world.start()
        world.score.drain()
        world.take(last.messages, last.swaps)
        assert nameless(world) == expected(seed)


def fallen_back(world: World) -> dict[str, object]:
    """Return the present state, to fall back to."""
    return {
        name: copy.deepcopy(value) for name, value in vars(world.state).items() if name != "_lock"
    }


# --------------------------------------------------------------------------- following
def a_few(entries: int = 4, readings: int = 10) -> Stream:
    """Build a stream of ordinary messages."""
    return Stream([message("pump", i, {"a": i}) for i in range(entries * readings)], {})


def test_nothing_is_recorded_before_it_is_scored() -> None:
    """The score reader leads, because an entry that it has not committed has no findings yet."""
    world = Recording(a_few().log({10, 20, 30}))
    world.turn()
    assert world.recorder.tables.telemetry == {}
    world.score.step(0.0)
    world.turn()
    assert len(world.recorder.tables.telemetry) == 30


def test_a_page_holds_about_as_much_as_was_said() -> None:
    """A page has whole entries up to at least `readings`; a full page is followed at once."""
    world = Recording(a_few().log({10, 20, 30}))
    world.finish()
    assert [len(page.telemetry.value) for page in world.recorder.pages] == [30, 10]


def test_what_is_recorded_is_forgotten() -> None:
    """Results are removed when their page is committed, not before."""
    world = Recording(stream(4, 150).log(set()))
    world.score.drain()
    kept = world.state.results(0, EVERYTHING)
    world.recorder.fails_before = "away"
    world.turn()
    assert world.state.results(0, EVERYTHING) == kept != {}
    world.finish()
    assert world.state.results(0, EVERYTHING) == {}


# ----------------------------------------------------------------------------- trouble
@pytest.mark.parametrize("trouble", ["away", "refused"])
def test_a_database_in_trouble_is_left_alone_for_a_while(trouble: str) -> None:
    """A failing database is retried at growing intervals up to a bound.

    The trouble is reported until it is over.
    """
    world = Recording(a_few().log(set()))
    world.score.drain()
    world.record = recording(world, RecordSettings(first_retry=60.0, last_retry=200.0))
    waits = []
    for _ in range(4):
        world.recorder.fails_before = trouble
        world.turn()
        waits.append(world.record._next_at - world.clock.monotonic())
        world.record.step(0.0)
    assert waits == [60, 120, 200, 200]
    assert world.recorder.asked == 4
    assert world.record.trouble == str(TROUBLES[trouble])
    world.turn()
    assert world.record.trouble is None
    world.recorder.fails_before = trouble
    world.take([message("pump", 99, {"a": 1.0})])
    world.score.drain()
    world.turn()
    assert world.record._next_at == world.clock.monotonic() + 60


def test_a_database_that_is_away_at_the_start_is_waited_for() -> None:
    """While the database's cursor is unknown, no page is recorded and no error is raised."""
    world = Recording(a_few().log(set()))
    world.score.drain()
    world.recorder.trouble = DatabaseAway("no answer")
    world.turn()
    assert (world.record.reached, world.record.trouble) == (0, "no answer")
    world.recorder.trouble = None
    assert len(world.finish().telemetry) == 40


def test_an_end_does_not_wait_for_a_database_in_trouble() -> None:
    """A drain gives up at the first failure: the rest is in the log."""
    world = Recording(a_few().log(set()))
    world.score.drain()
    world.recorder.trouble = DatabaseAway("no answer")
    world.record.drain(world.clock.monotonic() + 60.0)
    assert world.record.reached == 0


def test_a_page_that_is_not_due_is_not_waited_for() -> None:
    """A step returns at once and asks for its next turn within the given time."""
    world = Recording(a_few().log(set()))
    world.score.drain()
    world.record._next_at = world.clock.monotonic() + 60.0
    assert world.record.step(0.2) == 0.2
    assert world.record.step(90.0) == 60.0
    assert world.recorder.pages == []


# -------------------------------------------------------------------- another database
def test_a_database_that_knows_less_than_the_log_still_holds_gets_what_there_is() -> None:
    """A new, empty database is recorded from the oldest entry of the log.

    Recording neither spins nor waits where there is no entry.
    """
    world = Recording(a_few().log({10, 20, 30}))
    world.finish()
    world.log.drop(3)
    world.recorder = Unsure()
    world.start()
    assert len(world.finish().telemetry) == 10
    world.log.drop(4)
    world.recorder = Unsure()
    world.start()
    began = monotonic()
    assert len(world.finish().telemetry) == 0
    assert monotonic() - began < 1.0
    world.take([message("pump", 99, {"a": 1.0})])
    assert len(world.finish().telemetry) == 1


def test_a_model_that_is_gone_from_the_index_holds_nothing_up() -> None:
    """The swap of a removed model is recorded with the readings, and the model is not."""
    world = Recording(shelf=models(1))
    world.take([message("pump", 1, {"a": 1.0})], [swap(0), swap(1)])
    tables = world.finish()
    assert tables.models.keys() == {model(0).id}
    assert len(tables.telemetry) == 1


def test_pages_carry_the_place_in_the_log() -> None:
    """A transaction records the readings and the cursor together."""
    world = Recording(a_few().log({10}))
    world.finish()
    assert [(page.log_id, page.seq) for page in world.recorder.pages] == [(world.log.id, 2)]
    assert world.recorder.tables.cursors == {world.log.id: 2}
