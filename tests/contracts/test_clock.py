"""The clock of the system, and the clock that a test sets: both keep the promises of the port."""

import pytest

from insa_anomaly.ports.clock import Clock
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.wiring.clock import SystemClock


@pytest.mark.parametrize("clock", [SettableClock(), SystemClock()], ids=["memory", "system"])
def test_a_sleep_lets_the_time_pass(clock: Clock) -> None:
    """Both times are later by the sleep, at least."""
    before = clock.now(), clock.monotonic()
    clock.sleep(0.002)
    assert clock.now() - before[0] >= 1900
    assert clock.monotonic() - before[1] >= 0.0019


def test_a_settable_clock_stands_still() -> None:
    """No time passes but by `sleep`, or by a new value of its attributes."""
    clock = SettableClock(5)
    assert [clock.now(), clock.now()] == [5, 5]
    assert clock.monotonic() == clock.monotonic()
    clock.time_us, clock.seconds = 7, 3.5
    assert (clock.now(), clock.monotonic()) == (7, 3.5)
