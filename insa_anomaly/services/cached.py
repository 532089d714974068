"""A cache of answers: in memory up to a size, and behind it the cache shared by all daemons."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from insa_anomaly.instrumentation.redis import cache_looked_up
from insa_anomaly.ports.cache import Cache
from insa_anomaly.ports.clock import Clock

MOST_BYTES = 4_000_000
_ENTRY_BYTES = 300  # approximate size of an entry beside its text


class Cached:
    """Cache in memory, in front of the shared cache. Any thread may call."""

    def __init__(self, behind: Cache | None, clock: Clock, most_bytes: int = MOST_BYTES) -> None:
        self._behind = behind
        self._monotonic = clock.monotonic
        self._most = most_bytes
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # by use, the newest last
        self._weight = 0
        self._lock = Lock()

    def count(self, kind: str, name: str, seconds: int, make: Callable[[], int]) -> int:
        """Return a number that may be `seconds` old, or make it. Raises the errors of `make`."""
        found = self._near(name) or self._far(name, seconds)
        cache_looked_up(kind, hit=found is not None)
        if found is not None:
            return int(found)
        made = make()
        self._keep(name, b"%d" % made, seconds)
        if self._behind is not None:
            self._behind.put(name, b"%d" % made, seconds)
        return made

    def _near(self, name: str) -> bytes | None:
        with self._lock:
            value, until = self._kept.get(name, (None, 0.0))
            if value is None or until <= self._monotonic():
                return None
            self._kept.move_to_end(name)
            return value

    def _far(self, name: str, seconds: int) -> bytes | None:
        """Return a number from the shared cache, which is not trusted: other content is ignored.

        Memory keeps the number for a tenth of its time.
        """
        found = None if self._behind is None else self._behind.get(name)
        if found is None or not found.isdigit():
            return None
        self._keep(name, found, seconds // 10)
        return found

    def _keep(self, name: str, value: bytes, seconds: int) -> None:
        with self._lock:
            self._weight -= self._weigh(name) if name in self._kept else 0
            self._kept[name] = value, self._monotonic() + seconds
            self._kept.move_to_end(name)
            self._weight += self._weigh(name)
            while self._weight > self._most:
                oldest = next(iter(self._kept))
                self._weight -= self._weigh(oldest)
                del self._kept[oldest]

    def _weigh(self, name: str) -> int:
        return _ENTRY_BYTES + len(name) + len(self._kept[name][0])
