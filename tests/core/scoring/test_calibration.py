"""Calibration: values become valid p-values, and p-values a score with a sign and a scale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.scoring import calibration
from insa_anomaly.core.units import Floats
from tests.core import oracle

shapes = st.sampled_from(["normal", "exponential", "pareto", "uniform", "two", "one"])


def sample(shape: str, n: int, seed: int) -> Floats:
    """Draw held-out values from a distribution."""
    random = np.random.default_rng(seed)
    drawn: dict[str, Floats] = {
        "normal": random.normal(size=n),
        "exponential": random.exponential(size=n),
        "pareto": random.pareto(3, size=n),
        "uniform": random.uniform(size=n),
        "two": random.integers(0, 2, n).astype(np.float64),
        "one": np.full(n, 4.2),
    }
    return drawn[shape]


def surprises(values: Floats, table: Floats) -> Floats:
    """Return the surprise of values by a single table."""
    return calibration.surprise(values, np.broadcast_to(table, (len(values), len(table))))


@settings(max_examples=30, deadline=None)
@given(shape=shapes, n=st.integers(1, 3000), seed=st.integers(0, 999))
def test_law_the_stranger_the_more_surprising(shape: str, n: int, seed: int) -> None:
    """Surprise never falls as the value grows, starts at 0 and stays within [0, 12].

    The law holds far beyond the held-out values too.
    """
    held_out = sample(shape, n, seed)
    table = calibration.table(held_out)
    span = float(np.ptp(held_out)) + 1
    values = np.sort(
        np.concatenate(
            [np.linspace(held_out.min() - span, held_out.max() + 9 * span, 500), held_out, [1e9]]
        )
    )
    got = surprises(values, table)
    assert np.isfinite(got).all()
    assert got[0] == 0
    assert got[-1] == 12 or shape == "pareto"
    assert (np.diff(got) >= -1e-12).all()
    assert ((got >= 0) & (got <= 12)).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), shape=st.sampled_from(["normal", "exponential", "uniform"]))
def test_law_the_body_is_the_empirical_distribution(seed: int, shape: str) -> None:
    """A p-value below the 95 % quantile is the share of held-out values at least as large.

    The precision is that of the table's knots.
    """
    held_out = sample(shape, 2000, seed)
    values = np.quantile(held_out, np.linspace(0.02, 0.93, 40))
    shares = [(held_out >= value).mean() for value in values]
    np.testing.assert_allclose(
        10.0 ** -surprises(values, calibration.table(held_out)), shares, atol=0.035
    )


def test_the_tail_is_the_generalised_pareto_distribution() -> None:
    """A p-value above the 95 % quantile follows the naive formula with the table's parameters."""
    held_out = sample("pareto", 5000, 3)
    table = calibration.table(held_out)
    limit, above, shape, scale = table[-4:]
    assert 0 < shape <= 0.6
    excess = np.array([0.1, 1.0, 10.0, 50.0])
    naive = [10.0**-above * oracle.pareto(e, shape, scale) for e in excess]
    np.testing.assert_allclose(10.0 ** -surprises(limit + excess, table), naive, rtol=1e-9)


@pytest.mark.parametrize("shape", ["normal", "exponential", "pareto"])
def test_p_values_hold_on_new_data(shape: str) -> None:
    """New values from the same source reach p below 1e-2 and 1e-3 as often as promised.

    The tolerance is the sampling error.
    """
    table = calibration.table(sample(shape, 20_000, 1))
    fresh = 10.0 ** -surprises(sample(shape, 200_000, 2), table)
    assert (fresh < 1e-2).mean() == pytest.approx(1e-2, rel=0.25)
    assert (fresh < 1e-3).mean() == pytest.approx(1e-3, rel=0.6)


@settings(max_examples=60)
@given(p=st.floats(-12, 0), alpha=st.sampled_from([1e-2, 1e-3]))
def test_law_the_score_is_below_zero_exactly_where_p_is_below_alpha(p: float, alpha: float) -> None:
    """The score is negative exactly where p is below alpha, and always within [-1, 1]."""
    score = calibration.score(np.array([-p]), np.array([alpha]))[0]
    assert -1 <= score <= 1
    assert (score < 0) == (-p > -np.log10(alpha))


@pytest.mark.parametrize(
    ("decades", "score"), [(0, 1), (1.5, 0.5), (3, 0), (4.5, -0.5), (6, -1), (12, -1)]
)
def test_the_scale_of_the_score(decades: float, score: float) -> None:
    """The score is 1 at p = 1, 0 at p = alpha and -1 three decades below an alpha of 1e-3."""
    assert calibration.score(np.array([decades]), np.array([1e-3]))[0] == pytest.approx(score)
