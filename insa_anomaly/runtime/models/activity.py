"""Readings scored and anomalies found by series, counted for the daily health check."""

from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.series.detector import Results
from insa_anomaly.ports.recorder import Telemetry

_GROWTH = 256


class ActivityCounts(NamedTuple):
    """Counts of some series: their indices [n], and readings and anomalies [2, n]."""

    keys: list[SeriesKey]
    indices: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


class Activity:
    """Counts by series index; the score reader counts, another thread takes the counts."""

    def __init__(self) -> None:
        self._keys: Sequence[SeriesKey] = ()
        self._counts = np.zeros((2, _GROWTH), np.int64)  # readings, anomalies
        self._lock = Lock()

    def count(self, telemetry: Telemetry, results: Results) -> None:
        """Count a scored batch."""
        scored = results.scored
        indices, anomalous = telemetry.key[scored], telemetry.key[scored & (results.score < 0)]
        if not len(indices):
            return
        with self._lock:
            self._keys = telemetry.keys
            self._grow(int(indices.max()) + 1)
            np.add.at(self._counts[0], indices, 1)
            np.add.at(self._counts[1], anomalous, 1)

    def counts(self) -> ActivityCounts:
        """Return the counts since the last `subtract`."""
        with self._lock:
            indices = np.flatnonzero(self._counts[0])
            keys = [self._keys[index] for index in indices.tolist()]
            return ActivityCounts(keys, indices, self._counts[:, indices])

    def subtract(self, taken: ActivityCounts) -> None:
        """Subtract counts that are written down."""
        with self._lock:
            self._counts[:, taken.indices] -= taken.counts

    def _grow(self, least: int) -> None:
        have = self._counts.shape[1]
        if least > have:
            more = max(least, 2 * have) - have
            self._counts = np.pad(self._counts, ((0, 0), (0, more)))
