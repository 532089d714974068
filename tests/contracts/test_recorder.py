"""The contract of every recorder, in memory and in PostgreSQL; failures of a real database."""

import dataclasses
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Self
from uuid import UUID

import msgspec
import psycopg
import psycopg.conninfo
import psycopg.sql
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insa_anomaly.adapters.postgres.recorder import Bulk, Claim, PostgresRecorder
from insa_anomaly.core.notification.event import deterministic_id
from insa_anomaly.core.reading.reading import Raw, Reading, Rejected, RejectionReason
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import DatabaseAway, DatabaseRefused, DatabaseTaken
from tests.conftest import Server, alive, wait_for
from tests.contracts import recorded
from tests.contracts.recorded import LOG, NOW, Body, InPostgres, in_memory, in_postgres, page

WAYS = {"insert": Bulk(readings=10**9), "copy": Bulk(readings=1, rest_seconds=0.0)}
LOGS = [UUID(int=number) for number in (1, 2, 3)]
streams = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=["memory", "insert", "copy"])
def body(request: pytest.FixtureRequest) -> Iterator[Body]:
    """Yield an empty recorder with access to its tables."""
    if request.param == "memory":
        with in_memory() as memory:
            yield memory
    else:
        with in_postgres(request.getfixturevalue("database"), WAYS[request.param]) as postgres:
            yield postgres


@pytest.fixture(params=["insert", "copy"])
def postgres(request: pytest.FixtureRequest, database: str) -> Iterator[InPostgres]:
    """Yield an empty PostgreSQL recorder, for each way of writing readings."""
    with in_postgres(database, WAYS[request.param]) as body:
        yield body


# ----------------------------------------------------------------------------------------- the laws
@streams
@given(
    items=recorded.items,
    cuts=st.lists(st.integers(0, 25)),
    again=st.lists(st.integers(0, 8), max_size=4),
)
def test_law_pages_are_cut_and_repeated_at_will(
    body: Body, items: list[object], cuts: list[int], again: list[int]
) -> None:
    """The same items leave the same rows, in pages of any cut and repetition."""
    body.clear()
    body.recorder.record(page(99, items))
    whole = body.rows()
    body.clear()
    edges = sorted({0, *cuts, len(items)})
    pages = [
        page(number, items[start:end]) for number, (start, end) in enumerate(pairwise(edges))
    ] + [page(99)]
    for each in [*pages, *(pages[number % len(pages)] for number in again)]:
        body.recorder.record(each)
    assert body.rows() == whole


@streams
@given(
    pages=st.lists(recorded.items, max_size=4),
    models=st.lists(st.lists(recorded.models, max_size=6), max_size=4),
)
def test_law_postgres_holds_what_memory_holds(
    postgres: InPostgres, pages: list[list[object]], models: list[list[object]]
) -> None:
    """PostgreSQL holds the same rows as the memory recorder, even if each page comes twice."""
    postgres.clear()
    with in_memory() as memory:
        for number, items in enumerate([*pages, *models]):
            for each in (memory, memory, postgres, postgres):
                each.recorder.record(page(number, items))
        assert postgres.rows() == memory.rows()


@streams
@given(seqs=st.lists(st.tuples(st.sampled_from(LOGS), st.integers(0, 2**62)), max_size=8))
def test_law_a_cursor_never_goes_back(body: Body, seqs: list[tuple[UUID, int]]) -> None:
    """Each log has a cursor of its own, 0 at first and then the highest sequence recorded."""
    body.clear()
    for log_id, seq in seqs:
        body.recorder.record(page(seq, log_id=log_id))
    for log_id in [*LOGS, UUID(int=9)]:
        assert body.recorder.cursor(log_id) == max(
            (seq for log, seq in seqs if log == log_id), default=0
        )


@given(first=recorded.models, second=recorded.models)
@streams
def test_law_one_active_model_a_series(body: Body, first: object, second: object) -> None:
    """A model that becomes active archives its active predecessor, in the same page or later."""
    body.clear()
    for pages in ([page(1, [first]), page(2, [second])], [page(3, [second, first])]):
        for each in pages:
            body.recorder.record(each)
        active = [row.key for row in body.rows().models.values() if row.status == "active"]
        assert len(active) == len(set(active))


