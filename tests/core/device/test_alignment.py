"""Alignment: readings become the same rows in any pieces, even if late, repeated or missing."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.device import alignment
from insa_anomaly.core.device.alignment import Aligned
from insa_anomaly.core.units import Floats

Reading = tuple[int, int, float]  # column, time, value
NOTHING = float("nan")

readings = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 40), st.sampled_from((1.0, 2.0))), max_size=40
)


def taken(state: Floats, given_: list[Reading], tolerance: float = 2) -> tuple[Floats, Aligned]:
    """Align readings of three metrics."""
    columns, times = (np.array([one[place] for one in given_], np.int64) for place in (0, 1))
    values = np.array([value for _, _, value in given_], np.float64)
    return alignment.align(
        state=state,
        columns=columns,
        times=times,
        values=values,
        historical=np.zeros(len(given_), np.bool_),
        tolerance=tolerance,
    )


def rows(aligned: Aligned) -> list[tuple[int, list[float | None]]]:
    """Return time and values of each row; None marks a missing value."""
    values = [
        [value if np.isfinite(value) else None for value in row] for row in aligned.values.tolist()
    ]
    return list(zip(aligned.times.tolist(), values, strict=True))


@settings(max_examples=200, deadline=None)
@given(readings, st.lists(st.integers(0, 40), max_size=4).map(sorted))
def test_law_pieces_change_nothing(given_: list[Reading], cuts: list[int]) -> None:
    """Any cut of the stream leads to the same rows at the same readings and the same state."""
    whole, aligned = taken(alignment.empty(3), given_)
    state, found, at = alignment.empty(3), [], list[int]()
    for begin, end in zip([0, *cuts], [*cuts, len(given_)], strict=True):
        state, part = taken(state, given_[begin : max(begin, end)])
        found += rows(part)
        at += (part.at + begin).tolist()
    assert whole.tobytes() == state.tobytes()
    assert (found, at) == (rows(aligned), aligned.at.tolist())


@settings(max_examples=200, deadline=None)
@given(readings)
def test_law_rows_hold_what_was_read_together(given_: list[Reading]) -> None:
    """Rows hold readings within the tolerance of the row's time.

    Times never go back, no reading is in two rows, and no row is empty.
    """
    _, aligned = taken(alignment.empty(3), given_)
    assert (np.diff(aligned.times) >= 0).all()
    assert np.isfinite(aligned.values).any(axis=1).all()
    read = {(j, when): value for j, when, value in reversed(given_)}
    for time, row in rows(aligned):
        for j, value in enumerate(row):
            assert value is None or any(
                read.get((j, time + away)) is not None for away in (-2, -1, 0, 1, 2)
            )
    assert np.isfinite(aligned.values).sum() <= len(read)


def test_readings_of_one_time_are_a_row() -> None:
    """A row is complete with the reading of its last metric."""
    _, aligned = taken(alignment.empty(3), [(0, 10, 1.0), (1, 10, 2.0), (2, 10, 3.0), (0, 20, 4.0)])
    assert rows(aligned) == [(10, [1.0, 2.0, 3.0])]
    assert aligned.at.tolist() == [2]


def test_a_row_ends_with_a_reading_that_has_no_place_in_it() -> None:
    """A row ends at a reading beyond its tolerance, or at a second reading of a metric it has."""
    _, aligned = taken(
        alignment.empty(3), [(0, 10, 1.0), (1, 12, 2.0), (2, 13, 3.0), (2, 14, 4.0), (0, 15, 5.0)]
    )
    assert rows(aligned) == [(10, [1.0, 2.0, None]), (13, [None, None, 3.0])]
    assert aligned.at.tolist() == [2, 3]


def test_what_is_late_or_comes_twice_changes_nothing() -> None:
    """Late and repeated readings change neither their row nor the rows after it."""
    plain = [(0, 10, 1.0), (1, 10, 2.0), (2, 11, 3.0), (0, 20, 4.0)]
    disturbed = [
        (0, 10, 1.0),
        (0, 10, 9.0),
        (1, 10, 2.0),
        (1, 3, 9.0),
        (2, 11, 3.0),
        (2, 11, 3.0),
        (0, 10, 9.0),
        (0, 20, 4.0),
    ]
    state, aligned = taken(alignment.empty(3), plain)
    again, same = taken(alignment.empty(3), disturbed)
    assert rows(aligned) == rows(same)
    assert state.tobytes() == again.tobytes()
    assert rows(alignment.waiting(state)) == [(20, [4.0, None, None])]
    assert rows(alignment.waiting(alignment.empty(3))) == []


def test_a_row_is_as_historical_as_its_first_reading() -> None:
    """A row is historical if its first reading is, and has the time of that reading."""
    columns, times, values = np.array([0, 1, 2]), np.array([10, 11, 11]), np.ones(3)
    _, aligned = alignment.align(
        state=alignment.empty(3),
        columns=columns,
        times=times,
        values=values,
        historical=np.array([True, False, False]),
        tolerance=2.0,
    )
    assert aligned.historical.tolist() == [True]


def test_other_metrics_take_over_the_row() -> None:
    """A waiting row keeps the values of metrics that stay, and is dropped if no value remains."""
    state, _ = taken(alignment.empty(3), [(0, 10, 1.0), (1, 10, 2.0)])
    other = alignment.rearranged(state, ("a", "b", "c"), ("b", "d"))
    assert rows(alignment.waiting(other)) == [(10, [2.0, None])]
    none = alignment.rearranged(state, ("a", "b", "c"), ("c", "d"))
    assert rows(alignment.waiting(none)) == []
    assert rows(taken(none, [(0, 5, 9.0)])[1]) == []
