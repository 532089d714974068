"""Recorded anomalies and episodes, read page by page, and the verdicts of operators on them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.postgres.text import storable
from insa_anomaly.core.notification.event import Anomaly, Episode, Reason
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.anomalies import AnomalyCounts, Feedback, Filter, PageCursor

_REASONS, _BAND = 13, slice(10, 13)
_EPISODE_WIDTH = 11


class PostgresFindings:
    """The tables `anomaly_detections`, `anomaly_episodes` and `feedback`.

    Any call may raise DatabaseAway or DatabaseRefused.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._statements = queries.load()

    def anomalies(self, wanted: Filter, after: PageCursor | None, most: int) -> list[Anomaly]:
        """Return the newest `most` anomalies that pass the filter, or the `most` after a place."""
        return [
            _anomaly(row)
            for row in self._rows("anomalies", {**asdict(wanted), **_after(after), "most": most})
        ]

    def count_anomalies(self, wanted: Filter) -> int:
        """Return the number of anomalies that pass the filter."""
        return int(self._rows("count_anomalies", asdict(wanted))[0][0])

    def episodes(
        self, wanted: Filter, after: PageCursor | None, most: int
    ) -> list[tuple[Episode, Feedback | None]]:
        """Return the newest `most` episodes by opening time, with their feedback.

        The filter and the place act as in `anomalies`.
        """
        rows = self._rows("episodes", {**asdict(wanted), **_after(after), "most": most})
        return [
            (
                Episode(*row[:_EPISODE_WIDTH]),
                Feedback(*row[_EPISODE_WIDTH:]) if row[_EPISODE_WIDTH] else None,
            )
            for row in rows
        ]

    def count_episodes(self, wanted: Filter) -> int:
        """Return the number of episodes that pass the filter."""
        return int(self._rows("count_episodes", asdict(wanted))[0][0])

    def tally(self, model_id: str, since: int) -> AnomalyCounts:
        """Return the model's findings since then and the verdicts on all its episodes."""
        return AnomalyCounts(*self._rows("tally", {"model_id": model_id, "since": since})[0])

    def confidences(self, key: SeriesKey, since: int, most: int) -> list[tuple[int, float]]:
        """Return time and confidence of up to `most` anomalies since then, in time order."""
        return [
            (time, confidence)
            for time, confidence in self._rows("confidences", (*key, since, most))
        ]

    def say(self, episode_id: str, feedback: Feedback) -> None:
        """Store an operator's feedback on an episode in place of any earlier feedback."""
        values = (
            episode_id,
            feedback.verdict,
            storable(feedback.note),
            storable(feedback.given_by),
            feedback.given_at,
        )
        with self._pool.session() as session:
            session.execute(self._statements["put_feedback"], values)

    def _rows(self, name: str, values: Mapping[str, object] | tuple[object, ...]) -> list[Any]:
        with self._pool.session() as session:
            return session.execute(self._statements[name], values, prepare=False).fetchall()


def _after(place: PageCursor | None) -> dict[str, object]:
    return {"after_time": place.time if place else None, "after_id": place.id if place else None}


def _anomaly(row: tuple[Any, ...]) -> Anomaly:
    """Build an anomaly; null stands for NaN in its expected value and its band."""
    cells = list(row)
    cells[_BAND] = [float("nan") if cell is None else cell for cell in cells[_BAND]]
    cells[_REASONS] = msgspec.convert(cells[_REASONS], list[Reason])
    return Anomaly(*cells)
