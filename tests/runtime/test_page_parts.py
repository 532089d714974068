"""A page that is refused for some of its rows: the rows at fault become dead letters.

All other rows are recorded once, in few attempts.
"""

from collections.abc import Iterator
from math import ceil, log2

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.adapters.postgres.recorder import Bulk
from insa_anomaly.core.notification.event import anomaly_id
from insa_anomaly.core.reading.reading import RejectionReason
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import DatabaseAway, RowsRefused
from insa_anomaly.ports.recorder import Page, Recorder
from insa_anomaly.runtime.page_parts import SAMPLE
from insa_anomaly.runtime.record import RecordReader
from insa_anomaly.settings.sections import RecordSettings
from insa_anomaly.testing.recorder import MemoryTables
from tests.contracts.recorded import InPostgres, in_postgres
from tests.runtime.streams import GARBAGE, Stream, message, stream, topic
from tests.runtime.test_record import Recording, expected, nameless

Place = tuple[SeriesKey, int, int]
REFUSAL = "new row violates check constraint"


class Choosy(Recording):
    """A world whose recorder refuses every page with certain readings or values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.places: set[Place] = set()
        self.values: set[float] = set()
        self.attempts = 0
        self.cursors: list[int] = []
        self.away_at: set[int] = set()  # attempts that fail because the database is unreachable
        record = self.recorder.record

        def choose(page: Page) -> None:
            self.attempts += 1
            if self.attempts in self.away_at:
                raise DatabaseAway
            if not self.places.isdisjoint(places(page)) or not self.values.isdisjoint(
                page.telemetry.value.tolist()
            ):
                raise RowsRefused(REFUSAL)
            record(page)
            self.cursors.append(self.recorder.tables.cursors[page.log_id])

        self.recorder.record = choose  # type: ignore[method-assign]


def places(page: Page) -> Iterator[Place]:
    """Return series, time and discriminator of every reading."""
    telemetry = page.telemetry
    columns = (
        telemetry.key.tolist(),
        telemetry.timestamp.tolist(),
        telemetry.discriminator.tolist(),
    )
    return (
        (telemetry.keys[key], timestamp, discriminator)
        for key, timestamp, discriminator in zip(*columns, strict=True)
    )


def unrecordable(tables: MemoryTables) -> list[tuple[str, bytes]]:
    """Return the messages that the database refused, in order of receipt."""
    letters = sorted(
        (one for one, _, _ in tables.dead_letters.values()), key=lambda one: one.raw.received
    )
    return [
        (one.raw.topic, one.raw.payload)
        for one in letters
        if one.reason is RejectionReason.UNRECORDABLE
    ]


def numbered(readings: int, entries: set[int] | None = None, bad: tuple[float, ...] = ()) -> Choosy:
    """Build a world whose values are their numbers, all on a page; values in `bad` are refused."""
    world = Choosy(
        Stream([message("pump", i, {"a": i}) for i in range(readings)], {}).log(entries or set())
    )
    world.values = set(bad)
    paging = RecordSettings(linger=0.0, first_retry=1e-9, last_retry=1e-9)
    world.record = recording(world, world.recorder, paging)
    return world


def recording(world: Choosy, recorder: Recorder, paging: RecordSettings) -> RecordReader:
    """Build a record reader of the world's log."""
    return RecordReader(
        log=world.log,
        feed=world.feed,
        state=world.state,
        recorder=recorder,
        models=world.shelf,
        settings=paging,
        clock=world.clock,
    )


def values(world: Choosy) -> list[float]:
    """Return the recorded values, sorted."""
    return sorted(value for value, *_ in world.recorder.tables.telemetry.values())


