"""Backoff and circuit: pauses grow, are bounded and spread; a failing target rests."""

from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.core.operations.backoff import BackoffPolicy, Circuit, backoff, failed

RETRY = BackoffPolicy(first=2.0, last=900.0, trip=5, rest=30.0)


@given(attempts=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_law_a_pause_is_within_its_bounds(attempts: int, chance: float) -> None:
    """A pause is at most its longest, and at least three quarters of its value without spread."""
    whole = backoff(attempts, RETRY, 0.0)
    assert 0.75 * whole <= backoff(attempts, RETRY, chance) <= whole <= 900.0
    assert backoff(attempts + 1, RETRY, 0.0) >= whole >= 2.0


def test_pauses_double() -> None:
    """Pauses double from the first to the last."""
    assert [backoff(n, RETRY, 0.0) for n in (1, 2, 3, 9, 10, 100)] == [2, 4, 8, 512, 900, 900]


def test_a_target_rests_after_several_failures_in_a_row() -> None:
    """A target rests after five failures in a row, and longer after each further failure."""
    circuit, rests = Circuit(), []
    for _ in range(8):
        circuit = failed(circuit, 100.0, RETRY, 0.0)
        rests.append(circuit.open_until - 100.0)
    assert rests == [0, 0, 0, 0, 30, 60, 120, 240]
    assert not circuit.permits(339.0)
    assert circuit.permits(340.0)


def test_a_target_that_asks_for_rest_gets_it() -> None:
    """A target that asks for a rest gets it after a single failure."""
    circuit = failed(Circuit(), 0.0, RETRY, 0.0, asked=70.0)
    assert not circuit.permits(69.0)
    assert circuit.permits(70.0)
