"""Showing: the newest result of every series, without a wait for the readers of Redis."""

from threading import Event, Thread

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.runtime import latest as showing
from insa_anomaly.runtime.latest import LatestPublisher
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.testing.latest import MemoryLatest
from tests.runtime.streams import NOW, SECOND, message, stream
from tests.runtime.world import EVERYTHING, World


class Shown(msgspec.Struct, frozen=True):
    """A result as it is shown."""

    score: float
    is_anomaly: bool
    timestamp: str


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.sets(st.integers(0, 360), max_size=20), st.data())
def test_what_is_shown_is_the_newest(seed: int, cuts: set[int], data: st.DataObject) -> None:
    """The result shown is that of the last reading that moved its series, at any time.

    A late or repeated reading is not newer.
    """
    world, latest = World(stream(seed, 150).log(cuts)), MemoryLatest()
    show = LatestPublisher(latest, SettableClock())
    newest: dict[SeriesKey, tuple[float, int]] = {}
    for batch in world.feed.read(0, EVERYTHING):
        for swap in batch.swaps:
            world.score._swap(swap)
        results = world.fleet.advance(batch.telemetry)
        show.update(batch.telemetry, results)
        for i, status in enumerate(results.status.tolist()):
            if status in (Status.COLLECTING, Status.WARMING, Status.SCORED):
                newest[batch.telemetry.keys[batch.telemetry.key[i]]] = (
                    float(results.score[i]),
                    int(batch.telemetry.timestamp[i]),
                )
        if data.draw(st.booleans()):
            show.step(0.0)
            assert said(latest) == expected(newest)
    show.step(0.0)
    assert said(latest) == expected(newest) != {}


def said(latest: MemoryLatest) -> dict[SeriesKey, Shown]:
    """Return the results that are shown."""
    return {key: msgspec.json.decode(body, type=Shown) for key, body in latest.shown.items()}


def expected(newest: dict[SeriesKey, tuple[float, int]]) -> dict[SeriesKey, Shown]:
    """Return the results that should be shown."""
    return {
        key: Shown(round(score, 6), score < 0, _stamp(time))
        for key, (score, time) in newest.items()
    }


def _stamp(time: int) -> str:
    seconds, rest = divmod(time - NOW, SECOND)
    minutes, seconds = divmod(seconds + 53 * 60 + 20, 60)
    return f"2025-10-09T08:{minutes:02}:{seconds:02}{f'.{rest:06}' if rest else ''}+00:00"


class Counting(MemoryLatest):
    """A place to show that counts its writes."""

    writes = 0

    def show(self, results: dict[SeriesKey, bytes]) -> None:
        """Replace the results of these series, and count the write."""
        self.writes += 1
        super().show(results)


def test_only_what_changed_is_shown() -> None:
    """A plant that sends no reading causes no write."""
    world, latest = World(), Counting()
    show = LatestPublisher(latest, SettableClock())
    show.step(0.0)
    assert latest.writes == 0
    for i, device in enumerate(("a", "b")):
        latest.shown.clear()
        world.take([message(device, i, {"x": 1.0})])
        [batch] = world.feed.read(i, 1)
        show.update(batch.telemetry, world.fleet.advance(batch.telemetry))
        show.step(0.0)
        show.step(0.0)
        assert list(latest.shown) == [(device, "x")]
    assert latest.writes == 2


class Stuck(MemoryLatest):
    """A place to show whose write blocks until a test releases it."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = Event()
        self.go_on = Event()

    def show(self, results: dict[SeriesKey, bytes]) -> None:
        """Replace the results once the test allows it."""
        self.entered.set()
        assert self.go_on.wait(10)
        super().show(results)


def test_a_slow_place_to_show_holds_up_nobody() -> None:
    """Results arrive while a write blocks, and are shown by the next write."""
    world, latest = World(), Stuck()
    show = LatestPublisher(latest, SettableClock())
    world.take([message("a", 0, {"x": 1.0})])
    world.take([message("a", 1, {"x": 2.0})])
    first, second = world.feed.read(0, 100)
    show.update(first.telemetry, world.fleet.advance(first.telemetry))
    thread = Thread(target=show.step, args=(0.0,))
    thread.start()
    assert latest.entered.wait(10)
    show.update(second.telemetry, world.fleet.advance(second.telemetry))
    latest.go_on.set()
    thread.join(10)
    show.step(0.0)
    assert said(latest)[SeriesKey("a", "x")].timestamp == _stamp(NOW + SECOND)


def test_the_next_look_is_a_second_later() -> None:
    """A step asks for its next turn as late as configured."""
    assert (
        LatestPublisher(MemoryLatest(), SettableClock()).step(0.0) == showing.EVERY_SECONDS == 1.0
    )


def test_the_model_that_serves_is_shown_when_it_is_new_and_before_it_fades() -> None:
    """The serving model of a reporting series is shown once.

    The model is shown again when it changes or half an hour is over.
    """
    world, latest = World(stream(0, 0).log(set())), MemoryLatest()
    model_of: dict[int, str] = {0: "m0", 1: "m1"}
    clock = SettableClock()
    show = LatestPublisher(latest, clock, model_of.get)

    def shown() -> dict[SeriesKey, str]:
        latest.serving.clear()
        for batch in world.feed.read(0, EVERYTHING):
            show.update(batch.telemetry, world.fleet.advance(batch.telemetry))
        for number in range(len(world.fleet.registry)):
            show._newest[number] = (1.0, NOW)
        show.flush()
        return dict(latest.serving)

    keys = world.feed._registry.keys
    assert shown() == {keys[0]: "m0", keys[1]: "m1"}
    assert shown() == {}
    model_of[1] = "m2"
    assert shown() == {keys[1]: "m2"}
    clock.sleep(showing.REPEAT_SECONDS + 1)
    assert shown() == {keys[0]: "m0", keys[1]: "m2"}
