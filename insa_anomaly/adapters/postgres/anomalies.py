"""Recorded anomalies and episodes, read page by page, and the verdicts of operators on them."""

from dataclasses import asdict
from typing import Any

import msgspec

from insa_anomaly.adapters.postgres.pool import PooledTables
from insa_anomaly.adapters.postgres.text import storable
from insa_anomaly.core.notification.event import Anomaly, Episode, Reason
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.anomalies import AnomalyCounts, Feedback, Filter, PageCursor

_REASONS, _BAND = 13, slice(10, 13)
_EPISODE_WIDTH = 11


class PostgresFindings(PooledTables):
    """The tables `anomaly_detections`, `anomaly_episodes` and `feedback`."""

    def anomalies(self, wanted: Filter, after: PageCursor | None, most: int) -> list[Anomaly]:
        """Return the newest `most` anomalies that pass the filter, or the `most` after a place."""
        return [_anomaly(row) for row in self._page("anomalies", asdict(wanted), after, most)]

    def count_anomalies(self, wanted: Filter) -> int:
        """Return the number of anomalies that pass the filter."""
        return int(self._rows("count_anomalies", asdict(wanted))[0][0])

    def episodes(
        self, wanted: Filter, after: PageCursor | None, most: int
    ) -> list[tuple[Episode, Feedback | None]]:
        """Return the newest `most` episodes by opening time, with their feedback.

        The filter and the place act as in `anomalies`.
        """
        rows = self._page("episodes", asdict(wanted), after, most)
        halves = ((row[:_EPISODE_WIDTH], row[_EPISODE_WIDTH:]) for row in rows)
        return [
            (Episode(*episode), Feedback(*feedback) if feedback[0] else None)
            for episode, feedback in halves
        ]

    def count_episodes(self, wanted: Filter) -> int:
        """Return the number of episodes that pass the filter."""
        return int(self._rows("count_episodes", asdict(wanted))[0][0])

    def tally(self, model_id: str, since: int) -> AnomalyCounts:
        """Return the model's findings since then and the verdicts on all its episodes."""
        return AnomalyCounts(*self._rows("tally", {"model_id": model_id, "since": since})[0])

    def confidences(self, key: SeriesKey, since: int, most: int) -> list[tuple[int, float]]:
        """Return time and confidence of up to `most` anomalies since then, in time order."""
        return self._rows("confidences", (*key, since, most))

    def say(self, episode_id: str, feedback: Feedback) -> None:
        """Store an operator's feedback on an episode in place of any earlier feedback."""
        note, author = storable(feedback.note), storable(feedback.given_by)
        self._change(
            "put_feedback", (episode_id, feedback.verdict, note, author, feedback.given_at)
        )


def _anomaly(row: tuple[Any, ...]) -> Anomaly:
    """Build an anomaly; null stands for NaN in its expected value and its band."""
    cells = list(row)
    cells[_BAND] = [float("nan") if cell is None else cell for cell in cells[_BAND]]
    cells[_REASONS] = msgspec.convert(cells[_REASONS], list[Reason])
    return Anomaly(*cells)
