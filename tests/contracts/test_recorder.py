"""What every recorder promises, in memory and in PostgreSQL; and what only a real one can break."""

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
from insa_anomaly.core.reading.reading import Cause, Raw, Reading, Rejected
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
    """A recorder, empty, with a way to see what it wrote."""
    if request.param == "memory":
        with in_memory() as memory:
            yield memory
    else:
        with in_postgres(request.getfixturevalue("database"), WAYS[request.param]) as postgres:
            yield postgres


@pytest.fixture(params=["insert", "copy"])
def postgres(request: pytest.FixtureRequest, database: str) -> Iterator[InPostgres]:
    """The real recorder, empty, by either of its ways to write readings."""
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
    """The same things leave the same rows, however they are cut into pages and whichever pages come again."""
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
    """Recorder by recorder, the rows are the same, and each page may come twice in a row."""
    postgres.clear()
    with in_memory() as memory:
        for number, items in enumerate([*pages, *models]):
            for each in (memory, memory, postgres, postgres):
                each.recorder.record(page(number, items))
        assert postgres.rows() == memory.rows()


@streams
@given(seqs=st.lists(st.tuples(st.sampled_from(LOGS), st.integers(0, 2**62)), max_size=8))
def test_law_a_cursor_never_goes_back(body: Body, seqs: list[tuple[UUID, int]]) -> None:
    """Each log has a cursor of its own: the furthest place it was recorded to, 0 before."""
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
    """A model that becomes active archives the one before it, in the same page or in another."""
    body.clear()
    for pages in ([page(1, [first]), page(2, [second])], [page(3, [second, first])]):
        for each in pages:
            body.recorder.record(each)
        active = [
            (row.device_id, row.metric_name)
            for row in body.rows().models.values()
            if row.status == "active"
        ]
        assert len(active) == len(set(active))


def test_a_page_with_a_duplicate_is_not_copied_for_a_while(database: str) -> None:
    """After a page that held a duplicate the next ones are inserted, until its rest is over; what is recorded is the same."""
    with in_postgres(database, Bulk(readings=2, rest_seconds=3600.0)) as body:
        for number in range(3):
            body.recorder.record(page(number, [reading(1.0), reading(2.0 + number)]))
        assert len(body.rows().telemetry) == 4


def test_a_message_that_comes_again_is_one_dead_letter(body: Body) -> None:
    """Under another time of receipt it is the same row, counted; a page that comes twice counts nothing twice."""
    first, again = (
        Rejected(Cause.MALFORMED, "why", Raw("t", b"{", NOW + second)) for second in (0, 7)
    )
    for number in (1, 2, 2, 1):
        body.recorder.record(
            page(
                number,
                [first]
                if number == 1
                else [again, Rejected(Cause.EMPTY, "", Raw("t", b"", NOW + 9))],
            )
        )
    letters = {
        letter.raw.payload: (letter.raw.received, times, last)
        for letter, times, last in body.rows().dead_letters.values()
    }
    assert letters == {b"{": (NOW, 2, NOW + 7), b"": (NOW + 9, 1, NOW + 9)}


def test_a_late_anomaly_counts_where_its_reading_is_new(body: Body) -> None:
    """It is recorded with its reading; where that is there already, it is left out; the same page again changes nothing."""
    found = [reading(1.0), reading(2.0)]
    body.recorder.record(page(1, found[:1]))
    late = [(row, recorded.anomaly(row)) for row in range(2)]
    for _ in "12":
        body.recorder.record(dataclasses.replace(page(2, found), late=late))
        assert list(body.rows().anomalies) == [recorded.anomaly(1).id]


# ---------------------------------------------------------------------------------------- bad input
def reading(value: float = 1.0) -> Reading:
    """A reading of one series and time, told apart by its value."""
    return Reading("a", "x", NOW, value, int(value))


