"""Pages of the log in PostgreSQL, each written in a single transaction by the record reader.

A page holds readings, anomalies, episodes, dead letters and models.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from uuid import UUID

import numpy as np
import numpy.typing as npt
import psycopg

from insa_anomaly.adapters.postgres import queries, telemetry
from insa_anomaly.adapters.postgres.connection import OF_A_ROW, PostgresConnection, Session
from insa_anomaly.adapters.postgres.text import document, storable
from insa_anomaly.core.notification.event import Anomaly
from insa_anomaly.core.reading.reading import Rejected
from insa_anomaly.errors import DatabaseAway, DatabaseTaken
from insa_anomaly.instrumentation.recorder import forgotten, upkeep_failed
from insa_anomaly.ports.closing import Closing
from insa_anomaly.ports.recorder import Page, letter_digest

_UPKEEP_SECONDS = 3600.0
# Rows deleted from a table each hour: more than a day adds to it, and gone within a second.
_FORGET_AT_ONCE = 20_000


@dataclass(frozen=True)
class Bulk:
    """Least number of `readings` for a page to be copied, and the pause after a duplicate.

    COPY costs the server half of the time of INSERT .. ON CONFLICT (2.6 us a reading against 5.4
    in pages of 2500), but a single reading that is already recorded fails the page. Duplicates come
    in runs, when a broker or a device repeats everything.
    """

    readings: int = 500
    rest_seconds: float = 60.0


@dataclass(frozen=True)
class Claim:
    """The right of a single daemon, known by its log, to record into a database under `name`.

    The name is a client id.
    """

    name: str
    log_id: UUID

    @property
    def session(self) -> str:
        """Application name under which the server lists our session, and we recognise it."""
        return f"insa-anomaly {self.log_id}"


class PostgresRecorder(Closing):
    """Recorder of pages, which also creates their partitions ahead of time; for a single thread.

    When the connection dies during COMMIT, it is unknown whether the page is recorded: `record`
    raises DatabaseAway, and the caller reads `cursor` or records the page again. Both are right,
    since repeating a page changes no row.
    """

    def __init__(
        self,
        dsn: str,
        deadline: float = 10.0,
        bulk: Bulk | None = None,
        claim: Claim | None = None,
        keep_days: Mapping[str, float | None] | None = None,
    ) -> None:
        """Connect lazily; `keep_days` limits the age of stored rows, None keeps them for ever.

        Its keys are telemetry, anomalies, dead_letters and audit.
        """
        self._keep_days = keep_days or {}
        self._statements = queries.load()
        self._bulk = bulk or Bulk()
        self._claim = claim
        self._duplicate_at = -inf
        self._series = telemetry.SeriesIds(self._statements)
        self._connection = PostgresConnection(dsn, deadline, self._prepare)
        self._upkept = 0.0

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def cursor(self, log_id: UUID) -> int:
        """Return the sequence recorded for this log, 0 for a log without any.

        Raises DatabaseAway or DatabaseRefused.
        """
        with self._connection.session() as session:
            row = session.execute(self._statements["cursor"], (log_id,)).fetchone()
        return 0 if row is None else int(row[0])

    def record(self, page: Page) -> None:
        """Record the page and its cursor in a single transaction; a repetition changes no row.

        Among states of the same episode, the latest stays. A model recorded as active archives the
        model active before it. Raises DatabaseAway (perhaps recorded, perhaps not: the same page
        again is right) or DatabaseRefused (the page was not recorded). The subclass RowsRefused
        means that the content of a row is refused.
        """
        with self._connection.session() as session:
            if time.monotonic() - self._upkept > _UPKEEP_SECONDS:
                self._upkeep(session)
            series_ids = self._series.of(page.telemetry, session)
            if page.late:
                late = self._not_recorded_yet(session, page, series_ids)
                page = replace(page, anomalies=[*page.anomalies, *late], late=())
            try:
                if not (self._is_bulk(page) and self._copied(session, page, series_ids)):
                    self._insert(session, page, series_ids)
            except OF_A_ROW:
                # A rollback keeps the connection: the search for the row makes many attempts.
                session.rollback()
                raise

    def _is_bulk(self, page: Page) -> bool:
        rested = time.monotonic() - self._duplicate_at >= self._bulk.rest_seconds
        many = len(page.telemetry.key) >= self._bulk.readings
        return rested and many and not page.telemetry.original

    def _not_recorded_yet(
        self, session: Session, page: Page, series_ids: npt.NDArray[np.int32]
    ) -> list[Anomaly]:
        """Return the late anomalies whose readings the database does not know.

        No other daemon writes these readings, so a query beforehand is enough.
        """
        rows = np.array([row for row, _ in page.late])
        ids = series_ids[page.telemetry.key[rows]]
        times, numbers = page.telemetry.timestamp[rows], page.telemetry.discriminator[rows]
        keys = (ids.tolist(), times.tolist(), numbers.tolist())
        known = {row for (row,) in session.execute(self._statements["known_readings"], keys)}
        return [anomaly for number, (_, anomaly) in enumerate(page.late, 1) if number not in known]

    def _copied(self, session: Session, page: Page, series_ids: npt.NDArray[np.int32]) -> bool:
        """Record a page of new readings; False, without a change, if a reading exists already."""
        with session.cursor() as cursor:
            try:
                cursor.execute(b"BEGIN")
                with cursor.copy(self._statements["copy_telemetry"]) as stream:
                    stream.write(telemetry.copy_stream(page.telemetry, series_ids))
                with session.pipeline():
                    self._finish(cursor, page)
            except psycopg.errors.UniqueViolation:
                cursor.execute(b"ROLLBACK")
                self._duplicate_at = time.monotonic()
                return False
            return True

    def _insert(self, session: Session, page: Page, series_ids: npt.NDArray[np.int32]) -> None:
        with session.pipeline(), session.cursor() as cursor:
            cursor.execute(b"BEGIN")
            if len(page.telemetry.key):
                values = telemetry.columns(page.telemetry, series_ids)
                cursor.execute(self._statements["add_telemetry"], values)
            self._finish(cursor, page)

    def _finish(self, cursor: psycopg.Cursor, page: Page) -> None:
        self._write_results(cursor, page)
        cursor.execute(self._statements["reach"], (page.log_id, page.seq))
        cursor.execute(b"COMMIT")

    def _write_results(self, cursor: psycopg.Cursor, page: Page) -> None:
        if page.anomalies:
            cursor.execute(self._statements["add_anomalies"], (document(page.anomalies),))
        if page.episodes:
            cursor.execute(self._statements["put_episodes"], (document(page.episodes),))
        if page.rejected:
            letters = [_dead_letter(page.log_id, rejected) for rejected in page.rejected]
            cursor.executemany(self._statements["add_dead_letter"], letters)
        for row in page.models:
            if row.status == "active":
                cursor.execute(self._statements["retire_model"], (*row.key, row.id))
            cursor.execute(self._statements["put_model"], (document(row),))

    def _prepare(self, session: Session) -> None:
        session.adapters.register_dumper(telemetry.BinaryArray, telemetry.BinaryArrayDumper)
        if self._claim is not None:
            self._claim_alone(session, self._claim)
        self._upkeep(session)

    def _claim_alone(self, session: Session, claim: Claim) -> None:
        """Claim the database for this daemon; raises DatabaseTaken where another daemon holds it.

        An earlier session of ours that the server takes for alive is ended and DatabaseAway is
        raised; the next attempt then succeeds.
        """
        names = {"name": claim.name, "session": claim.session}
        if session.execute(self._statements["claim"], names).fetchone() == (claim.session, True):
            return
        with session.transaction():
            # A session belongs to its login, whatever role works in it.
            session.execute("SET LOCAL ROLE NONE")
            ended = session.execute(self._statements["end_own_session"], names).fetchall()
        if ended:
            raise DatabaseAway("an earlier session of ours still had to be ended")
        raise DatabaseTaken(
            f"another daemon with the client id {claim.name} records into this database:"
            " give each its own (broker.client_id)"
        )

    def _upkeep(self, session: Session) -> None:
        """Create partitions ahead and delete old rows.

        Both can wait and readings cannot, so an error is logged: a long report may hold the lock.
        """
        self._upkept = time.monotonic()
        try:
            (today,) = session.execute(self._statements["today"]).fetchone() or (None,)
            telemetry.ensure_partitions(session, self._statements, today)
            for what, days in self._keep_days.items():
                self._forget(session, what, days)
        except psycopg.Error as error:
            if session.closed:
                raise
            upkeep_failed(str(error).strip())

    def _forget(self, session: Session, what: str, days: float | None) -> None:
        if days is not None:
            values = (what, days, _FORGET_AT_ONCE)
            (count,) = session.execute(self._statements["forget"], values).fetchone() or (0,)
            if count:
                forgotten(what, count)


def _dead_letter(log_id: UUID, rejected: Rejected) -> tuple[object, ...]:
    raw = rejected.raw
    reason, detail = str(rejected.reason), storable(rejected.detail)
    content = (storable(raw.topic), raw.payload, reason, detail)
    return (letter_digest(raw), log_id, raw.received, *content)
