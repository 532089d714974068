"""Predictions: a hypothetical next reading against the live window, which changes no state.

A key has a limited number of them a minute.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from insa_anomaly.adapters.redis import rate_limit
from insa_anomaly.adapters.redis.rate_limit import LocalRateLimit, RedisRateLimit
from insa_anomaly.core.series import features
from insa_anomaly.core.series.detector import INTERVAL_US
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.services.keys import Permission, Wish
from insa_anomaly.testing.clock import SettableClock
from tests.api.office import HOUR, KEY, Office, now, opened, problem
from tests.conftest import Server

API = "/api/v1/ml"
WHERE = {"device_id": KEY.device_id, "metric_name": KEY.metric_name}
ORDINARY, STRANGE = 10.0, 1e6


@pytest.fixture
def serving(office: Office) -> Office:
    """Return an office whose series has a full window and a model."""
    return served(office)


def served(office: Office) -> Office:
    """Give the office a series with a full window and a model, and a key "fast" without limit."""
    random = np.random.default_rng(3)
    office.serve(office.train())
    office.stream((ORDINARY + random.normal(size=80)).tolist())
    office.tokens["fast"] = office.service.create(
        Wish("fast", [Permission.READ], None, 10**9), "tests", now()
    )[1]
    office.ring.refresh()
    return office


def predict(office: Office, value: float, who: str = "fast") -> Any:  # noqa: ANN401 - any JSON
    """Ask for a prediction."""
    return office.do("POST", f"{API}/predict", {**WHERE, "value": value}, who)


def states(office: Office) -> bytes:
    """Return all state that the stream holds of all series."""
    return office.fleet._states.tobytes() + office.fleet._models.learnt.tobytes()


def test_a_prediction_is_what_the_stream_then_says(serving: Office) -> None:
    """A prediction equals the stream's score to the bit.

    The stream receives the same value a usual pause later.
    """
    for value in (ORDINARY, ORDINARY + 3, STRANGE, -STRANGE, 0, 1e308):
        said = predict(serving, value)
        window = serving.fleet.windows.read(0, SettableClock())
        at = int(window.state[features.LAST] + window.learnt[INTERVAL_US])
        zeros, good = np.zeros(1, np.int64), np.zeros(1, np.int16)
        states_before = serving.fleet._states.copy()
        telemetry = Telemetry(
            keys=serving.fleet.registry.keys,
            key=np.zeros(1, np.int32),
            timestamp=np.array([at]),
            discriminator=zeros,
            value=np.array([float(value)]),
            quality=good,
            flags=good,
        )
        result = serving.fleet.advance(telemetry)
        serving.fleet._states[:] = states_before
        assert (said["score"], said["confidence"]) == (result.score[0], abs(result.score[0]))
        assert said["is_anomaly"] == (result.score[0] < 0)
        assert (said["expected"], said["lower"], said["upper"]) == (
            result.expected[0],
            result.lower[0],
            result.upper[0],
        )
        assert said["model_version"] == 1


def test_asking_changes_nothing(serving: Office) -> None:
    """A prediction changes no window, no episode and no part of a checkpoint."""
    before = states(serving)
    serving.fleet.moved()
    for value in (ORDINARY, STRANGE):
        predict(serving, value)
    serving.do(
        "POST", f"{API}/predict/batch", {**WHERE, "values": [ORDINARY, STRANGE] * 500}, "fast"
    )
    assert states(serving) == before
    assert serving.fleet.moved() == {}
    assert len(serving.fleet.registry) == 1


def test_strange_is_strange_and_ordinary_is_not(serving: Office) -> None:
    """The score is below 0 where it is anomalous, and the confidence is its absolute value."""
    ordinary, strange = predict(serving, ORDINARY), predict(serving, STRANGE)
    assert (ordinary["is_anomaly"], strange["is_anomaly"]) == (False, True)
    assert strange["score"] == -strange["confidence"] < 0


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_a_batch_is_so_many_predictions(serving: Office, count: int) -> None:
    """Each value of a batch is predicted by itself as the next reading, in the order given."""
    values = [ORDINARY + number % 7 - 3 if number % 5 else STRANGE for number in range(count)]
    said = serving.do("POST", f"{API}/predict/batch", {**WHERE, "values": values}, "fast")
    assert [one["value"] for one in said["predictions"]] == values
    for place in {0, count // 2, count - 1}:
        single = predict(serving, values[place])
        assert (
            said["predictions"][place].items()
            >= {name: single[name] for name in ("score", "expected", "is_anomaly")}.items()
        )
    assert said["anomaly_count"] == sum(one["is_anomaly"] for one in said["predictions"]) > 0


def test_a_prediction_needs_neither_database_nor_redis(serving: Office) -> None:
    """A prediction needs no database, because the stream is in memory."""
    serving.pool.close()
    assert predict(serving, STRANGE)["is_anomaly"]


def test_a_model_swapped_meanwhile_is_asked_again(
    serving: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer mixes two models; a model that is swapped without end is refused with 409."""
    read, swaps = serving.fleet.windows.read, [serving.train() for _ in range(2)]

    def swapping(number: int, clock: Clock) -> object:
        window = read(number, clock)
        if swaps:
            serving.serve(swaps.pop())
        return window

    monkeypatch.setattr(serving.fleet.windows, "read", swapping)
    assert predict(serving, STRANGE)["model_version"] == 2
    swaps.extend([serving.train() for _ in range(3)] * 3)
    problem(serving.ask("fast", "POST", f"{API}/predict", json={**WHERE, "value": 1.0}), 409)


