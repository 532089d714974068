"""The schema: migrations are applied exactly once, and partitions are made ahead."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from insa_anomaly.adapters.postgres import queries, schema
from insa_anomaly.adapters.postgres.schema import Migration, migrate, pending
from insa_anomaly.adapters.postgres.telemetry import ensure_partitions
from insa_anomaly.errors import DatabaseAway, DatabaseRefused, MigrationError

TODAY = date(2025, 10, 29)  # a Wednesday
ONE, TWO = (
    Migration(1, "0001_one", b"CREATE TABLE one (a int)"),
    Migration(2, "0002_two", b"CREATE TABLE two (a int); SELECT 1"),
)


@pytest.fixture
def session(database: str) -> Iterator[psycopg.Connection]:
    """Yield a session in a database with the schema."""
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("SET timezone = 'UTC'")
        yield session


# --------------------------------------------------------------------------------------- migrations
def test_migrations_are_applied_once(empty_database: str) -> None:
    """The first call applies and returns the shipped migrations; the second applies none."""
    assert migrate(empty_database) == [migration.name for migration in schema.shipped()]
    assert migrate(empty_database) == []


def test_many_at_once_apply_once(empty_database: str) -> None:
    """Four concurrent calls apply each migration once, and all return."""
    with ThreadPoolExecutor(4) as callers:
        done = [name for names in callers.map(migrate, [empty_database] * 4) for name in names]
    assert done == [migration.name for migration in schema.shipped()]


def test_later_migrations_are_added(empty_database: str) -> None:
    """A newer version applies only its new migrations."""
    assert migrate(empty_database, migrations=[ONE]) == ["0001_one"]
    assert migrate(empty_database, migrations=[ONE, TWO]) == ["0002_two"]


def test_a_changed_file_is_refused(empty_database: str) -> None:
    """A migration changed after its application is refused by name."""
    migrate(empty_database, migrations=[ONE])
    with pytest.raises(MigrationError, match="0001_one was changed"):
        migrate(
            empty_database, migrations=[Migration(1, "0001_one", b"CREATE TABLE one (b int)"), TWO]
        )


def test_a_newer_database_is_refused(empty_database: str) -> None:
    """A program older than the database is refused and changes no table."""
    migrate(empty_database, migrations=[ONE, TWO])
    with pytest.raises(MigrationError, match="0002_two, which this version does not know"):
        migrate(empty_database, migrations=[ONE])


def test_a_failing_file_leaves_the_files_before_it(empty_database: str) -> None:
    """A failing migration leaves no trace, and can be applied once it is fixed."""
    broken = Migration(2, "0002_two", b"CREATE TABLE two (a int); SELECT nonsense")
    with pytest.raises(DatabaseRefused, match="nonsense"):
        migrate(empty_database, migrations=[ONE, broken])
    assert migrate(empty_database, migrations=[ONE, TWO]) == ["0002_two"]


def test_a_role_without_rights_may_look(empty_database: str) -> None:
    """A role without rights to create tables suffices if no migration is pending."""
    migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as session:
        session.execute("DROP ROLE IF EXISTS looker")
        session.execute("CREATE ROLE looker LOGIN; GRANT SELECT ON schema_migrations TO looker")
        assert migrate(psycopg.conninfo.make_conninfo(empty_database, user="looker")) == []
        session.execute("DROP OWNED BY looker; DROP ROLE looker")


def test_nobody_there_is_away() -> None:
    """A call without a listening database raises `DatabaseAway`."""
    with pytest.raises(DatabaseAway):
        migrate("host=127.0.0.1 port=1 user=nobody dbname=x")


def test_versions_are_numbered_without_gaps() -> None:
    """Shipped migrations are numbered from 1 without gaps, and none is pending once applied."""
    shipped = schema.shipped()
    assert [migration.version for migration in shipped] == list(range(1, len(shipped) + 1))
    assert (
        pending(
            shipped,
            {migration.version: (migration.name, migration.sha256) for migration in shipped},
        )
        == []
    )


def test_every_query_is_read_by_its_name() -> None:
    """Queries of a file are parsed by name, without their comments."""
    text = "-- intro\n\n-- name: one\n-- Why.\nSELECT 1\n\n-- name: two\nSELECT\n  2\n"
    assert queries.parse(text) == {"one": b"SELECT 1", "two": b"SELECT\n  2"}
    assert all(queries.load().values())


# --------------------------------------------------------------------------------------- partitions
def weeks(session: psycopg.Connection) -> set[str]:
    """Return all partitions except the default partition."""
    rows = session.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'telemetry'::regclass"
    )
    return {name for (name,) in rows} - {"telemetry_default"}


def put(session: psycopg.Connection, *times: datetime) -> None:
    """Insert readings of a series at the given times."""
    for time in times:
        session.execute(
            "INSERT INTO telemetry (series_id, ts, disc, value, quality, flags)"
            " VALUES (1, %s, 0, 1, 0, 0)",
            (time,),
        )


def where(session: psycopg.Connection) -> dict[datetime, str]:
    """Return the partition of every reading."""
    return dict(session.execute("SELECT ts, tableoid::regclass::text FROM telemetry").fetchall())


def test_weeks_are_made_around_today(session: psycopg.Connection) -> None:
    """Partitions cover five weeks back to four weeks ahead, from Monday to Monday in UTC.

    A repeated call makes no partition.
    """
    made = ensure_partitions(session, queries.load(), TODAY)
    assert made == [
        f"telemetry_{date(2025, 9, 22) + timedelta(weeks=number):%Y%m%d}" for number in range(10)
    ]
    assert (set(made), ensure_partitions(session, queries.load(), TODAY)) == (weeks(session), [])
    edges = [
        datetime(2025, 10, 27, tzinfo=UTC),
        datetime(2025, 11, 3, tzinfo=UTC) - timedelta(microseconds=1),
        datetime(2025, 11, 3, tzinfo=UTC),
    ]
    put(session, *edges)
    assert list(where(session).values()) == [
        "telemetry_20251027",
        "telemetry_20251027",
        "telemetry_20251103",
    ]


def test_a_week_later_one_is_added(session: psycopg.Connection) -> None:
    """The daily upkeep adds a partition a week."""
    ensure_partitions(session, queries.load(), TODAY)
    assert ensure_partitions(session, queries.load(), TODAY + timedelta(days=6)) == [
        "telemetry_20251201"
    ]


def test_readings_that_came_before_their_week_move_into_it(session: psycopg.Connection) -> None:
    """Readings in the default partition move into their new week, and older readings stay."""
    inside, old = datetime(2025, 10, 30, 12, tzinfo=UTC), datetime(2013, 12, 2, 21, 15, tzinfo=UTC)
    put(session, inside, old)
    assert set(where(session).values()) == {"telemetry_default"}
    ensure_partitions(session, queries.load(), TODAY)
    assert where(session) == {inside: "telemetry_20251027", old: "telemetry_default"}
    with pytest.raises(psycopg.errors.UniqueViolation):
        put(session, inside)


def test_many_at_once_make_each_week_once(session: psycopg.Connection, database: str) -> None:
    """Concurrent recorders make each week once, and all continue."""

    def make(_: int) -> list[str]:
        with psycopg.connect(database, autocommit=True) as other:
            return ensure_partitions(other, queries.load(), TODAY)

    with ThreadPoolExecutor(4) as callers:
        assert sorted(name for names in callers.map(make, range(4)) for name in names) == sorted(
            weeks(session)
        )


def test_the_view_has_names(session: psycopg.Connection) -> None:
    """`telemetry_readings` shows readings with the names of their series."""
    session.execute("INSERT INTO series (device_id, metric_name) VALUES ('pump-1', 'flow')")
    put(session, datetime(2025, 10, 28, tzinfo=UTC))
    assert session.execute(
        "SELECT device_id, metric_name, value FROM telemetry_readings"
    ).fetchall() == [("pump-1", "flow", 1.0)]
