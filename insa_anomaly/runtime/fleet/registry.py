"""The registry: every series by its index, and which series are admitted."""

from collections.abc import Sequence
from threading import Lock

from insa_anomaly.core.reading.reading import Reading
from insa_anomaly.core.reading.series_key import SeriesKey


class Registry:
    """Numbers for series in the order they were first seen, never reused; any thread may ask."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.keys: list[SeriesKey] = []
        self._indices: dict[str, dict[str, int]] = {}  # by device, then by metric
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.keys)

    def index_of(self, key: SeriesKey) -> int:
        """Return the number of the series, -1 if it is new and there is no room."""
        found = self.indices_of([key])
        return -1 if found is None else found[0]

    def find(self, key: SeriesKey) -> int | None:
        """Return the number of the series, None if it was never seen; admit no series."""
        return self._indices.get(key.device_id, {}).get(key.metric_name)

    def indices_of(self, readings: Sequence[SeriesKey | Reading]) -> list[int] | None:
        """Return the numbers of the series of readings, or of series.

        None if some are new and there is no room for all: then no series is admitted. A known
        series costs no key, because every reading of the stream is looked up here.
        """
        try:
            return [self._indices[one.device_id][one.metric_name] for one in readings]
        except KeyError:
            return self._admit([SeriesKey(one.device_id, one.metric_name) for one in readings])

    def _admit(self, keys: Sequence[SeriesKey]) -> list[int] | None:
        with self._lock:
            new = [key for key in dict.fromkeys(keys) if self.find(key) is None]
            if len(self.keys) + len(new) > self.capacity:
                return None
            for key in new:
                # The key comes before its number: a thread with a number may ask for the key.
                self.keys.append(key)
                self._indices.setdefault(key.device_id, {})[key.metric_name] = len(self.keys) - 1
        return self.indices_of(keys)
