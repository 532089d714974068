"""Recorded readings in memory."""

from collections.abc import Callable

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
        times, _, values = zip(*good, strict=True) if good else ((), (), ())
        return np.array(times, np.int64), np.array(values, np.float64)

    def anomalous(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of anomalous readings from `since` on; no episode is dismissed here."""
        return self._times(key, since, lambda _: True)

    def in_episodes(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of anomalous readings that belong to an episode."""
        return self._times(key, since, lambda one: one.episode_id is not None)

    def confirmed(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of readings in episodes that an operator confirmed to be a fault."""
        faults = [name for name, verdict in self._tables.verdicts.items() if verdict == "confirmed"]
        return self._times(key, since, lambda one: one.episode_id in faults)

    def _times(
        self, key: SeriesKey, since: int, wanted: Callable[[Anomaly], bool]
    ) -> npt.NDArray[np.int64]:
        found = [each for each in self._tables.anomalies.values() if wanted(each)]
        own = [each for each in found if (each.device_id, each.metric_name) == key]
        return np.array([each.timestamp for each in own if each.timestamp >= since], np.int64)
