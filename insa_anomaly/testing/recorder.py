"""The recorded tables in memory."""

from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import msgspec

from insa_anomaly.core.notification.event import Anomaly, Episode
from insa_anomaly.core.reading.reading import Rejected
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.models import ModelRow
from insa_anomaly.ports.recorder import Page, Telemetry, letter_digest


@dataclass
class MemoryTables:
    """Rows that a MemoryRecorder wrote, by the keys of PostgreSQL's tables.

    A telemetry row is (value, quality, flags, original).
    """

    telemetry: dict[tuple[SeriesKey, int, int], tuple[float, int, int, str | None]] = field(
        default_factory=dict
    )
    anomalies: dict[str, Anomaly] = field(default_factory=dict)
    episodes: dict[str, Episode] = field(default_factory=dict)
    dead_letters: dict[bytes, tuple[Rejected, int, int]] = field(default_factory=dict)
    models: dict[str, ModelRow] = field(default_factory=dict)
    cursors: dict[UUID, int] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)  # by the id of the episode


class MemoryRecorder:
    """The port `Recorder`; while `trouble` is set, every call raises it and records no row."""

    def __init__(self, tables: MemoryTables | None = None) -> None:
        self.tables = tables or MemoryTables()
        self.trouble: Exception | None = None

    def cursor(self, log_id: UUID) -> int:
        """Return the sequence recorded for this log, 0 for none."""
        self._answer()
        return self.tables.cursors.get(log_id, 0)

    def record(self, page: Page) -> None:
        """Record the page and its cursor; repetition changes no row."""
        self._answer()
        known, place = self.tables.telemetry, partial(_place, page.telemetry)
        late = [anomaly for row, anomaly in page.late if place(row) not in known]
        self._record_telemetry(page.telemetry)
        for anomaly in [*page.anomalies, *late]:
            self.tables.anomalies.setdefault(anomaly.id, anomaly)
        for episode in page.episodes:
            before = self.tables.episodes.setdefault(episode.id, episode)
            self.tables.episodes[episode.id] = max(before, episode, key=_progress)
        for rejected in page.rejected:
            self._record_letter(rejected)
        for row in page.models:
            self._record_model(row)
        self.tables.cursors[page.log_id] = max(page.seq, self.tables.cursors.get(page.log_id, 0))

    def _answer(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    def _record_telemetry(self, telemetry: Telemetry) -> None:
        names = ("value", "quality", "flags")
        columns = [getattr(telemetry, name).tolist() for name in names]
        for row, (value, quality, flags) in enumerate(zip(*columns, strict=True)):
            cells = (value, quality, flags, telemetry.original.get(row))
            self.tables.telemetry.setdefault(_place(telemetry, row), cells)

    def _record_letter(self, rejected: Rejected) -> None:
        digest, received = letter_digest(rejected.raw), rejected.raw.received
        first, times, last = self.tables.dead_letters.get(digest, (rejected, 0, received - 1))
        if received > last:
            self.tables.dead_letters[digest] = first, times + 1, received

    def _record_model(self, row: ModelRow) -> None:
        models = self.tables.models
        if row.status == "active":
            for other in list(models.values()):
                if other.key == row.key and other.status == "active":
                    models[other.id] = msgspec.structs.replace(other, status="archived")
        models[row.id] = row


def _place(telemetry: Telemetry, row: int) -> tuple[SeriesKey, int, int]:
    return (
        telemetry.keys[int(telemetry.key[row])],
        int(telemetry.timestamp[row]),
        int(telemetry.discriminator[row]),
    )


def _progress(episode: Episode) -> tuple[bool, int, int]:
    return episode.closed_at is not None, episode.updated_at, episode.readings
