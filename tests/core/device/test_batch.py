"""The law of `advance_each`: rows of many devices at once equal rows of single devices, bitwise."""

from dataclasses import replace
from functools import cache
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.device import detector, window
from insa_anomaly.core.device.batch import advance_each
from insa_anomaly.core.device.detector import DeviceModel, DeviceResults, Served
from insa_anomaly.core.device.training import DeviceLearner
from insa_anomaly.core.scoring import daily
from insa_anomaly.core.scoring.forest import Arena
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.units import Floats, Ints
from tests.core.device_rows import LEVELS, PAUSES, POLICY, SMALL, Rows, joined, same
from tests.core.streams import MINUTE, START

KINDS = 4
WIDTHS = (1, 2, 8, 11)  # numpy adds eight and more numbers in another order


@cache
def history(metrics: int, seed: int) -> Rows:
    """Return 400 rows, a minute apart."""
    values = np.random.default_rng(seed).normal(20, 1, (400, metrics))
    return Rows(START + np.arange(400) * MINUTE, values + values[:, :1])


@cache
def learnt(metrics: int, seed: int) -> DeviceModel:
    """Return a model of `history`."""
    rows, names = history(metrics, seed), tuple(f"m{j}" for j in range(metrics))
    return (
        DeviceLearner(
            device_id="D",
            metrics=names,
            id=f"00000000-0000-0000-0000-00000000000{seed}",
            version=1,
            parameters=SMALL,
            policy=POLICY,
        )
        .fit(rows.times, rows.values)
        .model
    )


@cache
def model(metrics: int, kind: int) -> DeviceModel:
    """Return a model by kind.

    Kinds 0 and 1 are as learnt, kind 2 has a daily profile of all metrics, and the profiles of kind
    3 differ from metric to metric, as no training makes them.
    """
    one = replace(learnt(metrics, kind % 2), version=kind, refit_step=9.0, threshold=0.2)
    profile = one.known.profile.copy()
    profile[:, daily.LEVELS] = np.sin(np.arange(daily.BINS_MOST))
    profile[:, daily.BINS] = 24 if kind == 2 else 0
    if kind == KINDS - 1:
        profile[: metrics // 2, daily.BINS], profile[-1, daily.BINS] = 48, 24
    return replace(one, known=replace(one.known, profile=profile))


@cache
def warm(metrics: int) -> Floats:
    """Return the state of a device whose window is full, as the model of kind 0 left it."""
    rows = history(metrics, 0)[:70]
    return detector.advance(
        state=window.empty(metrics),
        served=Served(model(metrics, 0)),
        times=rows.times,
        values=rows.values,
        policy=POLICY,
        parameters=SMALL,
    )[0]


def some_served(random: np.random.Generator, metrics: int, arena: Arena, row: int) -> Served | None:
    """Draw a model in the shared arena, a model in an arena of its own, or None."""
    drawn = int(random.integers(2 * KINDS + 1))
    return (
        None
        if drawn == 2 * KINDS
        else Served(model(metrics, drawn % KINDS), arena if drawn < KINDS else None, row)
    )


def some_row(random: np.random.Generator, metrics: int) -> Floats:
    """Draw a row: mostly ordinary, else far out, rounded, empty, or with a strange value."""
    row, kind = random.normal(20, 1, metrics), random.random()
    if kind < 0.1:
        row[random.integers(metrics)] = random.choice(LEVELS)
    elif kind < 0.2:
        row += random.choice((6.0, 60.0, 1e300))
    elif kind < 0.25:
        row[:] = np.round(row)
    elif kind < 0.27:
        row[:] = np.nan
    return row


def one_by_one(
    states: list[Floats], served: list[Served | None], times: Ints, values: Floats
) -> tuple[list[Floats], list[DeviceResults]]:
    """Advance each device by itself."""
    rows = [slice(i, i + 1) for i in range(len(times))]
    found = [
        detector.advance(
            state=state,
            served=one,
            times=times[row],
            values=values[row],
            policy=POLICY,
            parameters=SMALL,
        )
        for state, one, row in zip(states, served, rows, strict=True)
    ]
    return [state for state, _ in found], [said for _, said in found]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(WIDTHS), st.integers(1, 7))
def test_law_rows_side_by_side_are_rows_one_by_one(seed: int, metrics: int, devices: int) -> None:
    """Rows of many devices at once equal rows of single devices, bitwise.

    Models, ages and windows are of any kind; rows are late, long after, repeated, faulty or have
    gaps.
    """
    random = np.random.default_rng(seed)
    arena = Arena(devices, SMALL.n_estimators)
    served = [some_served(random, metrics, arena, row) for row in range(devices)]
    states = [
        warm(metrics) if random.random() < 0.9 else window.empty(metrics) for _ in range(devices)
    ]
    times = np.full(devices, START + 69 * MINUTE)
    for _ in range(25):
        who = np.flatnonzero(random.random(devices) < 0.8)
        if not len(who):
            continue
        times[who] += [int(random.choice(PAUSES)) if random.random() < 0.2 else MINUTE for _ in who]
        values = np.stack([some_row(random, metrics) for _ in who])
        own, theirs = [states[i] for i in who], [served[i] for i in who]
        expected, said = one_by_one(own, theirs, times[who], values)
        moved, results = advance_each(
            states=own,
            served=theirs,
            times=times[who],
            values=values,
            policy=POLICY,
            parameters=SMALL,
        )
        assert [state.tobytes() for state in moved] == [state.tobytes() for state in expected]
        assert same(results, joined(said))
        for i, state in zip(who, moved, strict=True):
            states[i] = state


def test_ordinary_rows_do_go_side_by_side() -> None:
    """Rows of full windows are scored in a single call, so the law above covers that path."""
    arena = Arena(3, SMALL.n_estimators)
    served = [Served(model(8, 0), arena, row) for row in range(3)]
    states, values = [warm(8)] * 3, history(8, 0).values[70:73]
    times = START + MINUTE * np.array([70, 71, 72])
    with patch.object(arena, "score", wraps=arena.score) as asked:
        _, results = advance_each(
            states=states,
            served=served,
            times=times,
            values=values,
            policy=POLICY,
            parameters=SMALL,
        )
    assert asked.call_count == 1
    assert (results.status == Status.SCORED).all()


def test_states_are_apart() -> None:
    """A stored state does not hold the memory of the others."""
    served: list[Served | None] = [Served(model(2, 0))] * 2
    moved, _ = advance_each(
        states=[warm(2)] * 2,
        served=served,
        times=np.full(2, START + 70 * MINUTE),
        values=np.full((2, 2), 20.0),
        policy=POLICY,
        parameters=SMALL,
    )
    assert all(state.base is None for state in moved)
