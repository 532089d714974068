"""The demonstration ends on a signal, and when its parent process is gone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from insa_anomaly.workbench.demo.leaving import leaving

CHILD = """
import sys, time
from insa_anomaly.workbench.demo.leaving import leaving
with leaving() as state:
    print("here", flush=True)
    while not state.due:
        time.sleep(0.02)
    print("orphaned" if state.orphaned else "asked", flush=True)
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=open(sys.argv[2], "w"))
child.wait()
"""


def said(path: Path, word: str) -> bool:
    """Return whether the file has the word within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if path.exists() and word in path.read_text(encoding="utf-8"):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_and_a_second_one_insists(number: signal.Signals) -> None:
    """The first signal is noted, the second interrupts; afterwards the former handlers are back."""
    before = signal.getsignal(number)
    with leaving() as state:
        assert not state.due
        state.check()
        os.kill(os.getpid(), number)
        assert state.due
        assert not state.orphaned
        with pytest.raises(KeyboardInterrupt):
            state.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_it_goes_when_the_parent_is_gone(tmp_path: Path) -> None:
    """A parent that is killed leaves no process behind."""
    told = tmp_path / "told"
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(told)]) as parent:
        assert said(told, "here")
        parent.kill()
    assert said(told, "orphaned")
