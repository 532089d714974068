"""Rate limits a minute: counted in Redis for all daemons, or here while Redis is unreachable."""

import time
from math import floor, inf
from threading import Lock
from typing import NamedTuple

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from insa_anomaly.adapters.redis import impatient
from insa_anomaly.instrumentation.redis import rate_limit_local

_LEAST_WAIT, _MOST_WAIT = 1.0, 60.0
_MINUTE = 60.0


class _MinuteCount(NamedTuple):
    """The counts of a name in a minute and in the minute before it."""

    minute: int
    had: int
    had_before: int

    def at(self, minute: int) -> "_MinuteCount":
        """Return the counts as seen in a later minute."""
        if minute == self.minute:
            return self
        return _MinuteCount(minute, 0, self.had if minute == self.minute + 1 else 0)


class LocalRateLimit:
    """The port `RateLimit` in this process: a sliding window of two counters, like that in Redis.

    The library's own storage in memory starts a thread for every request.
    """

    def __init__(self) -> None:
        self._counted: dict[str, _MinuteCount] = {}
        self._counting = Lock()

    def take(self, name: str, cost: int, a_minute: int) -> float | None:
        """Take `cost` from the amount that `name` may use a minute.

        Returns None, or the seconds to wait before another attempt: no amount was then taken.
        """
        minute, passed = divmod(time.monotonic(), _MINUTE)
        with self._counting:
            counted = self._counted.get(name, _MinuteCount(int(minute), 0, 0)).at(int(minute))
            if floor(counted.had_before * (1 - passed / _MINUTE)) + counted.had + cost > a_minute:
                return min(_MOST_WAIT, max(_LEAST_WAIT, _MINUTE - passed))
            self._counted[name] = counted._replace(had=counted.had + cost)
            return None


class RedisRateLimit:
    """The port `RateLimit` in Redis; without a prompt answer each process counts for itself."""

    def __init__(self, url: str, password: str | None = None, rest_seconds: float = 5.0) -> None:
        storage = RedisStorage(url, wrap_exceptions=True, **impatient(password))
        self._shared = SlidingWindowCounterRateLimiter(storage)
        self._local = LocalRateLimit()
        self._rest = rest_seconds
        self._failed_at = -inf

    def take(self, name: str, cost: int, a_minute: int) -> float | None:
        """Take `cost` from the amount that `name` may use a minute.

        Returns None, or the seconds to wait before another attempt: no amount was then taken.
        """
        if time.monotonic() - self._failed_at >= self._rest:
            try:
                return _taken(self._shared, name, cost, a_minute)
            except StorageError as error:
                self._failed_at = time.monotonic()
                rate_limit_local(str(error.storage_error))
        return self._local.take(name, cost, a_minute)


def _taken(
    limiter: SlidingWindowCounterRateLimiter, name: str, cost: int, a_minute: int
) -> float | None:
    item = RateLimitItemPerMinute(a_minute)
    if limiter.hit(item, "predictions", name, cost=cost):
        return None
    reset_time = limiter.get_window_stats(item, "predictions", name).reset_time
    # The library's own clock is that of `time.time`.
    return min(_MOST_WAIT, max(_LEAST_WAIT, reset_time - time.time()))
