"""The newest result of every series, in Redis or Valkey.

Results there may be lost, so no call waits long and no call raises.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import inf

import redis
from redis.connection import Connection

from insa_anomaly.adapters.redis import impatient
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import CacheAway, ConfigError
from insa_anomaly.instrumentation.redis import cache_unavailable, latest_unavailable
from insa_anomaly.ports.closing import Closing

_BUDGET_SECONDS = 1.0  # for a call with all its waits
_RESULT_SECONDS, _MODEL_SECONDS = 300, 3600
_COMMANDS_AT_ONCE = 500


@dataclass(frozen=True)
class Breaker:
    """Pause of calls to a failed service. Times are seconds of any monotonic clock."""

    rest_seconds: float = 5.0
    failed_at: float = -inf

    def allows(self, now: float) -> bool:
        """Return whether the service may be called."""
        return now - self.failed_at >= self.rest_seconds

    def failed(self, now: float) -> "Breaker":
        """Return the breaker after a failure."""
        return Breaker(self.rest_seconds, now)


class _Losable(Closing):
    """A connection with a single, short attempt a call, and a pause of calls after a failure."""

    def __init__(
        self, url: str, password: str | None = None, breaker: Breaker | None = None
    ) -> None:
        try:
            self._client = redis.Redis.from_url(url, **impatient(password))
            # The driver checks the options in the address at this point.
            self._client.connection_pool.make_connection()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"redis.url asks for what cannot be: {error}") from error
        self._breaker = breaker or Breaker()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def try_out(self) -> None:
        """Ping the service. Raises CacheAway."""
        try:
            self._client.ping()
        except (redis.RedisError, OSError) as error:
            raise CacheAway(f"Redis does not answer: {error}") from error

    def _asked(self, ask: Callable[[], object], failed: Callable[[str], None]) -> object:
        """Return the answer to `ask`; None if there is no answer at once."""
        if not self._breaker.allows(time.monotonic()):
            return None
        try:
            return ask()
        except (redis.RedisError, OSError) as error:
            self._breaker = self._breaker.failed(time.monotonic())
            failed(str(error))
            return None


class RedisCache(_Losable):
    """The port `Cache`."""

    def get(self, name: str) -> bytes | None:
        """Return the value stored under a name; None if it expired or Redis does not answer."""
        found = self._asked(lambda: self._client.get(name), cache_unavailable)
        return found if isinstance(found, bytes) else None

    def put(self, name: str, value: bytes, seconds: int) -> None:
        """Store a value for `seconds`, or drop it if Redis does not answer at once."""
        self._asked(lambda: self._client.set(name, value, ex=seconds), cache_unavailable)


class RedisLatest(_Losable):
    """The port `Latest`: results for five minutes, ids of models for an hour.

    The keys are `ml:predictions:<device>:<metric>:latest` and `ml:model:<device>:<metric>`.
    """

    def show(self, results: dict[SeriesKey, bytes]) -> None:
        """Replace the results of these series, or drop them if Redis does not answer at once."""
        self._try(
            (f"ml:predictions:{key.device_id}:{key.metric_name}:latest", value, _RESULT_SECONDS)
            for key, value in results.items()
        )

    def serve(self, models: dict[SeriesKey, str]) -> None:
        """Store the ids of the models that serve these series, or drop them without an answer."""
        self._try(
            (f"ml:model:{key.device_id}:{key.metric_name}", name.encode(), _MODEL_SECONDS)
            for key, name in models.items()
        )

    def _try(self, values: Iterable[tuple[str, bytes, int]]) -> None:
        self._asked(
            lambda: self._set(values, time.monotonic() + _BUDGET_SECONDS), latest_unavailable
        )

    def _set(self, values: Iterable[tuple[str, bytes, int]], until: float) -> None:
        """Set the values in commands packed here, with their answers read before `until`.

        The driver's pipeline takes five times the processor time (12 us a key against 2).
        """
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            for commands in _packed(values):
                connection.send_packed_command([b"".join(commands)])  # type: ignore[no-untyped-call]
                _take_answers(connection, len(commands), until)
        except BaseException:
            # Otherwise the next user of the connection reads our answers as its own.
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        finally:
            pool.release(connection)


def _take_answers(connection: Connection, count: int, until: float) -> None:
    for _ in range(count):
        connection.read_response()
        if time.monotonic() > until:
            raise redis.TimeoutError(f"Not done within {_BUDGET_SECONDS} s")


def _packed(values: Iterable[tuple[str, bytes, int]]) -> Iterator[list[bytes]]:
    commands = (_command(name.encode(), value, seconds) for name, value, seconds in values)
    while chunk := list(islice(commands, _COMMANDS_AT_ONCE)):
        yield chunk


def _command(key: bytes, value: bytes, seconds: int) -> bytes:
    """Return SET key value EX seconds in the form sent over the wire."""
    words = (b"SET", key, value, b"EX", b"%d" % seconds)
    return b"*5\r\n" + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
