"""Windows and features: the fast code equals the naive code however the readings are batched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core import units
from insa_anomaly.core.layout import LearntRows, StateRows
from insa_anomaly.core.scoring import daily
from insa_anomaly.core.series import features
from insa_anomaly.core.series.features import Arrival
from insa_anomaly.core.units import Features
from tests.core import oracle, streams
from tests.core.streams import MINUTE, SERIES, START, Stream, warm

GAP = 20.0 * MINUTE


def pushed(states: StateRows, stream: Stream) -> features.Pushed:
    """Push readings whose series may be in any order."""
    order = np.argsort(stream.which, kind="stable")
    ordered = stream[order]
    gaps_us = np.full(len(stream), GAP)
    return features.push(
        states=states,
        which=ordered.which,
        values=ordered.values,
        times=ordered.times.astype(np.float64),
        discriminators=ordered.discriminators,
        gaps_us=gaps_us,
    )


def learnt_row(seed: int = 0, bins: int = 24) -> LearntRows:
    """Return a plausible learnt row."""
    random = np.random.default_rng(seed)
    learnt = LearntRows(random.normal(size=features.LEARNT.width))
    learnt[features.CENTER], learnt[features.SCALE] = 20.0, 1.7
    learnt[features.DAILY][daily.BINS] = bins
    learnt[features.SPREADS] = random.uniform(0.1, 2, features.WIDTH)
    learnt[features.FLAT_MOST], learnt[features.FLAT_FREE] = 15, 2
    return learnt


def scaled(look: features.WindowView, learnt: LearntRows) -> Features:
    """Return the features of windows as the forest takes them."""
    return features.scaled(features.unscaled(look, learnt), learnt)


@settings(max_examples=60, deadline=None)
@given(stream=streams.streams(), filled=st.booleans())
def test_law_the_window_is_the_naive_window(stream: Stream, filled: bool) -> None:
    """The window after every reading equals the naive window.

    The law covers arrival, values, stamps, count, flat run and number of readings seen.
    """
    states = warm() if filled else features.empty(SERIES)
    naive = [oracle.Window() for _ in range(SERIES)]
    if filled:
        times, values = streams.daily(70, 9)
        for window in naive:
            for i in range(70):
                window.push(values[i], times[i], i, np.inf)
    got = pushed(states, stream)
    for position, i in enumerate(np.argsort(stream.which, kind="stable")):
        window = naive[stream.which[i]]
        value, time = float(stream.values[i]), float(stream.times[i])
        arrival = window.push(value, time, int(stream.discriminators[i]), GAP)
        seen = window if arrival == Arrival.MOVES else window.if_next(value, time)
        assert got.arrivals[position] == arrival
        assert got.counts[position] == len(seen.values)
        assert got.flats[position] == seen.flat
        assert got.seen[position] == window.seen
        np.testing.assert_array_equal(got.windows[position, 60 - len(seen.values) :], seen.values)
        stamps = seen.times[-11:]
        np.testing.assert_array_equal(got.stamps[position, 11 - len(stamps) :], stamps)
    for row, window in enumerate(naive):
        assert got.states[row, features.COUNT] == len(window.values)
        assert got.states[row, features.SEEN] == window.seen


@settings(max_examples=60, deadline=None)
@given(stream=streams.streams(), cut=st.integers(0, 60))
def test_law_chunking_changes_no_bit_of_a_state(stream: Stream, cut: int) -> None:
    """Two batches leave the same states as a single batch, and no batch modifies its input."""
    before = warm()
    whole = pushed(before, stream).states
    assert before.tobytes() == warm().tobytes()
    halves = pushed(pushed(before, stream[slice(cut)]).states, stream[slice(cut, None)]).states
    assert whole.tobytes() == halves.tobytes()


def test_an_empty_batch_and_no_series_are_nothing_special() -> None:
    """An empty batch leaves the states unchanged, and no series is a valid state."""
    none = np.zeros(0, np.int64)
    nothing = Stream(none, none, np.zeros(0), none, none)
    assert len(pushed(features.empty(0), nothing).states) == 0
    assert pushed(warm(), nothing).states.tobytes() == warm().tobytes()


def test_readings_of_one_time_move_once_each() -> None:
    """Readings of the same time all move the window, and a redelivered batch moves no window."""
    n = 10
    stream = Stream(
        np.zeros(n, np.int64),
        np.full(n, START),
        np.arange(float(n)),
        np.arange(n),
        np.zeros(n, np.int64),
    )
    first = pushed(features.empty(1), stream)
    assert (first.arrivals == Arrival.MOVES).all()
    assert (pushed(first.states, stream).arrivals == Arrival.DUPLICATE).all()


@pytest.mark.parametrize("bins", [0, 24, 48])
def test_features_are_the_naive_features(bins: int) -> None:
    """Features and expected value of every full window equal a recomputation from its values."""
    times, values = streams.daily(200, 3)
    values[100:120] = values[100]
    values[150] = 1e4
    learnt = learnt_row(1, bins)
    own = np.arange(200)
    got = features.push(
        states=features.empty(1),
        which=own * 0,
        values=values,
        times=times.astype(np.float64),
        discriminators=own,
        gaps_us=np.full(200, np.inf),
    )
    everywhere = LearntRows(np.broadcast_to(learnt, (141, len(learnt))))
    windows, stamps, flats = got.windows[59:], got.stamps[59:], got.flats[59:]
    look = features.look(windows, stamps, flats, everywhere)
    fast = features.unscaled(look, everywhere)
    slow = [
        oracle.unscaled(w.tolist(), t.tolist(), f, learnt)
        for w, t, f in zip(windows, stamps, flats, strict=True)
    ]
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        features.expected(look, everywhere),
        [
            oracle.expected(w.tolist(), t.tolist(), learnt)
            for w, t in zip(windows, stamps, strict=True)
        ],
        rtol=0,
        atol=1e-12,
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 70),
    rows=st.lists(st.integers(0, 69), min_size=1, max_size=9),
)
def test_law_a_row_s_features_do_not_depend_on_its_batch(
    seed: int, n: int, rows: list[int]
) -> None:
    """The features of a row are bitwise independent of the other rows in the batch."""
    random = np.random.default_rng(seed)
    windows = random.normal(20, 3, (n, units.LONG))
    stamps = START + np.cumsum(random.integers(0, 9 * MINUTE, (n, units.SHORT + 1)), axis=1).astype(
        np.float64
    )
    flats = random.integers(0, 500, n).astype(np.float64)
    rows_of = zip(range(n), np.resize([0, 24, 48], n), strict=True)
    learnt = LearntRows(np.stack([learnt_row(i, bins) for i, bins in rows_of]))
    whole = features.look(windows, stamps, flats, learnt)
    some = np.array(rows) % n
    own = LearntRows(learnt[some])
    part = features.look(windows[some], stamps[some], flats[some], own)
    assert scaled(part, own).tobytes() == scaled(whole, learnt)[some].tobytes()
    assert (
        features.expected(part, own).tobytes() == features.expected(whole, learnt)[some].tobytes()
    )


def test_the_strangest_values_have_features_too() -> None:
    """The largest floats of either sign have finite features within the cap, without a warning."""
    windows = np.resize([1.7e308, -1.7e308, 5e-324, 0.0], (1, units.LONG)).astype(np.float64)
    stamps = np.arange(11.0)[None]
    learnt = LearntRows(learnt_row()[None])
    found = scaled(features.look(windows, stamps, np.zeros(1), learnt), learnt)
    assert np.isfinite(found).all()
    assert (np.abs(found) <= 30).all()


def test_the_profile_is_periodic_and_meets_its_bins() -> None:
    """The profile equals a bin's level at its middle, repeats daily, interpolates in between."""
    learnt = learnt_row(2, 24)[None, features.DAILY]
    levels = learnt[0, daily.LEVELS]
    middles = (np.arange(24) + 0.5) / 24 * units.DAY
    np.testing.assert_allclose(daily.profile(middles[None], learnt)[0], levels[:24])
    later = daily.profile(middles[None] + 5 * units.DAY, learnt)
    np.testing.assert_allclose(later, daily.profile(middles[None], learnt), atol=1e-9)
    midnight = daily.profile(np.zeros((1, 1)), learnt)[0, 0]
    np.testing.assert_allclose(midnight, levels[[0, 23]].mean())
