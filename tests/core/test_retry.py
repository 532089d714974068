"""Pauses grow, are bounded and spread; a target that fails every time is left alone."""

from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.core.retry import Circuit, Retry, backoff, failed

RETRY = Retry(first=2.0, last=900.0, trip=5, rest=30.0)


@given(attempts=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_law_a_pause_is_within_its_bounds(attempts: int, chance: float) -> None:
    """Never longer than the last, never shorter than three quarters of what it would be."""
    whole = backoff(attempts, RETRY, 0.0)
    assert 0.75 * whole <= backoff(attempts, RETRY, chance) <= whole <= 900.0
    assert backoff(attempts + 1, RETRY, 0.0) >= whole >= 2.0


def test_pauses_double() -> None:
    """From the first to the last."""
    assert [backoff(n, RETRY, 0.0) for n in (1, 2, 3, 9, 10, 100)] == [2, 4, 8, 512, 900, 900]


def test_a_target_rests_after_several_failures_in_a_row() -> None:
    """And longer with each more; one success forgets them all."""
    circuit, rests = Circuit(), []
    for _ in range(8):
        circuit = failed(circuit, 100.0, RETRY, 0.0)
        rests.append(circuit.closed_until - 100.0)
    assert rests == [0, 0, 0, 0, 30, 60, 120, 240]
    assert not circuit.permits(339.0)
    assert circuit.permits(340.0)


def test_a_target_that_asks_for_rest_gets_it() -> None:
    """However few its failures."""
    circuit = failed(Circuit(), 0.0, RETRY, 0.0, asked=70.0)
    assert not circuit.permits(69.0)
    assert circuit.permits(70.0)