def test_a_page_with_a_duplicate_is_not_copied_for_a_while(database: str) -> None:
    """A page with a duplicate makes the next pages be inserted instead of copied for a rest.

    The rows stay the same.
    """
    with in_postgres(database, Bulk(readings=2, rest_seconds=3600.0)) as body:
        for number in range(3):
            body.recorder.record(page(number, [reading(1.0), reading(2.0 + number)]))
        assert len(body.rows().telemetry) == 4


def test_a_message_that_comes_again_is_one_dead_letter(body: Body) -> None:
    """A message received again is the same dead letter with a higher count.

    A repeated page counts no message twice.
    """
    first, again = (
        Rejected(RejectionReason.MALFORMED, "why", Raw("t", b"{", NOW + second))
        for second in (0, 7)
    )
    for number in (1, 2, 2, 1):
        body.recorder.record(
            page(
                number,
                [first]
                if number == 1
                else [again, Rejected(RejectionReason.EMPTY, "", Raw("t", b"", NOW + 9))],
            )
        )
    letters = {
        letter.raw.payload: (letter.raw.received, times, last)
        for letter, times, last in body.rows().dead_letters.values()
    }
    assert letters == {b"{": (NOW, 2, NOW + 7), b"": (NOW + 9, 1, NOW + 9)}


def test_a_late_anomaly_counts_where_its_reading_is_new(body: Body) -> None:
    """A late anomaly is recorded only with a new reading, and a repeated page changes no row."""
    found = [reading(1.0), reading(2.0)]
    body.recorder.record(page(1, found[:1]))
    late = [(row, recorded.anomaly(row)) for row in range(2)]
    for _ in "12":
        body.recorder.record(dataclasses.replace(page(2, found), late=late))
        assert list(body.rows().anomalies) == [recorded.anomaly(1).id]


# ---------------------------------------------------------------------------------------- bad input
def reading(value: float = 1.0) -> Reading:
    """Return a reading of a fixed series and time, distinguished by its value."""
    return Reading("a", "x", NOW, value, int(value))


def test_text_that_a_database_cannot_hold_is_kept_as_an_escape(postgres: InPostgres) -> None:
    """NUL and lone surrogates are stored as escapes; a payload is stored byte for byte."""
    payload = bytes(range(256))
    letter = Rejected(RejectionReason.MALFORMED, "\ud800 and \0", Raw("a/\0/\udcff", payload, NOW))
    postgres.recorder.record(page(1, [letter, Reading("a", "x", NOW, 1.0, 1, original="\0\ud800")]))
    ((kept, *_),) = postgres.rows().dead_letters.values()
    assert kept == Rejected(
        RejectionReason.MALFORMED, "\\ud800 and \\x00", Raw("a/\\x00/\\udcff", payload, NOW)
    )
    assert [row[3] for row in postgres.rows().telemetry.values()] == ["\\x00\\ud800"]


def test_numbers_that_json_cannot_hold_become_null(postgres: InPostgres) -> None:
    """An unknown expected value (NaN, infinite) is stored as null."""
    anomaly = recorded.anomaly(expected=float("nan"), upper=float("inf"))
    postgres.recorder.record(page(1, [anomaly]))
    (kept,) = postgres.rows().anomalies.values()
    assert msgspec.to_builtins(kept) == msgspec.to_builtins(anomaly) | {
        "expected": None,
        "upper": None,
    }


def test_an_impossible_row_refuses_the_whole_page(postgres: InPostgres) -> None:
    """An invalid row refuses its whole page and leaves the cursor; the next page is recorded."""
    bad = msgspec.structs.replace(recorded.anomaly(), id="no uuid")
    with pytest.raises(DatabaseRefused, match="uuid"):
        postgres.recorder.record(page(1, [reading(), bad, recorded.letter(), recorded.model(1)]))
    rows = postgres.rows()
    assert (rows.telemetry, rows.dead_letters, rows.models, postgres.recorder.cursor(LOG)) == (
        {},
        {},
        {},
        0,
    )
    postgres.recorder.record(page(1, [reading(), recorded.letter()]))
    assert postgres.recorder.cursor(LOG) == 1