def test_text_that_a_database_cannot_hold_is_kept_as_an_escape(postgres: InPostgres) -> None:
    """NUL and lone surrogates in a topic, a detail or a timestamp fail no page; the payload is kept byte for byte."""
    payload = bytes(range(256))
    letter = Rejected(Cause.MALFORMED, "\ud800 and \0", Raw("a/\0/\udcff", payload, NOW))
    postgres.recorder.record(page(1, [letter, Reading("a", "x", NOW, 1.0, 1, original="\0\ud800")]))
    ((kept, *_),) = postgres.rows().dead_letters.values()
    assert kept == Rejected(
        Cause.MALFORMED, "\\ud800 and \\x00", Raw("a/\\x00/\\udcff", payload, NOW)
    )
    assert [row[3] for row in postgres.rows().telemetry.values()] == ["\\x00\\ud800"]


def test_numbers_that_json_cannot_hold_become_null(postgres: InPostgres) -> None:
    """An expectation that is not known (NaN, infinite) is no reason to refuse the anomaly."""
    anomaly = recorded.anomaly(expected=float("nan"), upper=float("inf"))
    postgres.recorder.record(page(1, [anomaly]))
    (kept,) = postgres.rows().anomalies.values()
    assert msgspec.to_builtins(kept) == msgspec.to_builtins(anomaly) | {
        "expected": None,
        "upper": None,
    }


def test_an_impossible_row_refuses_the_whole_page(postgres: InPostgres) -> None:
    """Where a row cannot be recorded nothing of its page is, the cursor stays, and the next page is recorded."""
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
    """Where no database listens, the call may succeed later."""
    with (
        PostgresRecorder("host=127.0.0.1 port=1 user=nobody dbname=x") as recorder,
        pytest.raises(DatabaseAway),
    ):
        recorder.cursor(LOG)


def test_a_deaf_server_is_given_up_in_time() -> None:
    """A port that accepts and never answers holds a call no longer than the time to connect."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        dsn = f"host=127.0.0.1 port={deaf.getsockname()[1]} user=nobody dbname=x connect_timeout=2"
        began = time.monotonic()
        with PostgresRecorder(dsn) as recorder, pytest.raises(DatabaseAway):
            recorder.cursor(LOG)
        assert time.monotonic() - began < 4.0


def test_a_missing_database_or_schema_refuses(empty_database: str) -> None:
    """A wrong address and a database without our tables are refusals: waiting does not help."""
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
    """The message about a wrong address does not quote it: it may hold a password."""
    with pytest.raises(DatabaseRefused) as caught:
        PostgresRecorder("host=x password = a secret")
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"


def backends(session: psycopg.Connection) -> list[int]:
    """Process ids of our recorders in this database."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'insa-anomaly' AND datname = current_database()"
    return [pid for (pid,) in session.execute(query)]


def test_a_lost_connection_comes_back(postgres: InPostgres) -> None:
    """A connection that the server ended costs one call; the next one makes a new connection."""
    postgres.recorder.record(page(1, [reading(1.0)]))
    postgres.session.execute(
        "SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", (backends(postgres.session),)
    )
    with pytest.raises(DatabaseAway):
        postgres.recorder.record(page(2, [reading(2.0)]))
    postgres.recorder.record(page(2, [reading(2.0)]))
    assert (len(postgres.rows().telemetry), postgres.recorder.cursor(LOG)) == (2, 2)


def test_a_restarted_server_is_found_again(own_postgres: Server[str]) -> None:
    """While the server is down every call says so at once; when it is back recording goes on."""
    from insa_anomaly.adapters.postgres.schema import migrate  # noqa: PLC0415 - only this test migrates

    migrate(own_postgres.address)
    with in_postgres(own_postgres.address) as body:
        body.recorder.record(page(1, [reading(1.0)]))
        serving = backends(body.session)
        own_postgres.kill()
        wait_for(lambda: not any(map(alive, serving)))  # a backend outlives its server for a moment
        for _ in range(2):
            with pytest.raises(DatabaseAway):
                body.recorder.record(page(2, [reading(2.0)]))
        own_postgres.start()
        body.recorder.record(page(2, [reading(2.0)]))
        assert body.recorder.cursor(LOG) == 2


