"""The registry: every series by its index, and which series are admitted."""

from collections.abc import Sequence
from threading import Lock

from insa_anomaly.ports import SeriesKey


class Registry:
    """Numbers for series in the order they were first seen; a number is never given twice. Any thread may ask."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.keys: list[SeriesKey] = []
        self._numbers: dict[SeriesKey, int] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.keys)

    def number(self, key: SeriesKey) -> int:
        """The number of the series, -1 where it is new and there is no room."""
        found = self.numbers([key])
        return -1 if found is None else found[0]

    def known(self, key: SeriesKey) -> int | None:
        """The number of the series, None where it was never seen; it is not let in by this."""
        return self._numbers.get(key)

    def numbers(self, keys: Sequence[SeriesKey]) -> list[int] | None:
        """The numbers of these series; None where some are new and there is no room for all: then none of them is let in."""
        try:
            return [self._numbers[key] for key in keys]
        except KeyError:
            return self._admit(keys)

    def _admit(self, keys: Sequence[SeriesKey]) -> list[int] | None:
        with self._lock:
            new = [key for key in dict.fromkeys(keys) if key not in self._numbers]
            if len(self.keys) + len(new) > self.capacity:
                return None
            for key in new:
                self.keys.append(
                    key
                )  # before its number is known: who has a number may ask for the name
                self._numbers[key] = len(self.keys) - 1
            return [self._numbers[key] for key in keys]
