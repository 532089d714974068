"""A block that takes too long is cut off, again and again until it ends."""

from threading import Event

from insa_anomaly.adapters.targets.deadline import bounded


def test_it_is_cut_off_until_it_ends() -> None:
    """The cut is repeated until it succeeds: the first calls come too early."""
    calls: list[int] = []
    cut = Event()

    def cut_off() -> None:
        calls.append(1)
        if len(calls) == 3:
            cut.set()

    with bounded(0.05, cut_off):
        assert cut.wait(10)
    assert len(calls) == 3


def test_what_is_quick_is_left_alone() -> None:
    """A quick block is not cut off, neither then nor later."""
    calls: list[int] = []
    with bounded(0.05, lambda: calls.append(1)):
        pass
    assert not Event().wait(0.1)
    assert calls == []
