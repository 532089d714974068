"""Recorded readings, as training reads them."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.reading.series_key import SeriesKey


class History(Protocol):
    """Recorded readings, for training."""

    def series(self) -> list[SeriesKey]:
        """Return every series with readings."""

    def readings(
        self, key: SeriesKey, since: int, most: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return times and values of good readings from `since` on, in time order.

        Only the newest `most` are returned. Readings of confirmed faults are left out.
        """

    def anomalous(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of anomalous readings from `since` on, except in dismissed episodes."""

    def in_episodes(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of anomalous readings in episodes, except in dismissed episodes."""

    def confirmed(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of readings in episodes that an operator confirmed to be a fault."""
