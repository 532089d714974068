"""The process of the admin port is restarted when it ends, and receives the settings in force.

The process ends with the daemon.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from insa_anomaly.core.operations.backoff import BackoffPolicy
from insa_anomaly.runtime import admin_process
from insa_anomaly.runtime.admin_process import AdminProcess
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.sections import HttpSettings
from tests.conftest import wait_for

OBEDIENT = "import sys\nfor line in sys.stdin: open(sys.argv[1], 'a').write(line)"
DEAF = "import time, sys\nprint(flush=True)\ntime.sleep(60)"


class School:
    """A starter of processes that run a program, and their list."""

    def __init__(self, file: Path, program: str = OBEDIENT) -> None:
        self.file = file
        self.program = program
        self.begun: list[tuple[Settings, subprocess.Popen[bytes]]] = []

    def start(self, settings: Settings) -> "subprocess.Popen[bytes]":
        """Start another process."""
        process = subprocess.Popen(
            [sys.executable, "-c", self.program, str(self.file)], stdin=subprocess.PIPE
        )
        self.begun.append((settings, process))
        return process


@pytest.fixture
def school(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[School]:
    """Yield a school, and check that none of its processes is left."""
    monkeypatch.setattr(admin_process, "RETRY", BackoffPolicy(first=0.01, last=0.01))
    found = School(tmp_path / "heard")
    yield found
    for _, process in found.begun:
        assert process.poll() is not None


def asking(predictions: int) -> Settings:
    """Build settings that differ."""
    return Settings(http=HttpSettings(predictions_a_minute=predictions))


def until(keeper: AdminProcess, holds: Callable[[], bool]) -> None:
    """Step the keeper until the condition holds."""

    def looked() -> bool:
        keeper.step(0.0)
        return holds()

    wait_for(looked)


def test_one_that_ended_is_begun_again(school: School) -> None:
    """Each end is logged once and is trouble until the restart."""
    keeper = AdminProcess(school.start, asking(1))
    assert keeper.trouble is None
    keeper.begin()
    with capture_logs() as said:
        for count in (2, 3):
            school.begun[-1][1].kill()
            wait_for(lambda: keeper.trouble is not None)
            assert keeper.trouble == "the process of the admin port ended with status -9"
            until(keeper, lambda count=count: len(school.begun) == count)  # type: ignore[misc]
            assert keeper.trouble is None
    assert [one["action"] for one in said] == ["admin_process_ended"] * 2
    keeper.finish()


def test_pauses_grow_while_it_ends_at_once(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses grow while the process ends at once.

    They are short again after the process has run for a while.
    """
    monkeypatch.setattr(admin_process, "RETRY", BackoffPolicy(first=1.0, last=60.0))
    moment = [100.0]
    monkeypatch.setattr(admin_process, "monotonic", lambda: moment[0])
    keeper = AdminProcess(school.start, asking(1))
    keeper.begin()
    pauses = []
    for lived in (0.0, 0.0, 0.0, 100.0):
        moment[0] += lived
        school.begun[-1][1].kill()
        school.begun[-1][1].wait()
        began, count = moment[0], len(school.begun)
        while len(school.begun) == count:
            keeper.step(0.0)
            moment[0] += 0.25
        pauses.append(moment[0] - began)
    keeper.finish()
    assert pauses == [*sorted(pauses[:3]), pauses[0]]
    assert pauses[2] > 3 * pauses[0]


def test_settings_reach_it_and_those_after_it(school: School) -> None:
    """Each change is a line of input; a process that starts later starts with the settings."""
    keeper = AdminProcess(school.start, asking(1))
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
    keeper = AdminProcess(school.start, asking(1))
    keeper.begin()
    keeper.finish()
    assert school.begun[0][1].returncode == 0


def test_one_that_does_not_end_is_ended(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not end is killed after a while."""
    monkeypatch.setattr(admin_process, "FINISH_SECONDS", 0.2)
    school.program = DEAF
    keeper = AdminProcess(school.start, asking(1))
    keeper.begin()
    keeper.finish()
    assert school.begun[0][1].returncode == -9


def test_one_that_was_never_begun_needs_no_end(school: School) -> None:
    """A keeper without a port has no process to end."""
    AdminProcess(school.start, asking(1)).close()
    assert not school.begun
