"""The contract of every cache, in memory and in Redis, and of reading through a cache."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.adapters.redis.latest import Breaker, RedisCache
from insa_anomaly.errors import DatabaseAway
from insa_anomaly.instrumentation.metrics import PORT
from insa_anomaly.ports.cache import Cache
from insa_anomaly.services.cached import Cached
from insa_anomaly.testing.cache import MemoryCache
from insa_anomaly.testing.clock import SettableClock
from tests.conftest import Server


@pytest.fixture(params=["memory", "redis", "valkey"])
def cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """Yield a body."""
    if request.param == "memory":
        yield MemoryCache()
    else:
        with RedisCache(request.getfixturevalue(f"{request.param}_url")) as cache:
            yield cache


def test_what_was_put_is_there(cache: Cache) -> None:
    """A cache returns the last value byte for byte, and None for an unknown key."""
    for value in (b"1", b"2\r\n\0"):
        cache.put("ml:a é", value, 60)
    assert (cache.get("ml:a é"), cache.get("ml:b")) == (b"2\r\n\0", None)


def test_it_fades(redis_url: str) -> None:
    """A value expires after its time to live."""
    with RedisCache(redis_url) as cache:
        cache.put("ml:x", b"1", 1)
        time.sleep(1.1)
        assert cache.get("ml:x") is None


def test_away_it_knows_nothing_and_holds_nobody_up(own_redis: Server[str]) -> None:
    """An unreachable server costs little time, returns None, and serves again after its return."""
    with RedisCache(own_redis.address, breaker=Breaker(rest_seconds=0.0)) as cache:
        cache.put("ml:x", b"1", 60)
        own_redis.stop()
        began = time.monotonic()
        assert cache.get("ml:x") is None
        cache.put("ml:x", b"2", 60)
        assert time.monotonic() - began < 1.5
        own_redis.start()
        cache.put("ml:x", b"3", 60)
        assert cache.get("ml:x") == b"3"


# ------------------------------------------------------------------------------------- read through
def looked_up() -> tuple[float, float]:
    """Return hits and misses so far."""
    names = ("insa_cache_hits_total", "insa_cache_misses_total")
    hits, misses = (PORT.get_sample_value(name, {"kind": "test"}) or 0.0 for name in names)
    return hits, misses


def test_what_is_known_is_not_made_again(cache: Cache) -> None:
    """A cached value is computed once for all processes, and hits and misses are counted."""
    (hits, misses), made = looked_up(), []

    def make() -> int:
        made.append(1)
        return 7

    processes = [Cached(cache, SettableClock()) for _ in range(2)]
    assert [one.count("test", "ml:n", 60, make) for one in processes * 3] == [7] * 6
    assert len(made) == 1
    assert looked_up() == (hits + 5, misses + 1)


def test_what_is_too_old_is_made_again() -> None:
    """A value is never older than its time to live."""
    numbers = iter(range(10))
    clock = SettableClock()
    alone, counts = Cached(None, clock), []
    for age in (0, 59, 1, 59, 1):
        clock.sleep(age)
        counts.append(alone.count("test", "ml:n", 60, lambda: next(numbers)))
    assert counts == [0, 0, 1, 1, 2]


def test_what_cannot_be_made_is_not_kept() -> None:
    """A failed computation is not cached, and the next call tries again."""
    alone = Cached(None, SettableClock())

    def fail() -> int:
        raise DatabaseAway

    with pytest.raises(DatabaseAway):
        alone.count("test", "ml:n", 60, fail)
    assert alone.count("test", "ml:n", 60, lambda: 3) == 3


@pytest.mark.parametrize("value", [b"", b"many", b"-1", b"1e9", b"\xff"])
def test_what_somebody_else_put_there_is_not_believed(value: bytes) -> None:
    """A cached value that is not a number is ignored."""
    cache = MemoryCache()
    cache.put("ml:n", value, 60)
    assert Cached(cache, SettableClock()).count("test", "ml:n", 60, lambda: 5) == 5


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1000, 4000))
def test_law_memory_has_a_limit_and_the_last_asked_stays(names: list[int], most: int) -> None:
    """The memory of a cache is bounded, and the key read last is always present."""
    alone = Cached(None, SettableClock(), most)
    for name in names:
        assert alone.count("test", f"ml:{name}", 60, lambda name=name: name) == name  # type: ignore[misc]
        assert alone._weight <= most
        assert alone._weight == sum(alone._weigh(one) for one in alone._kept)
        assert f"ml:{name}" in alone._kept
