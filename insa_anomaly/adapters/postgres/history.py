"""Recorded readings in the form that training needs: whole series, as arrays."""

import numpy as np
import numpy.typing as npt

from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.connection import PostgresConnection
from insa_anomaly.adapters.postgres.telemetry import EPOCH
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.closing import Closing

_HEADER = 19  # signature, flags and length of the extension, which is empty
_FIELDS = ["fields", "length_0", "timestamp", "length_1", "value"]
_ROW = np.dtype({"names": _FIELDS, "formats": [">i2", ">i4", ">i8", ">i4", ">f8"]})


class PostgresHistory(Closing):
    """Reader of the table `telemetry`, for a single thread at a time."""

    def __init__(self, dsn: str, deadline: float = 30.0) -> None:
        self._statements = queries.load()
        self._connection = PostgresConnection(dsn, deadline)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def series(self) -> list[SeriesKey]:
        """Return every series with readings, by name. Raises DatabaseAway or DatabaseRefused."""
        with self._connection.session() as session:
            rows = session.execute(self._statements["series_with_readings"]).fetchall()
        return [SeriesKey(*row) for row in rows]

    def readings(
        self, key: SeriesKey, since: int, most: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return times (microseconds since the epoch) and values of good readings, in time order.

        The newest `most` readings from `since` on are returned. Raises DatabaseAway or
        DatabaseRefused.
        """
        with self._connection.session() as session, session.cursor() as cursor:
            found = cursor.execute(self._statements["series_id"], key).fetchone()
            if found is None:
                return _parsed(b"")
            asked = {"series": found[0], "since": since, "most": most}
            with cursor.copy(self._statements["good_readings"], asked) as stream:
                return _parsed(b"".join(stream))

    def anomalous(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return the times of anomalous readings from `since` on that no operator dismissed.

        Times are microseconds since the epoch. Raises DatabaseAway or DatabaseRefused.
        """
        return self._times("anomalous_times", key, since)

    def in_episodes(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return the times of `anomalous` that belong to an episode.

        Raises DatabaseAway or DatabaseRefused.
        """
        return self._times("episode_times", key, since)

    def confirmed(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return the times of readings in episodes that an operator confirmed as faults.

        Raises DatabaseAway or DatabaseRefused.
        """
        return self._times("confirmed_times", key, since)

    def _times(self, statement: str, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        with self._connection.session() as session:
            rows = session.execute(self._statements[statement], (*key, since)).fetchall()
        return np.array([time for (time,) in rows], np.int64)

    def counts(self, start: int, end: int) -> tuple[int, int]:
        """Return the count of rows and of distinct (series, time) pairs with start <= time < end.

        `start` and `end` are in microseconds. Raises DatabaseAway or DatabaseRefused.
        """
        with self._connection.session() as session:
            row = session.execute(self._statements["counts"], (start, end)).fetchone()
        return (0, 0) if row is None else (int(row[0]), int(row[1]))


def _parsed(stream: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Parse the columns of a binary COPY: a header, rows of equal width, two bytes of end."""
    count = max(0, len(stream) - _HEADER - 2) // _ROW.itemsize
    rows = np.frombuffer(stream, _ROW, count, min(_HEADER, len(stream)))
    return rows["timestamp"].astype(np.int64) + EPOCH, rows["value"].astype(np.float64)