# ---------------------------------------------------------------- series without prediction
@pytest.mark.parametrize("path", ["predict", "predict/batch"])
def test_series_that_cannot_be_predicted_say_why(office: Office, path: str) -> None:
    """A series that never reported is 404.

    A series that collects, whose window fills or whose model is disabled is 409.
    """
    body = {**WHERE, "value": 1.0} if path == "predict" else {**WHERE, "values": [1.0]}

    def refused(status: int) -> str:
        return str(
            problem(office.ask("read", "POST", f"{API}/{path}", json=body), status)["detail"]
        )

    assert "never reported" in refused(404)
    office.stream([1.0] * 20, since=now() - HOUR)
    assert "collecting" in refused(409)
    assert "20" in refused(409)
    row = office.train()
    office.serve(row)
    assert "window" in refused(409)
    office.fleet.swap(KEY, None)
    with office.files._transaction():
        office.files._set_status(row, "disabled", "failed three times")
    assert "disabled: failed three times" in refused(409)
    assert len(office.fleet.registry) == 1


@pytest.mark.parametrize(
    "body",
    [
        {**WHERE},
        {**WHERE, "value": None},
        {**WHERE, "value": "1"},
        {**WHERE, "value": True},
        {**WHERE, "value": [1]},
        {**WHERE, "value": 1, "timestamp": 2},
        {"device_id": "a", "value": 1},
        {"device_id": "a\x00", "metric_name": "m", "value": 1},
        {"device_id": "x" * 201, "metric_name": "m", "value": 1},
    ],
)
def test_questions_that_make_no_sense_are_refused(office: Office, body: object) -> None:
    """The refusal names each wrong field."""
    assert problem(office.ask("read", "POST", f"{API}/predict", json=body), 422)["errors"]


@pytest.mark.parametrize("values", [[], "1", [None], [True], ["1"], [[1]], [1.0] * 10_001])
def test_batches_that_make_no_sense_are_refused(office: Office, values: object) -> None:
    """A batch that is empty, too large or not of numbers is refused."""
    problem(
        office.ask("read", "POST", f"{API}/predict/batch", json={**WHERE, "values": values}), 422
    )


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999", b"1" * 400])
def test_numbers_that_are_not_finite_are_refused(office: Office, number: bytes) -> None:
    """A number that is not finite is refused in the bytes on the wire."""
    headers = {"Content-Type": "application/json"}
    for content in (
        b'{"device_id": "a", "metric_name": "m", "value": ' + number + b"}",
        b'{"device_id": "a", "metric_name": "m", "values": [1, ' + number + b"]}",
    ):
        path = "predict/batch" if b"values" in content else "predict"
        problem(office.ask("read", "POST", f"{API}/{path}", content=content, headers=headers), 422)


# ------------------------------------------------------------------------------ the limit
def until_refused(office: Office, who: str, most: int) -> int:
    """Return the number of predictions answered before the first 429."""
    for given in range(most):
        answer = office.ask(who, "POST", f"{API}/predict", json={**WHERE, "value": ORDINARY})
        if answer.status_code == 429:
            problem(answer, 429)
            assert 1 <= int(answer.headers["retry-after"]) <= 61
            return given
    return most


