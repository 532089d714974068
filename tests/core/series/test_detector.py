"""The laws of `advance`: the same results, bitwise, however a stream is cut."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from insa_anomaly.core import units
from insa_anomaly.core.layout import LearntRows, StateRows
from insa_anomaly.core.scoring.episodes import Transition
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.series import detector, features
from insa_anomaly.core.series.detector import Model, SeriesBatch
from insa_anomaly.errors import ModelFileError
from tests.core import oracle, streams
from tests.core.streams import (
    MINUTE,
    SERIES,
    SMALL,
    START,
    Stream,
    joined,
    models,
    reloaded,
    run,
    same,
    taken,
    trained,
    warm,
)

laws = settings(max_examples=30, deadline=None)


def ordinary(n: int, row: int = 0, *, seed: int = 1, start: int = 70) -> Stream:
    """Return the next `n` readings of a warm series, like the readings of its training."""
    at = np.arange(start, start + n)
    values = 20 + 3 * np.sin(2 * np.pi * at / 1440) + np.random.default_rng(seed).normal(0, 0.3, n)
    return Stream(np.full(n, row), START + at * MINUTE, values, at, np.zeros(n, np.int64))


@laws
@given(stream=streams.streams(), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_law_chunking_changes_nothing(stream: Stream, cuts: list[int]) -> None:
    """A single batch, several batches and single readings lead to the same results and states."""
    held = models()
    after, whole = run(warm(), stream, held)
    for edges in (
        [0, *sorted(min(c, len(stream)) for c in cuts), len(stream)],
        list(range(len(stream) + 1)),
    ):
        states, parts = warm(), [run(warm(), stream[slice(0)], held)[1]]
        for begin, end in pairwise(edges):
            states, results = run(states, stream[slice(begin, end)], held)
            parts.append(results)
        assert same(whole, joined(parts))
        assert after.tobytes() == states.tobytes()


@laws
@given(stream=streams.streams(), block=st.integers(1, 20))
def test_law_the_size_of_a_block_changes_nothing(stream: Stream, block: int) -> None:
    """The block size of the scoring changes neither results nor states."""
    held = models()
    after, whole = run(warm(), stream, held)
    with pytest.MonkeyPatch.context() as small:
        small.setattr(detector, "_BLOCK", block)
        states, results = run(warm(), stream, held)
    assert same(whole, results)
    assert after.tobytes() == states.tobytes()


@laws
@given(stream=streams.streams())
def test_law_other_series_change_nothing(stream: Stream) -> None:
    """A series leads to the same results alone and among others."""
    held = models()
    after, whole = run(warm(), stream, held)
    for row in range(SERIES):
        at = np.flatnonzero(stream.which == row)
        states, alone = run(warm(), stream[at], held)
        assert same(alone, taken(whole, at))
        assert states[row].tobytes() == after[row].tobytes()


@laws
@given(
    stream=streams.streams(),
    row=st.integers(0, 2),
    repeat=st.booleans(),
    values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=5),
)
def test_law_what_is_foreseen_is_what_would_be(
    stream: Stream, row: int, repeat: bool, values: list[float]
) -> None:
    """A foreseen value is scored as if it arrived a usual pause after the newest reading.

    The state of the series does not change.
    """
    held = models()
    states, _ = run(warm(), stream, held)
    state = states[row : row + 1]
    assume(state[0, features.COUNT] == units.LONG)
    what, before = (
        np.array([*values, state[0, features.VALUES][-1]] if repeat else values),
        state.tobytes(),
    )
    foreseen = detector.foresee(
        StateRows(state[0]),
        LearntRows(held.learnt[row]),
        lambda scaled: held.arena.score(np.full(len(scaled), row), scaled),
        what,
    )
    time = int(state[0, features.LAST] + held.learnt[row, detector.INTERVAL_US])
    n = len(what)
    nothing, rows = np.zeros(n, np.int64), np.full(n, row)
    coming = SeriesBatch(
        series=np.arange(n),
        models=rows,
        values=what,
        times=np.full(n, time),
        discriminators=nothing,
        qualities=nothing,
    )
    every = StateRows(np.repeat(state, n, axis=0))
    _, come = detector.advance(every, coming, held, streams.POLICY, SMALL)
    for name in (
        "status",
        "score",
        "confidence",
        "raw_score",
        "expected",
        "lower",
        "upper",
        "features",
        "member",
        "rules",
    ):
        np.testing.assert_array_equal(getattr(foreseen, name), getattr(come, name))
    assert state.tobytes() == before


@laws
@given(stream=streams.streams(), cut=st.integers(0, 60))
def test_law_saving_and_reloading_in_mid_stream_changes_nothing(stream: Stream, cut: int) -> None:
    """States restored from bytes and models restored from files continue the stream unchanged."""
    held = models()
    _, whole = run(warm(), stream, held)
    states, head = run(warm(), stream[slice(cut)], held)
    rows = [np.frombuffer(row.tobytes(), np.float64) for row in states]
    restored = StateRows(np.stack(rows))
    _, tail = run(restored, stream[slice(cut, None)], reloaded(held))
    assert same(whole, joined([head, tail]))


@laws
@given(stream=streams.streams())
def test_law_nothing_given_is_changed(stream: Stream) -> None:
    """`advance` modifies neither the states nor the readings nor the models."""
    held, states, copy = models(), warm(), stream[np.arange(len(stream))]
    learnt = held.learnt.copy()
    run(states, stream, held)
    assert states.tobytes() == warm().tobytes()
    assert held.learnt.tobytes() == learnt.tobytes()
    for name in ("which", "times", "values", "discriminators", "qualities"):
        assert getattr(stream, name).tobytes() == getattr(copy, name).tobytes()


@laws
@given(stream=streams.streams(), keep=st.integers(0, 60))
def test_law_the_future_changes_nothing(stream: Stream, keep: int) -> None:
    """The results of a prefix of the stream are the prefix of the results."""
    held, first = models(), np.arange(min(keep, len(stream)))
    assert same(run(warm(), stream[first], held)[1], taken(run(warm(), stream, held)[1], first))


@laws
@given(stream=streams.streams(), full=st.booleans())
def test_law_nothing_is_said_before_it_is_known(stream: Stream, full: bool) -> None:
    """A reading without a model or a full window has score 0, no confidence and no transition.

    A scored reading has an expected value within its band.
    """
    _, results = run(warm() if full else features.empty(SERIES), stream, models())
    scored = ~np.isnan(results.expected)
    assert (scored[results.status == Status.SCORED]).all()
    assert not scored[
        np.isin(results.status, (Status.COLLECTING, Status.WARMING, Status.BAD_QUALITY))
    ].any()
    assert not scored[stream.which == 3].any()
    for silent in (results.score, results.confidence, results.raw_score):
        assert not silent[~scored].any()
    assert not np.isin(results.transition[~scored], (Transition.OPENED, Transition.WORSENED)).any()
    assert (results.lower[scored] <= results.expected[scored]).all()
    assert (results.expected[scored] <= results.upper[scored]).all()
    assert (np.abs(results.score) == results.confidence).all()
    assert (results.confidence <= 1).all()


@laws
@given(stream=streams.streams())
def test_law_what_is_late_repeated_or_bad_moves_nothing(stream: Stream) -> None:
    """Late, repeated and bad readings change neither states nor other results."""
    held = models()
    after, whole = run(warm(), stream, held)
    moved = np.flatnonzero(
        ~np.isin(whole.status, (Status.LATE, Status.DUPLICATE, Status.BAD_QUALITY))
    )
    states, alone = run(warm(), stream[moved], held)
    assert same(alone, taken(whole, moved))
    assert states.tobytes() == after.tobytes()
    silent = np.setdiff1d(np.arange(len(stream)), moved)
    assert not whole.transition[silent].any()
    assert not whole.refit_due[silent].any()
    assert (whole.status[~np.isfinite(stream.values)] == Status.BAD_QUALITY).all()


@laws
@given(stream=streams.streams())
def test_law_refits_are_due_as_counted_by_hand(stream: Stream) -> None:
    """Refits are due as the naive count says.

    A series with a model is due every refit step; a series without a model is due from the size and
    span of the first fit on, and again at each retry.
    """
    held = models()
    before = warm()
    before[:, features.SINCE_DUE] = 0
    before[:, features.SEEN] = 25
    _, results = run(before, stream, held)
    moved = ~np.isin(results.status, (Status.LATE, Status.DUPLICATE, Status.BAD_QUALITY))
    for row in range(SERIES):
        at = np.flatnonzero(stream.which == row)
        seen = 25 + np.cumsum(moved[at])
        grown = (seen >= SMALL.first_fit_readings) & (
            stream.times[at] - before[row, features.FIRST] >= SMALL.first_fit_seconds * 1e6
        )
        steps = np.full(
            len(at),
            held.learnt[row, detector.REFIT_STEP] if row < 3 else SMALL.first_fit_retry_readings,
        )
        eligible = np.ones(len(at), bool) if row < 3 else grown
        assert results.refit_due[at].tolist() == oracle.dues(
            moved[at].tolist(), eligible.tolist(), steps.tolist()
        )


def test_a_fault_opens_an_episode_and_its_end_closes_it() -> None:
    """Ordinary readings open no episode; a jump opens an episode, its end closes the episode."""
    stream = ordinary(200)
    stream.values[100:105] += 30
    _, results = run(warm(), stream, models())
    opened, closed = (
        np.flatnonzero(results.transition == kind)
        for kind in (Transition.OPENED, Transition.CLOSED)
    )
    assert opened.tolist() == [100]
    assert len(closed) == 1
    assert results.episode_started[closed[0]] == stream.times[100]
    assert results.score[100] < -0.9
    assert stream.values[100] > results.upper[100]


def test_a_late_reading_is_scored_as_if_it_came_next() -> None:
    """A late or repeated reading opens no episode; a late reading is scored as the next."""
    held, states = models(), run(warm(), ordinary(10), models())[0]
    late = Stream(
        np.zeros(1, np.int64),
        np.array([START]),
        np.array([90.0]),
        np.array([7]),
        np.zeros(1, np.int64),
    )
    after, results = run(states, late, held)
    assert results.status.tolist() == [Status.LATE]
    assert results.score[0] < -0.9
    assert results.transition[0] == Transition.NONE
    assert after.tobytes() == states.tobytes()
    again = ordinary(1, start=79)
    assert run(states, again, held)[1].status.tolist() == [Status.DUPLICATE]


def test_a_pause_warms_the_window_anew() -> None:
    """No reading is scored after a long pause until the window is full.

    Readings close an open episode; the pause does not.
    """
    held, fault = models(), ordinary(1)
    fault.values[:] = 90
    states, opened = run(warm(), fault, held)
    assert opened.transition.tolist() == [Transition.OPENED]
    _, results = run(states, ordinary(70, start=70 + 25), held)
    assert (results.status[:59] == Status.WARMING).all()
    assert (results.status[59:] == Status.SCORED).all()
    assert np.flatnonzero(results.transition == Transition.CLOSED).tolist() == [2]
    assert results.episode_readings[:3].tolist() == [1, 1, 1]


def test_a_model_that_is_taken_away_is_no_model() -> None:
    """A series whose model is removed collects readings again."""
    held = models()
    held.remove(0)
    assert (run(warm(), ordinary(5), held)[1].status == Status.COLLECTING).all()


def test_a_model_survives_its_file() -> None:
    """A model read from its file is bitwise the model that was written."""
    model = trained(0).model
    again = Model.from_bytes(model.to_bytes())
    assert (again.id, again.version, again.device_id, again.metric_name) == (
        "model-0",
        1,
        "D",
        "m0",
    )
    assert again.learnt.tobytes() == model.learnt.tobytes()
    assert again.to_bytes() == model.to_bytes()


@pytest.mark.parametrize("damage", [b"", b"not a zip", None, "cut"])
def test_a_damaged_file_is_refused(damage: bytes | str | None) -> None:
    """A damaged file raises `ModelFileError`."""
    good = trained(0).model.to_bytes()
    data = (
        good[: len(good) // 2]
        if damage == "cut"
        else good[:300] + bytes(50) + good[350:]
        if damage is None
        else damage
    )
    assert isinstance(data, bytes)
    with pytest.raises(ModelFileError):
        Model.from_bytes(data)
