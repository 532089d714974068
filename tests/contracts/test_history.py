"""The contract of every history, in memory and in PostgreSQL."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insa_anomaly.adapters.postgres.history import PostgresHistory
from insa_anomaly.core.notification.event import deterministic_id
from insa_anomaly.core.reading.reading import Quality, Reading
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import DatabaseAway
from tests.contracts import recorded
from tests.contracts.recorded import NOW, Body, in_memory, in_postgres, page


@pytest.fixture(params=["memory", "postgres"])
def body(request: pytest.FixtureRequest) -> Iterator[Body]:
    """Yield a history and the recorder that fills it."""
    if request.param == "memory":
        with in_memory() as memory:
            yield memory
    else:
        with in_postgres(request.getfixturevalue("database")) as postgres:
            yield postgres


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    found=st.lists(recorded.readings, max_size=25), since=recorded.times, most=st.integers(1, 10)
)
def test_law_the_newest_good_readings_in_time_order(
    body: Body, found: list[Reading], since: int, most: int
) -> None:
    """A history returns the newest `most` good readings of a series since a time, in time order.

    The result equals that of a plain filter and sort.
    """
    body.clear()
    body.recorder.record(page(1, found))
    first: dict[tuple[str, str, int, int], Reading] = {}
    for reading in found:
        first.setdefault(
            (reading.device_id, reading.metric_name, reading.timestamp, reading.discriminator),
            reading,
        )
    assert body.history.series() == sorted({key[:2] for key in first})
    for key in [*body.history.series(), SeriesKey("nobody", "nothing")]:
        times, values = body.history.readings(key, since, most)
        good = [
            reading
            for place, reading in sorted(first.items())
            if place[:2] == key and reading.quality == Quality.GOOD
        ]
        wanted = [
            (reading.timestamp, reading.value) for reading in good if reading.timestamp >= since
        ][-most:]
        assert list(zip(times.tolist(), values.tolist(), strict=True)) == wanted
        assert (times.dtype, values.dtype) == (np.dtype(np.int64), np.dtype(np.float64))


def test_what_was_called_anomalous_is_known(body: Body) -> None:
    """A history returns the times of anomalies of a series since a time.

    A separate call returns the times in episodes alone.
    """
    found = [recorded.anomaly(number) for number in (1, 2)]
    part = msgspec.structs.replace(
        recorded.anomaly(3), timestamp=found[0].timestamp + 1, episode_id=deterministic_id(9)
    )
    body.recorder.record(page(1, [*found, part]))
    key, at = SeriesKey(found[0].device_id, found[0].metric_name), found[0].timestamp
    assert body.history.in_episodes(key, at).tolist() == [part.timestamp]
    found.append(part)
    assert set(body.history.anomalous(key, at).tolist()) == {one.timestamp for one in found}
    assert body.history.anomalous(key, at).dtype == np.int64
    assert not len(body.history.anomalous(key, max(one.timestamp for one in found) + 1))
    assert not len(body.history.anomalous(SeriesKey("nobody", "nothing"), at))


def test_what_was_confirmed_is_known(body: Body) -> None:
    """A history returns confirmed times of a series, without dismissed and unjudged ones."""
    body.clear()
    first, *others = (
        msgspec.structs.replace(
            recorded.anomaly(number), timestamp=NOW + number, episode_id=deterministic_id(number)
        )
        for number in (1, 2, 3)
    )
    body.recorder.record(page(1, [first, *others]))
    key = SeriesKey(first.device_id, first.metric_name)
    assert not len(body.history.confirmed(key, NOW))
    body.say(first.episode_id or "", "confirmed")
    body.say(others[0].episode_id or "", "dismissed")
    assert body.history.confirmed(key, NOW).tolist() == [first.timestamp]
    assert body.history.confirmed(key, NOW).dtype == np.int64
    assert not len(body.history.confirmed(key, first.timestamp + 1))
    assert not len(body.history.confirmed(SeriesKey("nobody", "nothing"), NOW))


def test_a_long_history_comes_back_whole(body: Body) -> None:
    """Many thousand readings recorded in a single page are read back bitwise."""
    rng = np.random.default_rng(1)
    times, values = NOW + np.arange(20_000) * 60_000_000, rng.normal(size=20_000)
    body.recorder.record(
        page(
            1,
            [
                Reading("a", "x", *pair, 0)
                for pair in zip(times.tolist(), values.tolist(), strict=True)
            ],
        )
    )
    read_times, read_values = body.history.readings(SeriesKey("a", "x"), NOW, 20_000)
    assert (read_times.tobytes(), read_values.tobytes()) == (times.tobytes(), values.tobytes())


def test_nobody_there_is_away() -> None:
    """A call without a listening database raises `DatabaseAway`."""
    with (
        PostgresHistory("host=127.0.0.1 port=1 user=nobody dbname=x") as history,
        pytest.raises(DatabaseAway),
    ):
        history.series()
