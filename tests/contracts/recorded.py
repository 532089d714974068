"""Generated pages, and tables read back, for the suites of Recorder and History."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import psycopg
from hypothesis import strategies as st
from psycopg import sql

from insa_anomaly.adapters.postgres.history import PostgresHistory
from insa_anomaly.adapters.postgres.recorder import Bulk, PostgresRecorder
from insa_anomaly.core.notification.event import Anomaly, Episode, Reason, deterministic_id
from insa_anomaly.core.reading.reading import Raw, Reading, Rejected, RejectionReason
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.models import ModelRow
from insa_anomaly.ports.recorder import Page, Telemetry
from insa_anomaly.testing.history import MemoryHistory
from insa_anomaly.testing.recorder import MemoryRecorder, MemoryTables

LOG = UUID(int=1)
NOW = 1_760_000_000_000_000

# ---------------------------------------------------------------------------------------- generated
finite = st.floats(allow_nan=False, allow_infinity=False)
times = st.integers(NOW - 40 * 86_400_000_000, NOW + 40 * 86_400_000_000) | st.just(NOW)
names = st.sampled_from(["pump-1", "Presse 2", "температура", "a"])
ids = st.integers(0, 5).map(deterministic_id)
words = st.text(max_size=30)  # NUL included; no lone surrogates

discriminators = st.integers(0, 2) | st.integers(-(2**63), 2**63 - 1)
readings = st.builds(
    Reading,
    device_id=names,
    metric_name=names,
    timestamp=times,
    value=finite,
    discriminator=discriminators,
    quality=st.integers(0, 2),
    flags=st.integers(0, 7),
    original=st.none() | words,
)
reasons = st.builds(
    Reason,
    st.sampled_from(["jump", "level"]),
    finite,
    st.text(st.characters(exclude_characters="\0", codec="utf-8")),
)
anomalies = st.builds(
    Anomaly,
    id=ids,
    model_id=ids,
    model_version=st.integers(1, 9),
    device_id=names,
    metric_name=names,
    timestamp=times,
    value=finite,
    score=finite,
    raw_score=finite,
    confidence=finite,
    expected=finite,
    lower=finite,
    upper=finite,
    reasons=st.lists(reasons, max_size=2),
    historical=st.booleans(),
    episode_id=st.none() | ids,
)
raws = st.builds(Raw, words, st.binary(max_size=50), st.integers(0, 5).map(NOW.__add__))
rejections = st.builds(Rejected, st.sampled_from(RejectionReason), words, raws)
# An episode's fields follow from its id and its progress.
progress = st.tuples(
    st.integers(0, 5), st.none() | st.integers(0, 3), st.integers(0, 3), st.integers(1, 3)
)


def _episode(state: tuple[int, int | None, int, int]) -> Episode:
    number, closed, updated, count = state
    closed_at = None if closed is None else NOW + closed
    return Episode(
        id=deterministic_id(number),
        device_id="pump-1",
        metric_name="a",
        model_id=deterministic_id(0),
        model_version=3,
        started_at=NOW,
        updated_at=NOW + updated,
        closed_at=closed_at,
        readings=count,
        peak_confidence=count / 7,
        historical=number > 3,
    )


episodes = progress.map(_episode)


def model(number: int, status: str = "active", reason: str = "") -> ModelRow:
    """Return a state of a model; numbers below 3 belong to a series, higher numbers to another."""
    parameters: dict[str, float | int | str | bool | None] = {
        "n_estimators": 100,
        "max_samples": "auto",
        "warm": False,
    }
    figures: dict[str, float | int | str | dict[str, float] | None] = {
        "n": 500,
        "basis": "holdout",
        "span": None,
        "share": 0.25,
    }
    return ModelRow(
        id=deterministic_id(number),
        device_id="pump-1",
        metric_name="a" if number < 3 else "b",
        version=number,
        status=status,
        model_path=f"a/{number}",
        trained_at=NOW + number,
        training_samples=500,
        threshold=0.4,
        parameters=parameters,
        figures=figures,
        sha256="ab" * 32,
        accuracy=0.9,
        false_positive_rate=None,
        reason=reason,
    )


statuses = st.sampled_from(["active", "archived", "disabled", "failed", "shadow", "deleted"])
models = st.builds(model, st.integers(0, 5), statuses, st.sampled_from(["", "why"]))
items = st.lists(readings | anomalies | episodes | rejections, max_size=25)


def anomaly(number: int = 1, expected: float = 1.0, upper: float = 2.0) -> Anomaly:
    """Return an anomaly; only id, expected value and upper bound vary."""
    return Anomaly(
        id=deterministic_id(number),
        model_id=deterministic_id(2),
        model_version=1,
        device_id="a",
        metric_name="x",
        timestamp=NOW,
        value=3.0,
        score=-0.5,
        raw_score=-0.1,
        confidence=0.5,
        expected=expected,
        lower=0.0,
        upper=upper,
        reasons=[Reason("jump", 1.0, "up")],
    )


def letter() -> Rejected:
    """Return a rejected message for the dead letters."""
    return Rejected(RejectionReason.MALFORMED, "why", Raw("t", b"{", NOW))


def telemetry(found: Sequence[Reading]) -> Telemetry:
    """Return readings as columns.

    A series in `keys` has no reading, as happens when a fleet names all its series.
    """
    keys = [
        SeriesKey("nobody", "nothing"),
        *dict.fromkeys(SeriesKey(reading.device_id, reading.metric_name) for reading in found),
    ]
    return Telemetry(
        keys=keys,
        key=np.array(
            [keys.index(SeriesKey(reading.device_id, reading.metric_name)) for reading in found],
            np.int32,
        ),
        timestamp=np.array([reading.timestamp for reading in found], np.int64),
        discriminator=np.array([reading.discriminator for reading in found], np.int64),
        value=np.array([reading.value for reading in found], np.float64),
        quality=np.array([reading.quality for reading in found], np.int16),
        flags=np.array([reading.flags for reading in found], np.int16),
        original={
            row: reading.original
            for row, reading in enumerate(found)
            if reading.original is not None
        },
    )


def page(seq: int, found: Sequence[object] = (), log_id: UUID = LOG) -> Page:
    """Return a page with the items sorted into its fields."""
    return Page(
        log_id=log_id,
        seq=seq,
        telemetry=telemetry([thing for thing in found if isinstance(thing, Reading)]),
        anomalies=[thing for thing in found if isinstance(thing, Anomaly)],
        episodes=[thing for thing in found if isinstance(thing, Episode)],
        rejected=[thing for thing in found if isinstance(thing, Rejected)],
        models=[thing for thing in found if isinstance(thing, ModelRow)],
    )


# ---------------------------------------------------------------------------------------- read back
@dataclass
class InMemory:
    """The in-memory bodies of recorder and history."""

    recorder: MemoryRecorder
    history: MemoryHistory

    def rows(self) -> MemoryTables:
        """Return the recorded rows, with text as a database can store it."""
        tables = self.recorder.tables
        readings = {
            place: (*row[:3], None if row[3] is None else held(row[3]))
            for place, row in tables.telemetry.items()
        }
        letters = {
            digest: (_held(letter), times, last)
            for digest, (letter, times, last) in tables.dead_letters.items()
        }
        return dataclasses.replace(_copied(tables), telemetry=readings, dead_letters=letters)

    def say(self, episode_id: str, verdict: str) -> None:
        """Record an operator's verdict on an episode."""
        self.recorder.tables.verdicts[episode_id] = verdict

    def clear(self) -> None:
        """Empty every table."""
        for table in vars(self.recorder.tables).values():
            table.clear()