# ----------------------------------------------------------------------------------- a broken world
def test_nobody_there_is_away() -> None:
    """A call without a listening database raises `DatabaseAway`."""
    with (
        PostgresRecorder("host=127.0.0.1 port=1 user=nobody dbname=x") as recorder,
        pytest.raises(DatabaseAway),
    ):
        recorder.cursor(LOG)


def test_a_deaf_server_is_given_up_in_time() -> None:
    """A server that accepts and never answers holds a call no longer than the connect timeout."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        dsn = f"host=127.0.0.1 port={deaf.getsockname()[1]} user=nobody dbname=x connect_timeout=2"
        began = time.monotonic()
        with PostgresRecorder(dsn) as recorder, pytest.raises(DatabaseAway):
            recorder.cursor(LOG)
        assert time.monotonic() - began < 4.0


def test_a_missing_database_or_schema_refuses(empty_database: str) -> None:
    """A missing database or schema raises `DatabaseRefused`: waiting does not help."""
    with (
        PostgresRecorder(psycopg.conninfo.make_conninfo(empty_database, dbname="nonesuch")) as lost,
        pytest.raises(DatabaseRefused),
    ):
        lost.cursor(LOG)
    with (
        PostgresRecorder(empty_database) as bare,
        pytest.raises(DatabaseRefused, match="does not exist"),
    ):
        bare.record(page(1, [reading()]))


def test_an_address_that_cannot_be_read_is_not_repeated() -> None:
    """The error for an invalid address does not quote it, because it may contain a password."""
    with pytest.raises(DatabaseRefused) as caught:
        PostgresRecorder("host=x password = a secret")
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"


def backends(session: psycopg.Connection) -> list[int]:
    """Return process ids of the recorders' sessions in this database."""
    query = """SELECT pid FROM pg_stat_activity
        WHERE application_name = 'insa-anomaly' AND datname = current_database()"""
    return [pid for (pid,) in session.execute(query)]


def test_a_lost_connection_comes_back(postgres: InPostgres) -> None:
    """A connection ended by the server fails a single call; the next call opens a connection."""
    postgres.recorder.record(page(1, [reading(1.0)]))
    postgres.session.execute(
        "SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", (backends(postgres.session),)
    )
    with pytest.raises(DatabaseAway):
        postgres.recorder.record(page(2, [reading(2.0)]))
    postgres.recorder.record(page(2, [reading(2.0)]))
    assert (len(postgres.rows().telemetry), postgres.recorder.cursor(LOG)) == (2, 2)


def test_a_restarted_server_is_found_again(own_postgres: Server[str]) -> None:
    """Every call fails at once while the server is down, and succeeds after its restart."""
    from insa_anomaly.adapters.postgres.schema import migrate  # noqa: PLC0415 - only this test migrates

    migrate(own_postgres.address)
    with in_postgres(own_postgres.address) as body:
        body.recorder.record(page(1, [reading(1.0)]))
        serving = backends(body.session)
        own_postgres.kill()
        wait_for(lambda: not any(map(alive, serving)))  # backends outlive their server briefly
        for _ in range(2):
            with pytest.raises(DatabaseAway):
                body.recorder.record(page(2, [reading(2.0)]))
        own_postgres.start()
        body.recorder.record(page(2, [reading(2.0)]))
        assert body.recorder.cursor(LOG) == 2


def test_a_frozen_backend_is_given_up_at_the_deadline(database: str) -> None:
    """A stopped backend holds a call no longer than the deadline."""
    with in_postgres(database) as body, PostgresRecorder(database, deadline=0.5) as recorder:
        before = backends(body.session)
        recorder.record(page(1, [reading(1.0)]))
        (frozen,) = set(backends(body.session)) - set(before)
        with stopped(frozen):
            began = time.monotonic()
            with pytest.raises(DatabaseAway):
                recorder.record(page(2, [reading(2.0)]))
            assert time.monotonic() - began < 3.0
            recorder.record(page(2, [reading(2.0)]))
        assert recorder.cursor(LOG) == 2