# -------------------------------------------------------------------------------- laws
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.sets(st.integers(0, 360), max_size=12), st.data())
def test_law_all_but_what_is_refused_is_recorded_once(
    seed: int, cuts: set[int], data: st.DataObject
) -> None:
    """Only the refused readings and their anomalies are missing, however the log is cut.

    The database may become unreachable at any time meanwhile.
    """
    whole = expected(seed)
    refused = data.draw(st.sets(st.sampled_from(sorted(whole.telemetry)), max_size=12))
    world = Choosy(stream(seed, 150).log(cuts))
    world.record.adjust(RecordSettings(readings=500, linger=0.0, first_retry=1e-9, last_retry=1e-9))
    world.places, world.away_at = refused, data.draw(st.sets(st.integers(1, 60), max_size=4))
    world.score.drain()
    for _ in range(len(world.away_at)):
        world.turn()
    tables = nameless(world)
    assert tables.telemetry == {
        place: row for place, row in whole.telemetry.items() if place not in refused
    }
    gone = {anomaly_id(*key, timestamp, discriminator) for key, timestamp, discriminator in refused}
    assert tables.anomalies == {
        name: one for name, one in whole.anomalies.items() if name not in gone
    }
    assert (tables.episodes, tables.models) == (whole.episodes, whole.models)
    letters = {
        digest: one
        for digest, one in tables.dead_letters.items()
        if one[0].reason is not RejectionReason.UNRECORDABLE
    }
    assert letters == whole.dead_letters
    assert bool(unrecordable(tables)) == bool(refused)
    assert world.cursors == sorted(world.cursors)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 600), st.data())
def test_law_the_rows_at_fault_are_found_in_few_attempts(
    readings: int, data: st.DataObject
) -> None:
    """Two attempts suffice for each halving and row at fault.

    The cursor moves once, with the last of them.
    """
    most = min(readings, SAMPLE) - 1
    bad = sorted(
        data.draw(
            st.sets(st.integers(0, readings - 1), min_size=min(1, most), max_size=min(most, 5))
        )
    )
    world = numbered(readings, bad=tuple(map(float, bad)))
    world.score.drain()
    world.turn()
    assert values(world) == [i for i in range(readings) if i not in bad]
    assert unrecordable(world.recorder.tables) == [message("pump", i, {"a": i}) for i in bad]
    halvings = ceil(log2(readings)) + 1
    assert world.attempts <= 4 + len(bad) * (2 * halvings + 1)
    assert world.cursors[:-1] == [0] * (len(world.cursors) - 1)
    assert world.cursors[-1] == world.log.last


# ------------------------------------------------------------------------------- cases
def test_of_a_message_with_a_refused_value_the_others_are_recorded() -> None:
    """A message with refused values is a single dead letter, as it came, with the reason.

    A repeated message is the same letter again.
    """
    world = numbered(10, bad=(666.0, 667.0))
    bad = message("pump", 20, {"a": 1.5, "b": 666, "c": 667})
    world.take([bad, (topic("pump"), GARBAGE[0])])
    world.finish()
    world.take([message("pump", 21, {"a": 2.5}), bad])
    tables = world.finish()
    assert values(world) == sorted([*range(10), 1.5, 2.5])
    assert {
        one.raw.payload: (one.reason, one.detail, times)
        for one, times, _ in tables.dead_letters.values()
    } == {
        bad[1]: (RejectionReason.UNRECORDABLE, REFUSAL, 2),
        GARBAGE[0]: (
            RejectionReason.MALFORMED,
            next(
                one.detail
                for one, *_ in tables.dead_letters.values()
                if one.raw.payload == GARBAGE[0]
            ),
            1,
        ),
    }


def test_where_all_is_refused_nothing_is_a_dead_letter() -> None:
    """A page that is refused whole is a matter of the schema, and makes no dead letter.

    The refusal is reported, waited out without many attempts, and the page recorded after the
    repair.
    """
    world = numbered(1000, bad=tuple(map(float, range(1000))))
    world.score.drain()
    world.turn()
    assert (world.record.trouble, world.record.reached, world.attempts) == (REFUSAL, 0, 2 + SAMPLE)
    assert world.recorder.tables.dead_letters == {}
    world.values = set()
    assert len(world.finish().telemetry) == 1000
    assert world.record.trouble is None


