"""Charts: the fast code equals the naive code however the readings are batched."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core import units
from insa_anomaly.core.layout import LearntRows
from insa_anomaly.core.series import charts, features
from tests.core import oracle


def learnt(n: int, seed: int = 0) -> tuple[LearntRows, LearntRows]:
    """Return plausible learnt rows of `n` series: for the features and for the charts."""
    random = np.random.default_rng(seed)
    scaling, charted = (
        np.zeros((n, features.LEARNT.width)),
        random.normal(0, 0.4, (n, charts.LEARNT.width)),
    )
    scaling[:, features.CENTER], scaling[:, features.SCALE] = 20, random.uniform(0.5, 2, n)
    charted[:, charts.SCALES] = random.uniform(0.2, 3, (n, features.WIDTH))
    charted[:, charts.ERROR_SCALE] = random.uniform(0.2, 3, n)
    return LearntRows(scaling), LearntRows(charted)


def test_the_window_chart_is_the_naive_one() -> None:
    """The window chart is the log root mean square of the robustly scaled features."""
    raw = np.random.default_rng(0).normal(0, 5, (20, features.WIDTH))
    charted = learnt(20)[1]
    np.testing.assert_allclose(
        charts.window_z(raw, charted), oracle.window_z(raw, charted), atol=1e-12
    )


def test_the_forecast_is_the_naive_one() -> None:
    """The forecast error equals the naive twin's, also far beyond the caps."""
    windows = np.random.default_rng(1).normal(20, 3, (20, units.LONG))
    windows[3, -1], windows[4, -2], windows[5, -1] = 1e300, -1e300, 400
    scaling, charted = learnt(20, 2)
    naive = [
        oracle.forecast_error(w.tolist(), s, n)
        for w, s, n in zip(windows, scaling, charted, strict=True)
    ]
    look = features.look(windows, np.zeros((20, units.SHORT + 1)), np.zeros(20), scaling)
    np.testing.assert_allclose(charts.forecast_error(look, charted), naive, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(0, 80), cut=st.integers(0, 80))
def test_law_smoothing_one_by_one_is_smoothing_at_once(seed: int, n: int, cut: int) -> None:
    """Smoothing in a single batch, in two and by the naive code is bitwise equal.

    Readings that do not move the window leave no trace.
    """
    random = np.random.default_rng(seed)
    which, errors = np.sort(random.integers(0, 3, n)), random.exponential(size=n)
    errors[random.uniform(size=n) < 0.1] = np.nan
    moved = random.uniform(size=n) < 0.8
    before = np.array([-1.0, 0.4, 2.0])
    whole, left = charts.smoothed(before, which, errors, moved)
    halves, state = [], before
    for part in (slice(cut), slice(cut, None)):
        seen, state = charts.smoothed(state, which[part], errors[part], moved[part])
        halves.append(seen)
    assert whole.tobytes() == np.concatenate(halves).tobytes()
    assert left.tobytes() == state.tobytes()
    fresh = charts.smoothed(np.full(3, -1.0), which[moved], errors[moved], moved[moved])[0]
    for row in range(3):
        own = which[moved] == row
        assert fresh[own].tolist() == oracle.smoothed(errors[moved][own].tolist())
