"""Recorded readings in memory."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.notification.event import Anomaly
from insa_anomaly.core.reading.reading import Quality
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.testing.recorder import MemoryTables


class MemoryHistory:
    """The port `History`, over the tables of a MemoryRecorder."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def series(self) -> list[SeriesKey]:
        """Return every series with readings, by name."""
        return sorted({key for key, _, _ in self._tables.telemetry})

    def readings(
        self, key: SeriesKey, since: int, most: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return times and values of good readings from `since` on, in time order.

        Only the newest `most` are returned.
        """
        good = sorted(
            (time, discriminator, row[0])
            for (series, time, discriminator), row in self._tables.telemetry.items()
            if series == key and time >= since and row[1] == Quality.GOOD
        )[-most:]
        return np.array([time for time, _, _ in good], np.int64), np.array(
            [value for _, _, value in good], np.float64
        )

    def anomalous(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of anomalous readings from `since` on; no episode is dismissed here."""
        return np.array([one.timestamp for one in self._anomalies(key, since)], np.int64)

    def in_episodes(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of anomalous readings that belong to an episode."""
        return np.array(
            [one.timestamp for one in self._anomalies(key, since) if one.episode_id is not None],
            np.int64,
        )

    def confirmed(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of readings in episodes that an operator confirmed to be a fault."""
        verdicts = self._tables.verdicts
        return np.array(
            [
                one.timestamp
                for one in self._anomalies(key, since)
                if verdicts.get(one.episode_id or "") == "confirmed"
            ],
            np.int64,
        )

    def _anomalies(self, key: SeriesKey, since: int) -> Iterator[Anomaly]:
        found = self._tables.anomalies.values()
        return (
            one
            for one in found
            if (one.device_id, one.metric_name) == key and one.timestamp >= since
        )
