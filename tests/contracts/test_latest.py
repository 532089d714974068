"""The contract of every store of latest results: in memory, in Redis and in Valkey."""

import socket
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.adapters.redis.latest import Breaker, RedisLatest
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import CacheAway, ConfigError
from insa_anomaly.ports.latest import Latest
from insa_anomaly.testing.latest import MemoryLatest
from tests.conftest import Server

Read = Callable[[SeriesKey], bytes | None]


def real(url: str) -> Iterator[tuple[Latest, Read]]:
    """Yield a server, and a function that reads through a client of its own."""
    with RedisLatest(url) as latest, redis.Redis.from_url(url) as client:
        yield (
            latest,
            lambda key: client.get(f"ml:predictions:{key.device_id}:{key.metric_name}:latest"),
        )


@pytest.fixture(params=["memory", "redis", "valkey"])
def body(request: pytest.FixtureRequest) -> Iterator[tuple[Latest, Read]]:
    """Yield a body, and a function that reads its results."""
    if request.param == "memory":
        memory = MemoryLatest()
        yield memory, memory.shown.get
    else:
        yield from real(request.getfixturevalue(f"{request.param}_url"))


def test_the_newest_result_is_there(body: tuple[Latest, Read]) -> None:
    """The last result of each series is stored byte for byte, under any name."""
    latest, read = body
    latest.show({})
    latest.show({SeriesKey("press 1", "température"): b"1", SeriesKey("b", "y"): b'{"score":0.5}'})
    latest.show({SeriesKey("press 1", "température"): b"2\r\n\0"})
    keys = SeriesKey("press 1", "température"), SeriesKey("b", "y"), SeriesKey("c", "z")
    assert tuple(map(read, keys)) == (b"2\r\n\0", b'{"score":0.5}', None)


def test_a_fleet_at_once(body: tuple[Latest, Read]) -> None:
    """Thousands of series are stored in a single call."""
    latest, read = body
    fleet = {SeriesKey(f"D{i}", "t"): b"%d" % i for i in range(2345)}
    latest.show(fleet)
    assert {key: read(key) for key in fleet} == fleet


def test_results_fade(redis_url: str) -> None:
    """A result that is not renewed expires after five minutes."""
    with RedisLatest(redis_url) as latest, redis.Redis.from_url(redis_url) as client:
        latest.show({SeriesKey("a", "x"): b"1"})
        assert 295 <= int(str(client.ttl("ml:predictions:a:x:latest"))) <= 300


def test_nobody_there_costs_nothing() -> None:
    """An unreachable server raises no error, and is not tried again for a while."""
    with RedisLatest("redis://127.0.0.1:1/0") as latest:
        began = time.monotonic()
        for _ in range(100):
            latest.show({SeriesKey("a", "x"): b"1"})
        assert time.monotonic() - began < 1.0


def test_a_deaf_server_is_given_up_in_time() -> None:
    """A server that accepts and never answers delays a call by at most a single timeout."""
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        RedisLatest(f"redis://127.0.0.1:{deaf.getsockname()[1]}/0") as latest,
    ):
        began = time.monotonic()
        latest.show({SeriesKey("a", "x"): b"1"})
        assert time.monotonic() - began < 1.5


def test_it_comes_back(own_redis: Server[str]) -> None:
    """Results are stored again after an outage, once the rest is over."""
    with RedisLatest(own_redis.address, breaker=Breaker(rest_seconds=0.0)) as latest:
        latest.show({SeriesKey("a", "x"): b"1"})
        own_redis.stop()
        latest.show({SeriesKey("a", "x"): b"2"})
        own_redis.start()
        latest.show({SeriesKey("a", "x"): b"3"})
        with redis.Redis.from_url(own_redis.address) as client:
            assert client.get("ml:predictions:a:x:latest") == b"3"


def test_a_refusal_is_not_taken_for_an_answer(redis_url: str) -> None:
    """An error among many answers is not misread by a later call."""
    with (
        redis.Redis.from_url(redis_url) as client,
        RedisLatest(redis_url, breaker=Breaker(rest_seconds=0.0)) as latest,
    ):
        client.config_set("maxmemory", "1")
        latest.show({SeriesKey("a", str(i)): b"1" for i in range(100)})
        client.config_set("maxmemory", "0")
        latest.show({SeriesKey("a", "x"): b"2"})
        assert client.get("ml:predictions:a:x:latest") == b"2"


@given(rest=st.floats(0.1, 100), failed=st.floats(0, 1e6), later=st.floats(0, 200))
def test_law_the_breaker_rests_then_allows(rest: float, failed: float, later: float) -> None:
    """A breaker allows calls until a failure, then none during its rest, and then all again."""
    assert Breaker(rest).allows(failed)
    assert Breaker(rest).failed(failed).allows(failed + later) == (
        (failed + later) - failed >= rest
    )


def test_the_model_of_a_series_is_there_for_an_hour(redis_url: str) -> None:
    """The model of a series is stored under a key of its own for an hour."""
    with (
        RedisLatest(redis_url) as latest,
        redis.Redis.from_url(redis_url, decode_responses=True) as client,
    ):
        latest.serve({})
        latest.serve({SeriesKey("press 1", "température"): "m1", SeriesKey("b", "y"): "m2"})
        latest.serve({SeriesKey("b", "y"): "m3"})
        assert (client.get("ml:model:press 1:température"), client.get("ml:model:b:y")) == (
            "m1",
            "m3",
        )
        assert 3595 <= int(str(client.ttl("ml:model:b:y"))) <= 3600


def test_an_address_that_asks_for_what_there_is_not_is_a_mistake_in_the_settings() -> None:
    """An address with an unknown option raises `ConfigError` at the start.

    The error quotes the driver.
    """
    with pytest.raises(ConfigError, match=r"redis\.url asks for what cannot be.*nonsense"):
        RedisLatest("redis://127.0.0.1:1/0?nonsense=1")


def test_a_trial_says_what_is_wrong(own_redis: Server[str]) -> None:
    """`try_out` raises `CacheAway` with the cause, and causes no rest."""
    with RedisLatest(own_redis.address) as latest:
        latest.try_out()
        own_redis.stop()
        with pytest.raises(CacheAway, match="does not answer"):
            latest.try_out()