@dataclass
class InPostgres:
    """The PostgreSQL bodies of recorder and history; `session` is for the test's own queries."""

    recorder: PostgresRecorder
    history: PostgresHistory
    session: psycopg.Connection

    def rows(self) -> MemoryTables:
        """Return the recorded rows as types of the ports."""
        return MemoryTables(
            telemetry={
                (SeriesKey(row[0], row[1]), us(row[2]), row[3]): row[4:]
                for row in self.session.execute(_TELEMETRY)
            },
            anomalies={row[0]: _anomaly(row) for row in self.session.execute(_ANOMALIES)},
            episodes={
                row[0]: Episode(*(us(cell) for cell in row))
                for row in self.session.execute(_EPISODES)
            },
            dead_letters={
                row[0]: (_letter(row), row[1], us(row[2])) for row in self.session.execute(_LETTERS)
            },
            models={
                row[0]: ModelRow(*(us(cell) for cell in row))
                for row in self.session.execute(_MODELS)
            },
            cursors=dict(self.session.execute("SELECT log_id, seq FROM ingest_cursor").fetchall()),
        )

    def say(self, episode_id: str, verdict: str) -> None:
        """Record an operator's verdict on an episode."""
        self.session.execute(
            "INSERT INTO feedback (episode_id, verdict, given_by) VALUES (%s, %s, 'bob')",
            (episode_id, verdict),
        )

    def clear(self) -> None:
        """Empty every table but `series`, because a recorder caches the ids of series."""
        for table in (
            "telemetry",
            "anomaly_detections",
            "anomaly_episodes",
            "dead_letters",
            "ml_models",
            "ingest_cursor",
            "feedback",
        ):
            self.session.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))


