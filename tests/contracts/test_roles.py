"""Least privilege: the rights of each group, and the work of a login that owns no table."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from insa_anomaly.adapters.postgres import queries, roles
from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.connection import as_role
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.postgres.recorder import Claim, PostgresRecorder
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.adapters.postgres.telemetry import ensure_partitions
from insa_anomaly.errors import DatabaseAway, DatabaseRefused
from insa_anomaly.ports.audit import Change
from tests.contracts.recorded import LOG, letter, page

LOGIN = "insa-anomaly"


@pytest.fixture
def dsn(empty_database: str) -> Iterator[str]:
    """Yield the address of the daemon's login, in a database set up with roles."""
    assert roles.create_roles(empty_database, LOGIN) == [roles.OWNER, *roles.GROUPS, LOGIN]
    assert roles.migrate_as_owner(empty_database)
    yield make_conninfo(empty_database, user=LOGIN)
    with psycopg.connect(empty_database, autocommit=True) as session:
        for role in (roles.OWNER, *roles.GROUPS, LOGIN):
            session.execute(
                psycopg.sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(
                    psycopg.sql.Identifier(role)
                )
            )


@contextmanager
def session_of(dsn: str, role: str) -> Iterator[psycopg.Connection]:
    """Open a session of the login with the rights of a group."""
    with psycopg.connect(as_role(dsn, role), autocommit=True) as session:
        session.execute("SET timezone = 'UTC'")
        yield session


HEALTH = ("schedule", "series_activity", "instance_activity", "health_report", "health_decision")
MAY = {
    roles.INGEST: {
        "telemetry": "siu", "series": "siu", "anomaly_detections": "siu", "ingest_cursor": "siu",
        "dead_letters": "siu", "anomaly_episodes": "siu", "ml_models": "siu", "feedback": "s",
        "training_jobs": "s", "schema_migrations": "s", **dict.fromkeys(HEALTH, "s"),
    },
    roles.API: {
        "telemetry": "s", "series": "s", "anomaly_detections": "s", "anomaly_episodes": "s",
        "ml_models": "siu", "feedback": "siu", "training_jobs": "siu", "api_keys": "s",
        "dead_letters": "s", "ingest_cursor": "s", "schema_migrations": "s",
        **dict.fromkeys(HEALTH, "siud"),
    },
    roles.AUDIT: {"audit_log": "i", "schema_migrations": "s"},
    roles.KEYS: {"api_keys": "siu", "schema_migrations": "s"},
}  # fmt: skip
RIGHTS = {"s": "SELECT", "i": "INSERT", "u": "UPDATE", "d": "DELETE", "t": "TRUNCATE"}
TABLES = sorted({table for tables in MAY.values() for table in tables})


def test_each_group_has_its_rights_and_no_others(dsn: str) -> None:
    """Each group has exactly its rights.

    Only the health check deletes rows, and only its own; only the owner creates tables; no group
    reads the audit log.
    """
    for role, tables in MAY.items():
        with session_of(dsn, role) as session:
            found = {
                table: "".join(
                    letter
                    for letter, right in RIGHTS.items()
                    if session.execute(
                        "SELECT has_table_privilege(%s, %s)", (table, right)
                    ).fetchone()
                    == (True,)
                )
                for table in TABLES
            }
            assert {table: rights for table, rights in found.items() if rights} == tables, role
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute("CREATE TABLE mine (a int)")


def test_a_session_of_our_own_is_ended_by_its_login(dsn: str) -> None:
    """A group may end no session, but the login that owns the session may."""
    ingest, claim = as_role(dsn, roles.INGEST), Claim("line-1", LOG)
    with (
        PostgresRecorder(ingest, claim=claim) as before,
        PostgresRecorder(ingest, claim=claim) as now,
    ):
        before.record(page(1, []))
        with pytest.raises(DatabaseAway, match="earlier session"):
            now.cursor(LOG)


