"""Refused callers wait longer and longer, and are told in the log once a minute."""

from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.services import refusals
from insa_anomaly.services.refusals import DELAY_MOST_S, FORGOTTEN_S, FREE, Refusals
from insa_anomaly.testing.clock import SettableClock


def test_a_typing_error_costs_no_time_and_a_flood_does() -> None:
    """The delay doubles from a tenth of a second up to its limit."""
    refused = Refusals(SettableClock())
    delays = [refused.add("192.0.2.1")[0] for _ in range(2000)]
    assert delays[:FREE] == [0.0] * FREE
    assert delays[FREE : FREE + 3] == [0.1, 0.2, 0.4]
    assert delays[-1] == DELAY_MOST_S
    assert delays == sorted(delays)


def test_an_address_does_not_pay_for_another() -> None:
    """A minute without a refusal forgives."""
    clock = SettableClock()
    refused = Refusals(clock)
    for _ in range(100):
        refused.add("192.0.2.1")
    assert refused.add("192.0.2.2") == (0.0, 1)
    clock.sleep(FORGOTTEN_S)
    assert refused.add("192.0.2.1")[0] == 0.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 90)), max_size=80))
def test_every_refusal_is_told_once(steps: list[tuple[str, float]]) -> None:
    """Lines come a minute apart or more, and their counts add up to the refusals they cover."""
    clock = SettableClock()
    refused, told, last = Refusals(clock), dict.fromkeys("abc", 0), dict.fromkeys("abc", -1e9)
    for position, (origin, pause_s) in enumerate(steps):
        clock.sleep(pause_s)
        _, count = refused.add(origin)
        if count:
            assert clock.monotonic() - last[origin] >= FORGOTTEN_S
            last[origin] = clock.monotonic()
            told[origin] += count
            assert told[origin] == sum(one == origin for one, _ in steps[: position + 1])


def test_addresses_are_bounded() -> None:
    """A caller with many addresses takes no more memory than the limit."""
    refused = Refusals(SettableClock())
    for number in range(refusals.ADDRESSES_MOST + 50):
        refused.add(str(number))
    assert len(refused._addresses) == refusals.ADDRESSES_MOST