def test_a_frozen_backend_is_given_up_at_the_deadline(database: str) -> None:
    """A backend that is stopped, and so answers nothing and cancels nothing, holds a call no longer than the deadline."""
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
    """A standby, before and after it is promoted: what it does not take is no refusal, and a later call finds it writable."""
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
    """An address may name several servers: the one that lets us write is found, also when it is another one than before."""
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
            recorder._connection._live()[0].execute(
                "SET default_transaction_read_only = on"
            )  # what a running session of a standby sees
            with pytest.raises(DatabaseAway):
                recorder.record(page(2, [reading(2.0)]))
            recorder.record(page(2, [reading(2.0)]))
            with PostgresRecorder(empty_database) as there:
                assert there.cursor(LOG) == 2


class Growing(list[tuple[str, str]]):
    """Names to which another thread adds one whenever somebody looks."""

    def __len__(self) -> int:
        """How many there are, and one more the next time."""
        self.append(("new", f"m{super().__len__()}"))
        return super().__len__()


def test_series_may_be_found_while_a_page_is_recorded(postgres: InPostgres) -> None:
    """The names are those of all series, and the score reader goes on finding new ones."""
    one = page(1, [reading(1.0)])
    telemetry = dataclasses.replace(one.telemetry, keys=Growing(one.telemetry.keys))
    postgres.recorder.record(dataclasses.replace(one, telemetry=telemetry))
    assert len(postgres.rows().telemetry) == 1


# ------------------------------------------------------------------------------------ one of a name
def test_of_two_daemons_of_one_name_the_second_is_told(database: str) -> None:
    """Also with a log of its own, elsewhere; under another name it may, and once the first is gone it may."""
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
    """None while another holds the name: a server needs a moment to see that it is gone."""
    try:
        return recorder.cursor(LOG)
    except DatabaseTaken:
        return None


def test_a_session_of_our_own_that_seems_alive_is_ended(
    postgres: InPostgres, database: str
) -> None:
    """The network swallowed its end, so the server keeps the name for it: it is ours by its log, and makes way."""
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
    """A process that stands still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_commit_that_failed_leaves_nothing(postgres: InPostgres) -> None:
    """The connection dies while COMMIT runs, before it is done: nothing is there, and the same page again is right."""
    postgres.session.execute("""
        CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER die AFTER INSERT ON ingest_cursor DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()
    """)
    with pytest.raises(DatabaseAway):
        postgres.recorder.record(page(7, [reading()]))
    assert (postgres.rows().telemetry, postgres.recorder.cursor(LOG)) == ({}, 0)
    postgres.session.execute("DROP TRIGGER die ON ingest_cursor")
    postgres.recorder.record(page(7, [reading()]))
    assert (len(postgres.rows().telemetry), postgres.recorder.cursor(LOG)) == (1, 7)


def test_a_commit_whose_answer_is_lost_is_there(postgres: InPostgres, database: str) -> None:
    """The connection dies after COMMIT, before its answer: the cursor says so, and the same page again changes nothing."""
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
    """Calls in a thread of its own, and keeps what it raised."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._raised: Exception | None = None
        self.start()

    def run(self) -> None:
        """Call."""
        try:
            self._call()
        except DatabaseAway as error:
            self._raised = error

    def error(self) -> Exception | None:
        """What the call raised, once it is back."""
        self.join(10)
        return self._raised


class Proxy:
    """Stands between a client and a server on a unix socket, and can keep the server's answers to itself."""

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
        """From now on no answer comes back on the open connections."""
        self._deaf = True

    def cut(self) -> None:
        """End all connections; new ones are answered again."""
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