def test_a_key_has_so_many_predictions_a_minute(serving: Office) -> None:
    """A key has 100 predictions a minute, under any headers and paths.

    A key may have a limit of its own.
    """
    assert until_refused(serving, "read", 150) == 100
    for headers in (
        {"X-Forwarded-For": "1.2.3.4"},
        {"X-Real-IP": "1.2.3.4"},
        {"Forwarded": "for=1.2.3.4"},
    ):
        answer = serving.ask(
            "read", "POST", f"{API}/predict", json={**WHERE, "value": 1.0}, headers=headers
        )
        assert answer.status_code == 429
    for path in (
        f"{API}/predict?x=1",
        f"{API}//predict",
        f"{API}/predict/",
        f"{API}/PREDICT",
        f"{API}/%70redict",
    ):
        answer = serving.ask(
            "read", "POST", path, json={**WHERE, "value": 1.0}, follow_redirects=False
        )
        assert answer.status_code in {307, 404, 405, 429}, path
    assert until_refused(serving, "write", 20) == 20
    serving.tokens["slow"] = serving.service.create(
        Wish("slow", [Permission.READ], None, 3), "tests", now()
    )[1]
    serving.ring.refresh()
    assert until_refused(serving, "slow", 10) == 3


def test_a_batch_counts_its_values(serving: Office) -> None:
    """A batch beyond the limit is 422; a batch that is too much now uses up no prediction."""

    def ask(count: int) -> int:
        return serving.ask(
            "read", "POST", f"{API}/predict/batch", json={**WHERE, "values": [ORDINARY] * count}
        ).status_code

    assert [ask(count) for count in (101, 60, 60, 40, 1)] == [422, 200, 429, 200, 429]


@pytest.fixture(params=["redis", "valkey"])
def url(request: pytest.FixtureRequest) -> str:
    """Return the address of a real server."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


def test_the_limit_is_shared(url: str) -> None:
    """All daemons on the same Redis share the 100 predictions of a key.

    The counters in Redis expire.
    """
    daemons = [RedisRateLimit(url) for _ in range(3)]
    given = [daemons[number % 3].take("key", 1, 100) is None for number in range(150)]
    assert given == [True] * 100 + [False] * 50
    assert daemons[0].take("other", 100, 100) is None
    with redis.Redis.from_url(url) as client:
        assert all(0 < int(str(client.ttl(key))) <= 120 for key in client.keys("LIMITS*"))
        assert client.keys("LIMITS*")


def test_without_redis_each_counts_for_itself(own_redis: Server[str]) -> None:
    """The limit holds locally while Redis is unreachable, and is shared again once it is back."""
    limit = RedisRateLimit(own_redis.address, rest_seconds=0.0)
    assert limit.take("key", 100, 100) is None
    own_redis.stop()
    began = time.monotonic()
    assert [limit.take("key", 50, 100) is None for _ in range(3)] == [True, True, False]
    assert time.monotonic() - began < 3
    own_redis.start()
    assert limit.take("key", 100, 100) is None
    assert RedisRateLimit(own_redis.address).take("key", 1, 100) is not None


def test_a_redis_that_is_away_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that is unreachable delays a single request only."""
    asked: list[str] = []
    monkeypatch.setattr(rate_limit, "rate_limit_local", asked.append)
    limit = RedisRateLimit("redis://127.0.0.1:1/0")
    assert all(limit.take("key", 1, 100) is None for _ in range(50))
    assert len(asked) == 1


def test_the_limit_flows_back() -> None:
    """A part of the limit is available again after the time that was reported."""
    limit = LocalRateLimit()
    assert limit.take("key", 60, 60) is None
    wait = limit.take("key", 1, 60)
    assert wait is not None
    assert 1 <= wait <= 60


def test_predictions_share_redis_where_there_is_one(
    database: str, tmp_path: Path, redis_url: str
) -> None:
    """The API counts in the Redis that the settings name."""
    with opened(database, tmp_path, redis_url=redis_url) as office:
        served(office)
        assert until_refused(office, "read", 150) == 100
        with redis.Redis.from_url(redis_url) as client:
            assert client.keys("LIMITS*")