Body = InMemory | InPostgres

_TELEMETRY = """SELECT device_id, metric_name, timestamp, discriminator, value, quality, flags,
    original FROM telemetry_readings"""
_ANOMALIES = """SELECT id::text, model_id::text, (metadata->>'model_version')::int, device_id,
    metric_name, timestamp, value, anomaly_score, (metadata->>'raw_score')::float8, confidence,
    (metadata->>'expected')::float8, (metadata->>'lower')::float8, (metadata->>'upper')::float8,
    metadata->'reasons', (metadata->>'historical')::bool, episode_id::text
    FROM anomaly_detections WHERE is_anomaly = (anomaly_score < 0)"""
_EPISODES = """SELECT id::text, device_id, metric_name, model_id::text, model_version, started_at,
    updated_at, closed_at, readings, peak_confidence, historical FROM anomaly_episodes"""
_LETTERS = """SELECT digest, times, last_received, received, topic, payload, reason, detail
    FROM dead_letters"""
_MODELS = """SELECT id::text, device_id, metric_name, version, status, model_path, trained_at,
    training_samples, threshold, parameters, figures, sha256, accuracy, false_positive_rate, reason
    FROM ml_models WHERE model_type = 'isolation_forest'"""


@contextmanager
def in_memory() -> Iterator[InMemory]:
    """Yield recorder and history over tables in memory."""
    tables = MemoryTables()
    yield InMemory(MemoryRecorder(tables), MemoryHistory(tables))


@contextmanager
def in_postgres(dsn: str, bulk: Bulk | None = None) -> Iterator[InPostgres]:
    """Yield recorder and history over a database with the schema."""
    with (
        PostgresRecorder(dsn, bulk=bulk) as recorder,
        PostgresHistory(dsn) as history,
        psycopg.connect(dsn, autocommit=True) as session,
    ):
        session.execute("SET timezone = 'UTC'")
        yield InPostgres(recorder, history, session)


def us(cell: Any) -> Any:  # noqa: ANN401 - a cell of any column
    """Convert a time to microseconds since the epoch, and return any other cell unchanged."""
    return (
        (cell - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        if isinstance(cell, datetime)
        else cell
    )


def held(text: str) -> str:
    """Return text as PostgreSQL stores it: without NUL."""
    return text.replace("\0", "\\x00")


def _held(letter: Rejected) -> Rejected:
    return Rejected(
        letter.reason,
        held(letter.detail),
        msgspec.structs.replace(letter.raw, topic=held(letter.raw.topic)),
    )


def _copied(tables: MemoryTables) -> MemoryTables:
    return MemoryTables(*(dict(table) for table in vars(tables).values()))


def _anomaly(row: tuple[Any, ...]) -> Anomaly:
    cells = [us(cell) for cell in row]
    cells[13] = msgspec.convert(cells[13], list[Reason])
    return Anomaly(*cells)


def _letter(row: tuple[Any, ...]) -> Rejected:
    received, topic, payload, cause, detail = row[3:]
    return Rejected(RejectionReason(cause), detail, Raw(topic, payload, us(received)))
