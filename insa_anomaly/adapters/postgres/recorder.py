"""What the record reader writes: readings, anomalies, episodes, dead letters and models, a page of the log in one transaction."""

import time
from collections.abc import Sequence
from typing import Self
from uuid import UUID

import msgspec
import psycopg

from insa_anomaly import instrumentation
from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.connection import Connection, Session
from insa_anomaly.adapters.postgres.telemetry import BinaryArray, BinaryArrayDumper, SeriesIds, columns, ensure_partitions
from insa_anomaly.adapters.postgres.text import document, storable
from insa_anomaly.core.reading import Rejected
from insa_anomaly.ports import ModelRow, Page, SeriesKey

_UPKEEP_SECONDS = 3600.0


class PostgresRecorder:
    """Records pages, and makes the partitions they go to ahead of time. For one thread.

    When the connection dies during COMMIT nobody knows whether the page is recorded: `record` raises DatabaseAway, and the caller
    reads `cursor` or records the page again; both are right, since repeating a page changes nothing.
    """

    def __init__(self, dsn: str, deadline: float = 10.0) -> None:
        self._statements = queries.load()
        self._series = SeriesIds(self._statements)
        self._connection = Connection(dsn, deadline, self._prepare)
        self._upkept = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def cursor(self, log_id: UUID) -> int:
        """Sequence recorded for this log, 0 for none. Raises DatabaseAway or DatabaseRefused."""
        with self._connection.session() as session:
            row = session.execute(self._statements["cursor"], (log_id,)).fetchone()
        return 0 if row is None else int(row[0])

    def record(self, page: Page) -> None:
        """All of the page and its cursor in one transaction and, but for new series, one round trip; repeating it changes nothing.

        Of states of one episode the later one stays. A model recorded as active archives the one before it. Raises DatabaseAway
        (perhaps recorded, perhaps not: the same page again is right) or DatabaseRefused (nothing was recorded).
        """
        with self._connection.session() as session:
            if time.monotonic() - self._upkept > _UPKEEP_SECONDS:
                self._upkeep(session)
            series_ids = self._series.of(page.telemetry, session)
            with session.pipeline(), session.cursor() as cursor:
                cursor.execute(b"BEGIN")
                if len(page.telemetry.key):
                    cursor.execute(self._statements["add_telemetry"], columns(page.telemetry, series_ids))
                self._write_results(cursor, page)
                cursor.execute(self._statements["reach"], (page.log_id, page.seq))
                cursor.execute(b"COMMIT")

    def _write_results(self, cursor: psycopg.Cursor, page: Page) -> None:
        if page.anomalies:
            cursor.execute(self._statements["add_anomalies"], (document(page.anomalies),))
        if page.episodes:
            cursor.execute(self._statements["put_episodes"], (document(page.episodes),))
        if page.rejected:
            cursor.executemany(self._statements["add_dead_letter"], [_dead_letter(page.log_id, rejected) for rejected in page.rejected])
        if page.models:
            models = document(settled(page.models))
            cursor.execute(self._statements["retire_models"], (models,))
            cursor.execute(self._statements["put_models"], (models,))

    def _prepare(self, session: Session) -> None:
        session.adapters.register_dumper(BinaryArray, BinaryArrayDumper)
        self._upkeep(session)

    def _upkeep(self, session: Session) -> None:
        """Partitions can wait, readings cannot: while a long report holds the lock, the default partition takes the rows."""
        self._upkept = time.monotonic()
        try:
            (today,) = session.execute(self._statements["today"]).fetchone() or (None,)
            ensure_partitions(session, self._statements, today)
        except psycopg.Error as error:
            if session.closed:
                raise
            instrumentation.partitions_failed(str(error).strip())


def settled(models: Sequence[ModelRow]) -> list[ModelRow]:
    """The last state of each model, at most one active a series: of two, the one that came later."""
    active: dict[SeriesKey, str] = {(row.device_id, row.metric_name): row.id for row in models if row.status == "active"}

    def superseded(row: ModelRow) -> bool:
        return row.status == "active" and active[row.device_id, row.metric_name] != row.id

    last = {row.id: row for row in models}.values()
    return [msgspec.structs.replace(row, status="archived") if superseded(row) else row for row in last]


def _dead_letter(log_id: UUID, rejected: Rejected) -> tuple[object, ...]:
    raw = rejected.raw
    return log_id, raw.received, storable(raw.topic), raw.payload, str(rejected.reason), storable(rejected.detail)
