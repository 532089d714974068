"""A thread that is silent for too long is found; a suspension of all threads is not mistaken."""

from math import inf

from insa_anomaly.runtime.heartbeats import SUSPENDED_SECONDS, Heartbeats


def looks(
    heartbeats: Heartbeats, seconds: range, beating: tuple[str, ...] = ()
) -> list[tuple[str, float] | None]:
    """Look every second, while these threads beat."""
    found = []
    for second in seconds:
        for name in beating:
            heartbeats.beat(name, float(second))
        found.append(heartbeats.stuck(float(second)))
    return found


def test_a_silent_thread_is_found_after_its_time() -> None:
    """A silent thread is found with its name and duration; a beating thread is not.

    A thread with a longer limit is found later.
    """
    heartbeats = Heartbeats(20.0, {"patient": 40.0})
    for name in ("silent", "patient", "busy"):
        heartbeats.beat(name, 0.0)
    assert looks(heartbeats, range(21), ("busy",)) == [None] * 21
    assert looks(heartbeats, range(21, 22), ("busy",)) == [("silent", 21.0)]
    assert looks(heartbeats, range(22, 42), ("busy", "silent"))[-1] == ("patient", 41.0)


def test_who_says_itself_for_how_long_is_believed() -> None:
    """A thread that reports its own silence is believed; an ended thread is silent for ever."""
    heartbeats = Heartbeats(20.0)
    heartbeats.stuck(0.0)
    assert heartbeats.stuck(1.0, [("mqtt", 20.0)]) is None
    assert heartbeats.stuck(2.0, [("mqtt", inf)]) == ("mqtt", inf)


def test_a_process_that_was_suspended_is_not_stuck() -> None:
    """Every thread gets its full time again after a suspension of the process.

    A thread that stays silent is found all the same.
    """
    heartbeats = Heartbeats(20.0)
    heartbeats.beat("score", 0.0)
    heartbeats.stuck(0.0)
    later = int(SUSPENDED_SECONDS) + 1000
    assert looks(heartbeats, range(later, later + 21)) == [None] * 21
    assert heartbeats.stuck(later + 21.0) == ("score", 21.0)
