"""Shadows: they change no published result, and their own results are counted exactly."""

from functools import cache

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.log import Swap
from insa_anomaly.runtime.fleet.fleet import Kept
from insa_anomaly.runtime.fleet.shadows import KeptShadow, ShadowCounts
from tests.runtime.streams import (
    NOW,
    SERIES,
    Message,
    Stream,
    message,
    model,
    model_row,
    models,
    stream,
    swap,
)
from tests.runtime.world import Outcome, World

KEY = SERIES[0]


@cache
def shadowed(seed: int) -> Stream:
    """Build the same stream, in which every swap brings another version as a shadow."""
    plain = stream(seed, 200)
    other = {model(number).id: model((number + 3) % 6).id for number in range(6)}
    return Stream(
        plain.messages,
        {
            place: [
                msgspec.structs.replace(one, shadow_id=other.get(one.model_id or ""))
                for one in swaps
            ]
            for place, swaps in plain.swaps.items()
        },
    )


def without_shadows(outcome: Outcome) -> Outcome:
    """Return the outcome as if the checkpoints held no shadow."""
    kept = {key: msgspec.msgpack.decode(body, type=Kept) for key, body in outcome[3].items()}
    states = {
        key: msgspec.msgpack.encode(msgspec.structs.replace(one, shadow=None))
        for key, one in kept.items()
    }
    return (*outcome[:3], states)


@cache
def expected(seed: int) -> Outcome:
    """Score the stream in the fewest possible entries."""
    return World(shadowed(seed).log(set())).outcome()


def shadows(outcome: Outcome) -> dict[SeriesKey, KeptShadow]:
    """Return the shadows in the checkpoints."""
    kept = {key: msgspec.msgpack.decode(body, type=Kept).shadow for key, body in outcome[3].items()}
    return {key: one for key, one in kept.items() if one is not None}


def test_law_a_shadow_changes_no_word() -> None:
    """Anomalies, episodes, events and states equal a stream's without shadows, to the bit."""
    compared = 0
    for seed in range(10):
        assert without_shadows(expected(seed)) == World(stream(seed, 200).log(set())).outcome()
        compared += sum(one.tally.readings for one in shadows(expected(seed)).values())
    assert compared > 500


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.sets(st.integers(0, 410), max_size=60), st.data())
def test_a_restart_anywhere_is_invisible_to_a_comparison(
    seed: int, cuts: set[int], data: st.DataObject
) -> None:
    """Windows and counts are the same, however the stream is cut and the reader restarted."""
    world = World()
    for entry in shadowed(seed).entries(cuts):
        world.take(entry.messages, entry.swaps)
        for happening in data.draw(
            st.lists(st.sampled_from(["step", "keep", "start"]), max_size=2)
        ):
            {
                "step": lambda: world.score.step(0.0),
                "keep": world.score.write_checkpoint,
                "start": world.start,
            }[happening]()
    assert world.outcome() == expected(seed)


def readings(begin: int, end: int) -> list[Message]:
    """Build readings of a pump, with a fault every fifty readings that lasts for five."""
    return [
        message(
            "pump", i - 400, {"a": 18.0 if i % 50 < 5 and i > 75 else 10 + (i * 37 % 11 - 5) / 5}
        )
        for i in range(begin, end)
    ]


def tally(world: World) -> ShadowCounts:
    """Return the tally of the pump's shadow."""
    found = world.fleet.shadows.tally(0)
    assert found is not None
    return found[1]


def test_a_version_agrees_with_itself() -> None:
    """A shadow of the serving version finds the same anomalies and episodes."""
    world = World()
    world.take(readings(0, 100), [Swap(*KEY, model(0).id, None, model(0).id)])
    world.take(readings(100, 400))
    world.outcome()
    said = tally(world)
    assert said.readings == 400 - 59
    assert said.anomalies == said.shadow_anomalies == said.both > 20
    assert said.episodes == said.shadow_episodes > 3
    assert (said.since, said.newest) == (NOW - 341_000_000, NOW - 1_000_000)


def test_what_is_counted_is_what_it_would_have_said() -> None:
    """A shadow counts as many anomalies and episodes as the same version finds where it serves."""
    found = []
    for swaps in ([Swap(*KEY, model(0).id, None, model(3).id)], [swap(3)]):
        world = World()
        world.take(readings(0, 100), swaps)
        world.take(readings(100, 400))
        anomalies, episodes, _, _ = world.outcome()
        said = tally(world) if swaps[0].shadow_id else None
        found.append(
            (said.shadow_anomalies, said.shadow_episodes)
            if said
            else (len(anomalies), len({one.id for one in episodes}))
        )
    assert found[0] == found[1]
    assert found[0][0] > 20


def test_a_comparison_outlives_a_refit_and_ends_with_its_shadow() -> None:
    """Another serving version is counted; another shadow begins a new comparison.

    Without a shadow no comparison is left.
    """
    world = World()
    world.take(readings(0, 100), [Swap(*KEY, model(0).id, None, model(3).id)])
    world.take(readings(100, 110), [Swap(*KEY, model(0).id, 0.5, model(3).id)])
    world.outcome()
    before = tally(world)
    assert before.champions == 1
    world.take(readings(110, 120), [Swap(*KEY, model(3).id, None, model(3).id)])
    world.outcome()
    assert (tally(world).champions, tally(world).readings) == (2, before.readings + 10)
    world.take(readings(120, 130), [Swap(*KEY, model(3).id, None, model(0).id)])
    world.outcome()
    assert tally(world).readings == 10
    world.take(readings(130, 140), [swap(3)])
    world.outcome()
    assert world.fleet.shadows.tally(0) is None
    assert msgspec.msgpack.decode(world.state.restore()[1][KEY], type=Kept).shadow is None


def test_a_shadow_that_cannot_be_loaded_is_none() -> None:
    """A series whose shadow cannot be loaded is still served.

    The index marks the version failed.
    """
    shelf = models(6)
    shelf.put(model_row(0, "active"), shelf.scorer(model(0).id))
    shelf.put(model_row(3, "shadow"), shelf.scorer(model(3).id))
    shelf.lost.add(model(3).id)
    world = World(shelf=shelf)
    world.take(readings(0, 100), [Swap(*KEY, model(0).id, None, model(3).id)])
    world.outcome()
    assert world.fleet.shadows.tally(0) is None
    assert shelf.row(model(3).id).status == "failed"
    assert world.fleet.model[0][0] == model(0).id
