"""The demonstration's clock: fast, never ahead of the present, and at the present when it ends."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.workbench.demo.plant import HOUR, Kind, Plant
from insa_anomaly.workbench.demo.schedule import SPAN, WEEK, schedule

NOW = 1_763_800_000.0


@given(duration=st.floats(1, 1e6), share=st.floats(0, 1))
def test_it_ends_at_the_present(duration: float, share: float) -> None:
    """A duration holds the whole span of evenly spaced readings, of which the last is at the end.

    No reading comes before its own time.
    """
    plan = schedule(NOW, duration)
    assert plan.end is not None
    assert plan.end - plan.start >= SPAN
    assert abs(plan.end / 1e6 - (NOW + duration)) < 0.001
    at = plan.start + round(share * (plan.end - plan.start))
    assert plan.due(at) >= at / 1e6
    assert abs(plan.due(at) - (NOW + share * duration)) < 0.01
    assert all(plan.start < fault.start < fault.end < plan.end for fault in plan.faults(Plant()))


@given(st.integers(0, 3 * WEEK))
def test_without_a_duration_it_catches_up_and_goes_on(after: int) -> None:
    """An endless demonstration begins a week ago and reaches the present within minutes.

    From then on a reading is due at its own time.
    """
    plan = schedule(NOW, None)
    at = plan.start + after
    assert plan.start == NOW * 1e6 - WEEK
    assert plan.due(at) >= at / 1e6
    if after > WEEK + HOUR:
        assert plan.due(at) == at / 1e6
    if after <= WEEK:
        assert plan.due(at) - NOW <= 241


def test_there_is_always_another_fault() -> None:
    """A minute has a dozen faults and more, of every kind; without an end they continue."""
    faults = list(schedule(NOW, 60.0).faults(Plant()))
    assert len(faults) >= 12
    assert {fault.kind for fault in faults} == set(Kind)
    assert len(list(islice(schedule(NOW, None).faults(Plant()), 500))) == 500