def test_who_is_in_no_group_sees_nothing(dsn: str) -> None:
    """PUBLIC has no rights, not even on the schema."""
    with session_of(dsn, roles.AUDIT) as session:
        for table in ("telemetry", "api_keys"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(f"SELECT FROM {table}")


def test_the_login_looks_and_has_nothing_to_migrate(dsn: str) -> None:
    """The login may check for migrations, which belong to the owner."""
    assert migrate(dsn) == []


def test_the_recorder_records_and_keeps_up_the_weeks_as_ingest(dsn: str) -> None:
    """The ingest group maintains partitions through the owner's functions alone.

    The group may not change tables.
    """
    old = datetime.now(UTC) - timedelta(days=400)
    with PostgresRecorder(
        as_role(dsn, roles.INGEST), keep_days={"telemetry": 90.0, "dead_letters": 30.0}
    ) as recorder:
        recorder.record(page(1, [letter()]))
        assert recorder.cursor(LOG) == 1
        with session_of(dsn, roles.INGEST) as session:
            assert session.execute(
                "SELECT count(*) FROM pg_inherits WHERE inhparent = 'telemetry'::regclass"
            ).fetchone() == (11,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute("DROP TABLE telemetry_default")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute("DELETE FROM telemetry WHERE ts < %s", (old,))


def test_a_table_of_the_callers_own_making_is_not_taken_for_ours(dsn: str) -> None:
    """The owner's functions read the owner's schema alone."""
    with session_of(dsn, roles.INGEST) as session:
        session.execute("SET ROLE none")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("CREATE TEMP TABLE telemetry_default (ts timestamptz)")
        assert session.execute(
            "SELECT forget('telemetry', now() - interval '90 days', 10)"
        ).fetchone() == (0,)


def test_audit_is_added_to_and_nothing_else(dsn: str) -> None:
    """The audit group may add entries, and only the administrator may read them."""
    with Pool(as_role(dsn, roles.AUDIT), size=1) as pool:
        PostgresAudit(pool).write(
            Change(
                who="lab", origin="cli", action="key.create", subject="k1", before=None, after=None
            )
        )
        with pytest.raises(DatabaseRefused, match="permission denied"), pool.session() as session:
            session.execute("SELECT FROM audit_log")


# ---------------------------------------------------------------------------------------- retention
@pytest.fixture
def session(database: str) -> Iterator[psycopg.Connection]:
    """Yield a session in a database with the schema."""
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("SET timezone = 'UTC'")
        yield session


def count(session: psycopg.Connection, table: str) -> int:
    """Return the number of rows in a table."""
    return int(
        (
            session.execute(
                psycopg.sql.SQL("SELECT count(*) FROM {}").format(psycopg.sql.Identifier(table))
            ).fetchone()
            or (0,)
        )[0]
    )


def test_whole_weeks_of_telemetry_are_forgotten_and_single_readings_beside_them(
    session: psycopg.Connection,
) -> None:
    """A week is forgotten when its last moment is too old.

    Readings outside the weeks are forgotten row by row, a bounded number at once.
    """
    now = datetime.now(UTC)
    ensure_partitions(session, queries.load(), now.date())
    for days in (0.0, 20.0, 300.0, 301.0, 302.0):
        session.execute(
            "INSERT INTO telemetry (series_id, ts, disc, value, quality, flags)"
            " VALUES (1, %s, 0, 1, 0, 0)",
            (now - timedelta(days=days),),
        )
    before = count(session, "pg_inherits")
    assert session.execute(queries.load()["forget"], ("telemetry", 40.0, 2)).fetchone() == (2,)
    assert count(session, "telemetry") == 3
    assert session.execute(queries.load()["forget"], ("telemetry", 12.5, 100)).fetchone() in {
        (3,),
        (4,),
        (5,),
    }
    assert count(session, "pg_inherits") < before
    assert session.execute("SELECT ts FROM telemetry").fetchall() == [(now,)]


def test_the_rest_is_forgotten_by_its_age(session: psycopg.Connection) -> None:
    """Anomalies, closed episodes with their feedback and dead letters are forgotten by age.

    Open episodes and new audit entries stay.
    """
    episode = """INSERT INTO anomaly_episodes VALUES
        (gen_random_uuid(), 'P', 't', gen_random_uuid(), 1, %s, %s, %s, 1, 0.5, false)
        RETURNING id"""
    for days in (800, 1):
        at = datetime.now(UTC) - timedelta(days=days)
        for closed in (at, None):
            row = session.execute(episode, (at, at, closed)).fetchone()
            assert row is not None
            session.execute(
                "INSERT INTO feedback (episode_id, verdict, given_by)"
                " VALUES (%s, 'confirmed', 'lab')",
                row,
            )
        session.execute(
            "INSERT INTO anomaly_detections (id, model_id, device_id, metric_name, value,"
            " anomaly_score, is_anomaly, confidence, timestamp)"
            " VALUES (gen_random_uuid(), gen_random_uuid(), 'P', 't', 1, -0.5, true, 0.5, %s)",
            (at,),
        )
        session.execute(
            "INSERT INTO dead_letters (log_id, received, topic, payload, reason, detail, digest,"
            " last_received) VALUES (gen_random_uuid(), %s, 't', '', 'r', 'd', %s, %s)",
            (at, str(days).encode(), at),
        )
        session.execute(
            "INSERT INTO audit_log (at, who, origin, action, subject)"
            " VALUES (%s, 'w', 'o', 'a', 's')",
            (at,),
        )
    forget = queries.load()["forget"]
    assert session.execute(forget, ("anomalies", 730.0, 100)).fetchone() == (2,)
    assert session.execute(forget, ("dead_letters", 30.0, 100)).fetchone() == (1,)
    assert session.execute(forget, ("audit", 0.0, 100)).fetchone() == (1,)
    left = {
        table: count(session, table)
        for table in (
            "anomaly_episodes",
            "feedback",
            "anomaly_detections",
            "dead_letters",
            "audit_log",
        )
    }
    assert left == {
        "anomaly_episodes": 3,
        "feedback": 3,
        "anomaly_detections": 1,
        "dead_letters": 1,
        "audit_log": 1,
    }
