"""Layouts: columns have names, and rows of an older version are taken over by name."""

import numpy as np

from insa_anomaly.core.layout import Layout
from insa_anomaly.core.series import detector, features
from tests.core.streams import models, warm


def grown(layout: Layout, before: str, *, name: str = "new", width: int = 2) -> Layout:
    """Return a layout with another column in front of a column."""
    parts: dict[str, int | Layout] = {}
    for column, at in layout.places.items():
        parts |= {name: width} if column == before else {}
        parts[column] = at.stop - at.start
    return Layout(parts, layout.version + 1)


def test_a_layout_counts_its_columns_in_order() -> None:
    """A column is found by its name, also within a layout that was put in under a name."""
    inner = Layout({"low": 1, "high": 1})
    layout = Layout({"first": 2, "range": inner, "range_free": 1, "last": 1}, version=3)
    assert (layout.width, layout.version) == (6, 3)
    assert layout.part("first") == slice(0, 2)
    assert layout.part("range") == slice(2, 4)
    assert layout.column("range.high") == 3
    assert (layout.column("range_free"), layout.column("last")) == (4, 5)


def test_a_state_with_another_column_takes_rows_of_today() -> None:
    """A column added in the middle starts as the blank row says; all other columns keep theirs."""
    today = features.STATE
    newer = grown(today, "seen")
    states = warm()
    taken = newer.take(states, today, blank=7.0)
    assert taken.shape == (len(states), today.width + 2)
    assert (taken[:, newer.part("new")] == 7).all()
    assert newer.column("seen") == features.SEEN + 2
    for name, at in today.places.items():
        assert taken[:, newer.part(name)].tobytes() == states[:, at].tobytes()
    assert today.take(taken, newer).tobytes() == states.tobytes()


def test_another_member_takes_a_learnt_row_of_today() -> None:
    """The table of a new member between two others is taken from a blank row."""
    today = detector.LEARNT
    newer = grown(today, "members.window", name="members.other", width=100)
    learnt = models().learnt[0]
    blank = np.arange(float(newer.width))
    taken = newer.take(learnt, today, blank)
    other = newer.part("members.other")
    assert taken[other].tobytes() == blank[other].tobytes()
    assert taken[newer.column("threshold")] == learnt[detector.THRESHOLD]
    assert taken[newer.part("members.window")].tobytes() == learnt[detector.TABLES][-100:].tobytes()


def test_a_column_of_another_width_keeps_its_beginning() -> None:
    """A column that has become wider or narrower keeps the values that fit."""
    narrow, wide = Layout({"a": 2, "b": 1}), Layout({"b": 1, "a": 3})
    assert wide.take(np.array([1.0, 2.0, 3.0]), narrow).tolist() == [3.0, 1.0, 2.0, 0.0]
    assert narrow.take(np.array([3.0, 1.0, 2.0, 9.0]), wide).tolist() == [1.0, 2.0, 3.0]
