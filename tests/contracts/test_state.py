"""The contract of every state, in memory and on disk."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.adapters.disk.state import StateFile
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.testing.state import MemoryState


@contextmanager
def memory_state() -> Iterator[State]:
    """Yield a state in memory."""
    yield MemoryState()


@contextmanager
def disk_state() -> Iterator[State]:
    """Yield a state on disk."""
    with tempfile.TemporaryDirectory() as folder, StateFile(Path(folder) / "state.db") as state:
        yield state


@pytest.fixture(params=[memory_state, disk_state])
def state(request: pytest.FixtureRequest) -> Iterator[State]:
    """Yield a state that is bound to a log."""
    with request.param() as state:
        state.bind(uuid4())
        yield state


Body = Callable[[], AbstractContextManager[State]]
Commits = list[tuple[bytes | None, list[tuple[str, bytes]]]]
bodies = pytest.mark.parametrize("body", [memory_state, disk_state])
told = st.lists(st.tuples(st.text("abc/", min_size=1), st.binary()), max_size=3)
commits = st.lists(st.tuples(st.none() | st.binary(max_size=50), told), max_size=8)


@bodies
@settings(max_examples=40, deadline=None)
@given(commits=commits, forget=st.integers(0, 9), after=st.integers(0, 9), most=st.integers(1, 30))
def test_law_what_is_committed_is_kept_until_it_is_let_go(
    body: Body, commits: Commits, forget: int, after: int, most: int
) -> None:
    """Results and events are returned in order and unaltered until they are forgotten.

    The cursor is the sequence of the last commit.
    """
    with body() as state:
        state.bind(uuid4())
        committed = [state.commit(seq, *commit) for seq, commit in enumerate(commits, 1)]
        events = [event for batch in committed for event in batch]
        state.forget(forget)
        kept = {
            seq: results
            for seq, (results, _) in enumerate(commits, 1)
            if results is not None and seq > forget
        }
        assert state.cursor == len(commits)
        assert state.results(after, 9) == {seq: body for seq, body in kept.items() if seq > after}
        assert [event.number for event in events] == sorted({event.number for event in events})
        assert state.outgoing(0, most) == events[:most]


def test_told_events_go_and_their_numbers_stay_used(state: State) -> None:
    """An acknowledged event is removed, and its number is never used again."""
    first, second = state.commit(1, None, [("a", b"1"), ("b", b"2")])
    assert state.untold() == 2
    state.told([second.number, 999])
    assert state.outgoing(0, 10) == [first]
    assert state.untold() == 1
    state.told([first.number])
    assert state.untold() == 0
    (third,) = state.commit(2, None, [("c", b"3")])
    assert third == Outgoing(third.number, "c", b"3")
    assert third.number > second.number


def test_outgoing_starts_after_a_number(state: State) -> None:
    """`outgoing` returns only events after the given number."""
    first, second = state.commit(1, None, [("a", b"1"), ("b", b"2")])
    assert state.outgoing(first.number, 10) == [second]


def test_a_commit_repeated_replaces_its_results(state: State) -> None:
    """A repeated commit replaces its results, as after a crash."""
    state.commit(1, b"old", [])
    state.commit(1, b"new", [])
    assert state.results(0, 1) == {1: b"new"}


def test_checkpoints_add_up(state: State) -> None:
    """A checkpoint replaces the states that moved and keeps all others.

    All states are as of the newest sequence.
    """
    assert state.restore() == (0, {})
    state.checkpoint(5, {SeriesKey("d", "m"): b"1", SeriesKey("d", "n"): b"1"})
    state.checkpoint(9, {SeriesKey("d", "m"): b"2"})
    assert state.restore() == (9, {("d", "m"): b"2", ("d", "n"): b"1"})


def test_another_log_empties_all_but_the_outbox(state: State) -> None:
    """Another log empties cursor, results and states, but keeps the outbox.

    An event is owed to the broker in any case.
    """
    log_id = uuid4()
    state.bind(log_id)
    events = state.commit(3, b"r", [("a", b"1")])
    state.checkpoint(3, {SeriesKey("d", "m"): b"1"})
    state.bind(log_id)
    assert (state.cursor, state.restore()[0]) == (3, 3)
    state.bind(uuid4())
    assert (state.cursor, state.restore(), state.results(0, 9)) == (0, (0, {}), {})
    assert state.outgoing(0, 9) == events


def test_sync_can_be_called_at_any_time(state: State) -> None:
    """`sync` may be called with and without pending commits."""
    state.sync()
    state.commit(1, b"r", [])
    state.sync()
    assert state.results(0, 1) == {1: b"r"}


def test_what_no_entry_made_waits_in_the_outbox_too(state: State) -> None:
    """A posted event waits in the outbox in order among the others, and moves no cursor."""
    state.commit(1, None, [("a", b"1")])
    posted = state.post([("b", b"2"), ("b", b"3")])
    state.commit(2, None, [("a", b"4")])
    assert state.outgoing(0, 10)[1:3] == posted
    assert [event.payload for event in state.outgoing(0, 10)] == [b"1", b"2", b"3", b"4"]
    assert state.cursor == 2


def test_the_alerts_have_their_own_list(state: State) -> None:
    """The outbox and the list for alerts are independent, and number their events alike."""
    first = state.commit(1, None, [("a", b"1"), ("a", b"2")])
    second = state.post([("b", b"3")])
    state.told([event.number for event in first + second])
    assert state.notices(2) == first
    assert state.notices(10) == first + second
    state.noticed(first[-1].number)
    assert state.notices(10) == second
    third = state.post([("c", b"4")])
    state.noticed(third[0].number)
    assert state.notices(10) == []
    assert state.outgoing(0, 10) == third
