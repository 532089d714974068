"""The laws of the device detector: cuts, restarts and later rows change no result."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.device import detector, features
from insa_anomaly.core.device.detector import DeviceModel, Served
from insa_anomaly.core.device.window import (
    ABSENT_MOST,
    EPISODE,
    LAST,
    SEEN,
    SINCE_DUE,
    empty,
    history,
    push,
    rearranged,
)
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.units import FLAT_CAP, LONG, Floats
from insa_anomaly.errors import ModelFileError
from tests.core.device_rows import (
    METRICS,
    Rows,
    joined,
    prefix,
    reloaded,
    run,
    same,
    served,
    streams,
    warm,
    wave,
)
from tests.core.streams import MINUTE, START

cuts = st.lists(st.integers(0, 60), max_size=5).map(sorted)
some_model = st.sampled_from([None, 0, 1])


def model_of(which: int | None) -> Served | None:
    """Return a served model, or None."""
    return None if which is None else served(which)


@settings(max_examples=150, deadline=None)
@given(streams(), cuts, some_model, st.booleans())
def test_law_pieces_change_nothing(
    rows: Rows, at: list[int], which: int | None, cold: bool
) -> None:
    """Any cut of the rows leads bitwise to the same results and state.

    The law holds with a full and with an empty window.
    """
    start = empty(3) if cold else warm()
    model = model_of(which)
    whole, results = run(start, rows, model)
    state, parts = start, []
    for begin, end in zip([0, *at], [*at, len(rows)], strict=True):
        state, part = run(state, rows[begin : max(begin, end)], model)
        parts.append(part)
    assert whole.tobytes() == state.tobytes()
    assert same(results, joined(parts))


def test_law_row_by_row_is_all_at_once() -> None:
    """Single rows and a batch of more rows than a block lead to the same results and state."""
    rows, model = wave(1300, 3), served()
    rows.values[200:260] += 5
    whole, results = run(empty(3), rows, model)
    state, parts = empty(3), []
    for i in range(len(rows)):
        state, part = run(state, rows[i : i + 1], model)
        parts.append(part)
    assert whole.tobytes() == state.tobytes()
    assert same(results, joined(parts))


@settings(max_examples=60, deadline=None)
@given(streams(), st.integers(0, 60), some_model)
def test_law_what_comes_later_changes_nothing(rows: Rows, n: int, which: int | None) -> None:
    """The results of a prefix are the prefix of the results."""
    model = model_of(which)
    assert same(run(warm(), rows[:n], model)[1], prefix(run(warm(), rows, model)[1], n))


@settings(max_examples=60, deadline=None)
@given(streams(), some_model)
def test_law_nothing_that_is_given_is_changed(rows: Rows, which: int | None) -> None:
    """`advance` modifies neither state nor rows.

    A prediction is an advance whose state is dropped.
    """
    state, times, values = warm(), rows.times.copy(), rows.values.copy()
    first = run(state, rows, model_of(which))[1]
    assert state.tobytes() == warm().tobytes()
    assert (rows.times.tobytes(), rows.values.tobytes()) == (times.tobytes(), values.tobytes())
    assert same(first, run(state, rows, model_of(which))[1])


@settings(max_examples=60, deadline=None)
@given(streams(), st.integers(0, 60))
def test_law_a_restart_changes_nothing(rows: Rows, at: int) -> None:
    """A state and a model restored from bytes continue the stream unchanged."""
    model = served()
    whole, results = run(warm(), rows, model)
    state, head = run(warm(), rows[:at], model)
    state, tail = run(np.frombuffer(state.tobytes(), np.float64), rows[at:], reloaded(model))
    assert whole.tobytes() == state.tobytes()
    assert same(results, joined([head, tail]))


@settings(max_examples=60, deadline=None)
@given(streams(), st.integers(0, 60), cuts)
def test_law_another_model_goes_on_from_the_same_window(
    rows: Rows, swap: int, at: list[int]
) -> None:
    """A new model's running means are computed from the window, however its rows arrived."""
    state, _ = run(warm(), rows[:swap], served(0))
    whole, results = run(state, rows[swap:], served(1))
    pieces, parts = state, []
    for begin, end in zip(
        [swap, *(swap + cut for cut in at)], [*(swap + cut for cut in at), len(rows)], strict=True
    ):
        pieces, part = run(pieces, rows[begin : max(begin, end)], served(1))
        parts.append(part)
    assert whole.tobytes() == pieces.tobytes()
    assert same(results, joined(parts))


