"""The process of the admin port is restarted when it ends, and receives the settings in force.

The process ends with the daemon.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from insa_anomaly.runtime import admin_process
from insa_anomaly.runtime.admin_process import AdminProcess
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.sections import HttpSettings
from insa_anomaly.testing.clock import SettableClock
from tests.conftest import wait_for

OBEDIENT = "import sys\nfor line in sys.stdin: open(sys.argv[1], 'a').write(line)"
DEAF = "import time, sys\nprint(flush=True)\ntime.sleep(60)"


class School:
    """A starter of processes that run a program, and their list."""

    def __init__(self, file: Path, program: str = OBEDIENT) -> None:
        self.file = file
        self.program = program
        self.clock = SettableClock()
        self.begun: list[tuple[Settings, subprocess.Popen[bytes]]] = []

    def start(self, settings: Settings) -> "subprocess.Popen[bytes]":
        """Start another process."""
        process = subprocess.Popen(
            [sys.executable, "-c", self.program, str(self.file)], stdin=subprocess.PIPE
        )
        self.begun.append((settings, process))
        return process


@pytest.fixture
def school(tmp_path: Path) -> Iterator[School]:
    """Yield a school, and check that none of its processes is left."""
    found = School(tmp_path / "heard")
    yield found
    for _, process in found.begun:
        assert process.poll() is not None


def asking(predictions: int) -> Settings:
    """Build settings that differ."""
    return Settings(http=HttpSettings(predictions_a_minute=predictions))


def test_one_that_ended_is_begun_again(school: School) -> None:
    """Each end is logged once and is trouble until the restart."""
    keeper = AdminProcess(school.start, asking(1), school.clock)
    assert keeper.trouble is None
    keeper.begin()
    with capture_logs() as said:
        for count in (2, 3):
            school.begun[-1][1].kill()
            wait_for(lambda: keeper.trouble is not None)
            assert keeper.trouble == "the process of the admin port ended with status -9"
            for _ in range(2):
                keeper.step(0.0)
                school.clock.sleep(admin_process.RETRY.last)
            assert len(school.begun) == count
            assert keeper.trouble is None
    assert [one["action"] for one in said] == ["admin_process_ended"] * 2
    keeper.finish()


def test_pauses_grow_while_it_ends_at_once(school: School) -> None:
    """Pauses grow while the process ends at once.

    They are short again after the process has run for a while.
    """
    clock = school.clock
    keeper = AdminProcess(school.start, asking(1), school.clock)
    keeper.begin()
    pauses = []
    for lived in (0.0, 0.0, 0.0, 100.0):
        clock.sleep(lived)
        school.begun[-1][1].kill()
        school.begun[-1][1].wait()
        began, count = clock.seconds, len(school.begun)
        while len(school.begun) == count:
            keeper.step(0.0)
            clock.sleep(0.25)
        pauses.append(clock.seconds - began)
    keeper.finish()
    assert pauses == [*sorted(pauses[:3]), pauses[0]]
    assert pauses[2] > 3 * pauses[0]


def test_settings_reach_it_and_those_after_it(school: School) -> None:
    """Each change is a line of input; a process that starts later starts with the settings."""
    keeper = AdminProcess(school.start, asking(1), school.clock)
    keeper.begin()
    keeper.adjust(asking(7))
    wait_for(lambda: school.file.exists() or keeper.trouble is not None)
    keeper.finish()
    assert Settings.model_validate_json(school.file.read_text()).http.predictions_a_minute == 7
    keeper.adjust(asking(8))  # to a process that has ended: no error
    keeper.begin()
    keeper.finish()
    assert [settings.http.predictions_a_minute for settings, _ in school.begun] == [1, 8]


def test_it_ends_when_it_hears_no_more(school: School) -> None:
    """The process ends by itself, with all its input done, when its input is closed."""
    keeper = AdminProcess(school.start, asking(1), school.clock)
    keeper.begin()
    keeper.finish()
    assert school.begun[0][1].returncode == 0


def test_one_that_does_not_end_is_ended(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not end is killed after a while."""
    monkeypatch.setattr(admin_process, "FINISH_SECONDS", 0.2)
    school.program = DEAF
    keeper = AdminProcess(school.start, asking(1), school.clock)
    keeper.begin()
    keeper.finish()
    assert school.begun[0][1].returncode == -9


def test_one_that_was_never_begun_needs_no_end(school: School) -> None:
    """A keeper without a port has no process to end."""
    AdminProcess(school.start, asking(1), school.clock).close()
    assert not school.begun