def test_a_server_that_only_lets_read_is_away_until_it_lets_write(
    postgres: InPostgres, database: str
) -> None:
    """A standby counts as unreachable until it is promoted and writable."""
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    read_only = psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
    with PostgresRecorder(database) as recorder:
        recorder.record(page(1, [reading(1.0)]))
        postgres.session.execute(read_only.format(psycopg.sql.Identifier(str(name)), "on"))
        postgres.session.execute(
            "SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", (backends(postgres.session),)
        )
        for _ in range(3):
            with pytest.raises(DatabaseAway):
                recorder.record(page(2, [reading(2.0)]))
        postgres.session.execute(read_only.format(psycopg.sql.Identifier(str(name)), "off"))
        recorder.record(page(2, [reading(2.0)]))
        assert recorder.cursor(LOG) == 2


def test_a_server_that_becomes_a_standby_is_left_for_the_one_that_took_over(
    own_postgres: Server[str], empty_database: str
) -> None:
    """An address of several servers leads to the writable server, even if it has changed."""
    from insa_anomaly.adapters.postgres.schema import migrate  # noqa: PLC0415 - as above

    second = psycopg.conninfo.conninfo_to_dict(empty_database)
    name = str(second["dbname"])
    with psycopg.connect(own_postgres.address, autocommit=True) as session:
        session.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        first = psycopg.conninfo.conninfo_to_dict(own_postgres.address)
        migrate(psycopg.conninfo.make_conninfo(own_postgres.address, dbname=name))
        migrate(empty_database)
        both = psycopg.conninfo.make_conninfo(
            empty_database,
            host=f"{first['host']},{second['host']}",
            port=f"{first.get('port', 5432)},{second.get('port', 5432)}",
        )
        with PostgresRecorder(both) as recorder:
            recorder.record(page(1, [reading(1.0)]))
            session.execute(
                psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(
                    psycopg.sql.Identifier(name)
                )
            )
            # A running session of a standby sees the same setting.
            recorder._connection._live()[0].execute("SET default_transaction_read_only = on")
            with pytest.raises(DatabaseAway):
                recorder.record(page(2, [reading(2.0)]))
            recorder.record(page(2, [reading(2.0)]))
            with PostgresRecorder(empty_database) as there:
                assert there.cursor(LOG) == 2


class Growing(list[SeriesKey]):
    """A list of names that grows, as by another thread, whenever its length is read."""

    def __len__(self) -> int:
        """Return the length, after adding a name."""
        self.append(SeriesKey("new", f"m{super().__len__()}"))
        return super().__len__()


def test_series_may_be_found_while_a_page_is_recorded(postgres: InPostgres) -> None:
    """A page is recorded while the score reader admits new series."""
    one = page(1, [reading(1.0)])
    telemetry = dataclasses.replace(one.telemetry, keys=Growing(one.telemetry.keys))
    postgres.recorder.record(dataclasses.replace(one, telemetry=telemetry))
    assert len(postgres.rows().telemetry) == 1


# ------------------------------------------------------------------------------------ one of a name
def test_of_two_daemons_of_one_name_the_second_is_told(database: str) -> None:
    """The second of two daemons of the same name is refused, even with a log of its own.

    Another name is accepted, and the same name is accepted once the first daemon is gone.
    """
    first = PostgresRecorder(database, claim=Claim("line-1", LOG))
    with PostgresRecorder(database, claim=Claim("line-1", UUID(int=2))) as second:
        with first:
            first.record(page(1, [reading(1.0)]))
            with pytest.raises(DatabaseTaken, match="client id line-1"):
                second.cursor(LOG)
            with PostgresRecorder(database, claim=Claim("line-2", UUID(int=3))) as other:
                other.record(page(2, [reading(2.0)]))
        wait_for(lambda: cursor_or_none(second) == 2)


def cursor_or_none(recorder: PostgresRecorder) -> int | None:
    """Return the cursor, or None while the server still holds the name for another session."""
    try:
        return recorder.cursor(LOG)
    except DatabaseTaken:
        return None