@settings(max_examples=100, deadline=None)
@given(streams(), some_model)
def test_law_results_are_well_formed(rows: Rows, which: int | None) -> None:
    """Scores are within [-1, 1], and 0 where no row was scored.

    Shares sum to 1 or 0, and the share of a missing metric is 0.
    """
    _, said = run(warm(), rows, model_of(which))
    scored = np.isin(said.status, [Status.SCORED, Status.LATE, Status.DUPLICATE]) & np.isfinite(
        said.expected
    ).any(axis=1)
    assert np.isfinite(said.score).all()
    assert (np.abs(said.score) <= 1).all()
    assert not said.score[~scored].any()
    assert scored[said.status == Status.SCORED].all()
    assert np.isfinite(said.expected[scored]).all()
    total = said.shares.sum(axis=1)
    assert (np.isclose(total, 1) | (total == 0)).all()
    assert not said.shares[~said.used].any()
    assert ((said.metric >= 0) == (total > 0)).all()
    assert (said.status[~np.isfinite(rows.values).any(axis=1)] == Status.BAD_QUALITY).all()


# --------------------------------------------------------------------- the window, computed naively
def naive(rows: Rows) -> tuple[list[list[float]], list[list[float]], list[list[bool]]]:
    """Return readings since the last change, held value and participation per row and metric."""
    n, d = rows.values.shape
    flats, held, used = (
        [[0.0] * d for _ in range(n)],
        [[np.nan] * d for _ in range(n)],
        [[False] * d for _ in range(n)],
    )
    for j in range(d):
        value, flat, fresh, absent = np.nan, 0, 0, ABSENT_MOST + 1
        for i, now in enumerate(rows.values[:, j].tolist()):
            there = bool(np.isfinite(now))
            if there and absent > ABSENT_MOST:
                fresh, flat = 0, -1
            elif there and now != value:
                flat = -1
            value, absent = (now, 0) if there else (value, absent + 1)
            flat, fresh = flat + there, min(fresh + 1, LONG)
            flats[i][j], held[i][j] = min(flat, FLAT_CAP), value
            used[i][j] = there and fresh >= min(i + 1, LONG)
    return flats, held, used


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(*[st.sampled_from((1.0, 2.0, np.nan))] * 3), min_size=1, max_size=40),
    st.integers(1, 6),
)
def test_running_is_recomputed(drawn: list[tuple[float, ...]], repeated: int) -> None:
    """The running columns of the window equal a recomputation over all rows."""
    values = np.repeat(np.array(drawn), repeated, axis=0)
    if np.isnan(values[0]).all():
        values[0] = 1.0
    rows = Rows(START + np.arange(len(values)) * MINUTE, values)
    state, pushed = push(empty(3), rows.times.astype(np.float64), values)
    flats, held, used = naive(rows)
    there = np.isfinite(np.array(held))
    np.testing.assert_array_equal(pushed.values[LONG:], held)
    np.testing.assert_array_equal(pushed.used, used)
    np.testing.assert_array_equal(pushed.flats[there], np.array(flats)[there])
    np.testing.assert_array_equal(history(state)[-len(values) :], np.array(held)[-LONG:])


def test_moments_are_those_of_the_window() -> None:
    """Means and scatter of each row's window equal numpy's."""
    z = np.random.default_rng(1).normal(0, 1, (LONG + 600, 2))
    seen = features.moments(z)
    for i in (0, 1, 511, 512, 599):
        window = z[i + 1 : LONG + i + 1]
        np.testing.assert_allclose(
            seen[i, :, : features.LAGS + 1], window[: -features.LAGS - 2 : -1].T
        )
        np.testing.assert_allclose(seen[i, :, features.LAGS + 1], window[-21:-1].mean(axis=0))
        np.testing.assert_allclose(seen[i, :, features.SHORT_MEAN], window[-10:].mean(axis=0))
        np.testing.assert_allclose(seen[i, :, features.LONG_MEAN], window.mean(axis=0))
        np.testing.assert_allclose(seen[i, :, features.DEVIATION], window[-10:].std(axis=0, ddof=1))