def test_a_refusal_that_is_not_for_a_row_is_not_looked_into() -> None:
    """A missing table is refused once, and reported."""
    world = numbered(10)
    world.score.drain()
    world.recorder.fails_before = "refused"
    world.turn()
    assert (world.attempts, world.record.reached) == (1, 0)
    assert world.record.trouble is not None


def test_a_lone_bad_reading_waits_for_one_to_be_told_from() -> None:
    """A bad reading that is alone could be refused for the schema.

    With the next good reading it is a dead letter.
    """
    world = numbered(1, bad=(0.0,))
    world.score.drain()
    world.turn()
    assert (world.record.trouble, world.recorder.tables.dead_letters) == (REFUSAL, {})
    world.take([message("pump", 5, {"a": 5.0})])
    world.finish()
    assert (values(world), unrecordable(world.recorder.tables)) == (
        [5.0],
        [message("pump", 0, {"a": 0})],
    )


# --------------------------------------------------------------------- the real database
@pytest.fixture(params=["insert", "copy"])
def postgres(request: pytest.FixtureRequest, database: str) -> Iterator[InPostgres]:
    """Yield a recorder for each of the ways to write readings."""
    with in_postgres(
        database, Bulk(readings=1 if request.param == "copy" else 10**9, rest_seconds=0.0)
    ) as body:
        yield body


CHECK = "ALTER TABLE telemetry ADD CONSTRAINT plausible CHECK (value <> 17)"
OVERFLOW = """
    CREATE FUNCTION overflow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF new.value = 17 THEN new.quality := (40000::integer)::smallint; END IF;
        RETURN new;
    END $$;
    CREATE TRIGGER overflow BEFORE INSERT ON telemetry FOR EACH ROW EXECUTE FUNCTION overflow()
"""


@pytest.mark.parametrize(
    ("statement", "words"), [(CHECK, "plausible"), (OVERFLOW, "smallint out of range")]
)
def test_postgresql_refuses_one_value(postgres: InPostgres, statement: str, words: str) -> None:
    """A value refused by a constraint (SQLSTATE class 23) or out of range (22) is a dead letter.

    The connection stays, and the rest is recorded.
    """
    postgres.session.execute(statement)
    world = numbered(1000, {400, 800})
    world.record = recording(world, postgres.recorder, RecordSettings(linger=0.0))
    world.score.drain()
    assert postgres.recorder.cursor(world.log.id) == 0
    before = _backends(postgres.session)
    world.turn()
    rows = postgres.rows()
    assert sorted(value for value, *_ in rows.telemetry.values()) == [
        i for i in range(1000) if i != 17
    ]
    [(letter, times, _)] = rows.dead_letters.values()
    assert (letter.reason, (letter.raw.topic, letter.raw.payload), times) == (
        RejectionReason.UNRECORDABLE,
        message("pump", 17, {"a": 17}),
        1,
    )
    assert words in letter.detail
    assert (rows.cursors, world.record.trouble) == ({world.log.id: 3}, None)
    assert _backends(postgres.session) == before


def _backends(session: psycopg.Connection) -> set[int]:
    found = session.execute(
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'insa-anomaly'"
    )
    return {pid for (pid,) in found}


def test_a_column_that_is_missing_is_said_and_nothing_is_a_dead_letter(
    postgres: InPostgres,
) -> None:
    """SQLSTATE class 42 is reported, and makes no dead letter."""
    postgres.session.execute("ALTER TABLE telemetry RENAME COLUMN flags TO marks")
    world = numbered(10)
    world.record = recording(world, postgres.recorder, RecordSettings(linger=0.0))
    world.score.drain()
    world.turn()
    assert world.record.trouble is not None
    assert "flags" in world.record.trouble
    assert postgres.session.execute("SELECT count(*) FROM dead_letters").fetchone() == (0,)