def test_a_session_of_our_own_that_seems_alive_is_ended(
    postgres: InPostgres, database: str
) -> None:
    """An earlier session of the same log is ended.

    The network may have hidden its end from the server.
    """
    with (
        PostgresRecorder(database, claim=Claim("line-1", LOG)) as before,
        PostgresRecorder(database, claim=Claim("line-1", LOG)) as now,
    ):
        before.record(page(1, [reading(1.0)]))
        with pytest.raises(DatabaseAway, match="earlier session"):
            now.cursor(LOG)
        wait_for(
            lambda: (
                not postgres.session.execute(
                    "SELECT FROM pg_locks WHERE locktype = 'advisory'"
                ).fetchall()
            )
        )
        assert now.cursor(LOG) == 1


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process for the duration of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_commit_that_failed_leaves_nothing(postgres: InPostgres) -> None:
    """A COMMIT that fails leaves no row, and the same page can be recorded again."""
    postgres.session.execute("""
        CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER die AFTER INSERT ON ingest_cursor DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION die()
    """)
    with pytest.raises(DatabaseAway):
        postgres.recorder.record(page(7, [reading()]))
    assert (postgres.rows().telemetry, postgres.recorder.cursor(LOG)) == ({}, 0)
    postgres.session.execute("DROP TRIGGER die ON ingest_cursor")
    postgres.recorder.record(page(7, [reading()]))
    assert (len(postgres.rows().telemetry), postgres.recorder.cursor(LOG)) == (1, 7)


def test_a_commit_whose_answer_is_lost_is_there(postgres: InPostgres, database: str) -> None:
    """A COMMIT whose answer is lost moves the cursor, and the same page again changes no row."""
    everything = [
        reading(2.0),
        recorded.anomaly(),
        *(recorded.model(number) for number in (1, 2)),
        recorded.letter(),
    ]
    with Proxy(database) as proxy, PostgresRecorder(proxy.dsn) as recorder:
        recorder.record(page(1, [reading()]))
        proxy.swallow()
        caller = Caller(lambda: recorder.record(page(2, everything)))
        wait_for(lambda: postgres.recorder.cursor(LOG) == 2)
        there = postgres.rows()
        proxy.cut()
        assert isinstance(caller.error(), DatabaseAway)
        assert recorder.cursor(LOG) == 2
        recorder.record(page(2, everything))
        assert postgres.rows() == there
    assert (len(there.telemetry), len(there.anomalies), len(there.dead_letters)) == (2, 1, 1)
    assert {row.id: row.status for row in there.models.values()} == {
        deterministic_id(1): "archived",
        deterministic_id(2): "active",
    }


class Caller(threading.Thread):
    """A thread that makes a call and stores the error raised."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._raised: Exception | None = None
        self.start()

    def run(self) -> None:
        """Make the call."""
        try:
            self._call()
        except DatabaseAway as error:
            self._raised = error

    def error(self) -> Exception | None:
        """Return the error raised, once the call has returned."""
        self.join(10)
        return self._raised


class Proxy:
    """A proxy before a server on a unix socket that can withhold the server's answers."""

    def __init__(self, dsn: str) -> None:
        given = psycopg.conninfo.conninfo_to_dict(dsn)
        self._server = f"{given['host']}/.s.PGSQL.{given.get('port') or 5432}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.dsn = psycopg.conninfo.make_conninfo(
            dsn, host="127.0.0.1", port=self._listener.getsockname()[1]
        )
        self._deaf = False
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def swallow(self) -> None:
        """Withhold all answers on the open connections."""
        self._deaf = True

    def cut(self) -> None:
        """End all connections; new connections are answered again."""
        self._deaf = False
        for end in self._open:
            with end:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # it ended before
        self._open = []

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._open += [client, server]
            threading.Thread(
                target=self._forward, args=(client, server, lambda: True), daemon=True
            ).start()
            threading.Thread(
                target=self._forward, args=(server, client, lambda: not self._deaf), daemon=True
            ).start()

    def _forward(
        self, source: socket.socket, target: socket.socket, speaks: Callable[[], bool]
    ) -> None:
        try:
            while said := source.recv(65536):
                if speaks():
                    target.sendall(said)
        except OSError:
            return