@pytest.mark.parametrize("metrics", [1, 2, 8, 11])
def test_law_a_projection_is_the_same_of_few_rows_and_of_many(metrics: int) -> None:
    """A projection is bitwise equal for few rows, many rows and axes per row, -0.0 included."""
    random = np.random.default_rng(metrics)
    rows, axes = (
        random.normal(0, 1, (40_000 // metrics**2, metrics)),
        random.normal(0, 1, (metrics, metrics)),
    )
    rows[::7] = -0.0
    together = features.projected(rows, axes)
    one_by_one = np.concatenate([features.projected(rows[i : i + 1], axes) for i in range(300)])
    assert together[:300].tobytes() == one_by_one.tobytes()
    of_each = features.projected(rows[:30], np.repeat(axes[None], 30, axis=0))
    assert together[:30].tobytes() == of_each.tobytes()


def test_what_is_missing_is_taken_as_what_the_others_make_of_it() -> None:
    """A missing metric is imputed by the conditional mean of a Gaussian, as in the textbook."""
    random = np.random.default_rng(2)
    mixed = random.normal(0, 1, (5, 5))
    covariance = mixed @ mixed.T + 0.1 * np.eye(5)
    present = np.array([True, False, True, True, False])
    expected = covariance[np.ix_(~present, present)] @ np.linalg.inv(
        covariance[np.ix_(present, present)]
    )
    found = features.imputation(np.asarray(np.linalg.inv(covariance), np.float64), present)
    np.testing.assert_allclose(found[np.ix_(~present, present)], expected, atol=1e-9)
    assert not found[present].any()


# ------------------------------------------------------------------------------ what comes and goes
def scored(values: Floats, seed: int = 0) -> detector.DeviceResults:
    """Return the model's results for rows that follow its training rows."""
    rows = wave(400, seed)
    state, _ = run(empty(3), rows, served(seed))
    return run(
        state, Rows(rows.times[-1] + MINUTE * np.arange(1, len(values) + 1), values), served(seed)
    )[1]


@pytest.mark.parametrize("missing", [(0,), (2,), (0, 1), (1, 2)])
def test_without_some_metrics_the_others_decide(missing: tuple[int, ...]) -> None:
    """Calm rows stay calm without some metrics, and a fault in a present metric is named."""
    values = wave(600, 0).values[400:]
    values[:, missing] = np.nan
    left = next(j for j in range(3) if j not in missing)
    said = scored(values)
    assert (said.status == Status.SCORED).all()
    assert (said.score < 0).mean() < 0.1
    assert not said.shares[:, missing].any()
    values[100:, left] += 12
    said = scored(values)
    assert (said.score[105:115] < 0).all()
    assert (said.metric[100:115] == left).all()


def test_a_metric_that_comes_back_takes_part_once_its_window_is_filled() -> None:
    """A short absence has no effect; after a longer absence a metric starts anew."""
    values = wave(600, 0).values[400:]
    values[10:15, 0] = np.nan
    values[20:40, 0] = np.nan
    said = scored(values)
    assert said.used[15:20, 0].all()
    assert not said.used[40 : 40 + LONG - 1, 0].any()
    assert said.used[40 + LONG - 1 :, 0].all()


def test_other_metrics_take_over_the_window() -> None:
    """Remaining metrics keep their readings, a new metric has none, the episode stays open."""
    state = warm()
    state[EPISODE] = 1.0, 2.0, 0.5, 0.5, 0.0
    other = rearranged(state, METRICS, ("c", "new", "a"))
    np.testing.assert_array_equal(history(other)[:, [0, 2]], history(state)[:, [2, 0]])
    assert np.isnan(history(other)[:, 1]).all()
    assert other[LAST] == state[LAST]
    assert other[EPISODE].tolist() == [1.0, 2.0, 0.5, 0.5, 0.0]
    _, said = run(other, wave(75, 9)[70:], served())
    assert said.status.tolist() == [Status.SCORED] * 5
    assert not said.used[:, 1].any()


def test_a_window_begins_anew_after_a_long_pause() -> None:
    """Rows after a long pause are not scored until the window is full again."""
    values = wave(600, 0).values[400:]
    rows = Rows(START + MINUTE * np.arange(200), values)
    rows.times[100:] += int(served().model.gap)
    said = run(warm(), Rows(rows.times + 70 * MINUTE, values), served())[1]
    assert (said.status[:100] == Status.SCORED).all()
    assert (said.status[100 : 100 + LONG - 1] == Status.WARMING).all()
    assert (said.status[100 + LONG - 1 :] == Status.SCORED).all()


def test_equal_times_late_rows_and_repetitions() -> None:
    """A row of the same time with another value moves; a repeated or older row does not."""
    newest = START + 70 * MINUTE
    a, b = [20.0, 20.0, 20.0], [21.0, 20.0, 20.0]
    times = np.array([newest, newest, newest, newest, newest - MINUTE])
    state, said = run(warm(), Rows(times, np.array([a, a, b, a, a])), served())
    assert said.status.tolist() == [
        Status.SCORED,
        Status.DUPLICATE,
        Status.SCORED,
        Status.DUPLICATE,
        Status.LATE,
    ]
    assert state[SEEN] == warm()[SEEN] + 2


def test_refits_fall_due_as_counted() -> None:
    """Refits are due at each step of rows with a model.

    Without a model they are due from the rows and the span of the first fit on.
    """
    rows = wave(100, 9)
    state, said = run(empty(3), rows, None)
    assert np.flatnonzero(said.refit_due).tolist() == list(range(29, 100, 7))
    _, said = run(state, Rows(rows.times + 100 * MINUTE, rows.values), served(refit_step=30))
    first = int(30 - state[SINCE_DUE]) - 1
    assert np.flatnonzero(said.refit_due).tolist() == list(range(first, 100, 30))


def test_a_file_that_is_no_model_is_refused() -> None:
    """Empty, damaged and inconsistent files raise `ModelFileError`."""
    data = served().model.to_bytes()
    for wrong in (b"", b"hello", data[:1000], data.replace(b"format", b"formed")):
        with pytest.raises(ModelFileError):
            DeviceModel.from_bytes(wrong)
    with pytest.raises(ModelFileError):
        DeviceModel.from_bytes(replace(served().model, metrics=("a", "b")).to_bytes())
