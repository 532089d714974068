"""Recorded readings as training wants them: whole series, as arrays."""

from typing import Self

import numpy as np
import numpy.typing as npt

from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.connection import Connection
from insa_anomaly.adapters.postgres.telemetry import EPOCH
from insa_anomaly.ports import SeriesKey

_HEADER = 19  # signature, flags and length of an extension we did not ask for
_ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("length_0", ">i4"),
        ("timestamp", ">i8"),
        ("length_1", ">i4"),
        ("value", ">f8"),
    ]
)


class PostgresHistory:
    """Reads `telemetry`. For one thread at a time."""

    def __init__(self, dsn: str, deadline: float = 30.0) -> None:
        self._statements = queries.load()
        self._connection = Connection(dsn, deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def series(self) -> list[SeriesKey]:
        """Every series with readings, by name. Raises DatabaseAway or DatabaseRefused."""
        with self._connection.session() as session:
            rows = session.execute(self._statements["series_with_readings"]).fetchall()
        return [(device_id, metric_name) for device_id, metric_name in rows]

    def readings(
        self, key: SeriesKey, since: int, most: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Times (microseconds since the epoch) and values of good readings from `since` on, the newest `most`, in time order.

        Raises DatabaseAway or DatabaseRefused.
        """
        with self._connection.session() as session, session.cursor() as cursor:
            found = cursor.execute(self._statements["series_id"], key).fetchone()
            if found is None:
                return _parsed(b"")
            with cursor.copy(
                self._statements["good_readings"],
                {"series": found[0], "since": since, "most": most},
            ) as stream:
                return _parsed(b"".join(stream))

    def anomalous(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Times (microseconds since the epoch) of readings from `since` on that were called anomalous, and not dismissed.

        Raises DatabaseAway or DatabaseRefused.
        """
        return self._times("anomalous_times", key, since)

    def in_episodes(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """The same, but for those that were part of no episode. Raises DatabaseAway or DatabaseRefused."""
        return self._times("episode_times", key, since)

    def confirmed(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Of those in episodes, the ones that somebody confirmed to be a fault. Raises DatabaseAway or DatabaseRefused."""
        return self._times("confirmed_times", key, since)

    def _times(self, statement: str, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        with self._connection.session() as session:
            rows = session.execute(self._statements[statement], (*key, since)).fetchall()
        return np.array([time for (time,) in rows], np.int64)

    def counts(self, start: int, end: int) -> tuple[int, int]:
        """Rows with start <= time < end (microseconds), and how many different (series, time) there are among them.

        Raises DatabaseAway or DatabaseRefused.
        """
        with self._connection.session() as session:
            row = session.execute(self._statements["counts"], (start, end)).fetchone()
        return (0, 0) if row is None else (int(row[0]), int(row[1]))


def _parsed(stream: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Columns of a binary COPY: a header, rows of one width, two bytes of end."""
    rows = np.frombuffer(
        stream, _ROW, max(0, len(stream) - _HEADER - 2) // _ROW.itemsize, min(_HEADER, len(stream))
    )
    return rows["timestamp"].astype(np.int64) + EPOCH, rows["value"].astype(np.float64)
