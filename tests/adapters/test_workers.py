"""Processes that train: each task is done once, in any process.

No process outlives its parent.
"""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import mul
from pathlib import Path

import pytest

from insa_anomaly.adapters.workers import DaskWorkers, LokyWorkers
from insa_anomaly.errors import TrainingError
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.sections import TrainingSettings
from tests.conftest import wait_for

TASKS = [partial(mul, number, number) for number in range(7)]


@pytest.mark.parametrize("processes", [1, 2])
def test_every_task_is_done_once(processes: int) -> None:
    """Tasks run here or in processes of their own, in any order."""
    assert sorted(LokyWorkers(processes).run(TASKS)) == [0, 1, 4, 9, 16, 25, 36]


def test_tasks_are_taken_as_they_are_needed() -> None:
    """A history is read when it is its turn: not all of them lie in memory."""
    taken: list[int] = []

    def tasks() -> Iterator[Callable[[], int]]:
        for number in range(50):
            taken.append(number)
            yield partial(mul, number, 1)

    running = LokyWorkers(1).run(tasks())
    next(running)
    assert len(taken) < 10


def test_no_worker_outlives_who_asked(tmp_path: Path) -> None:
    """A parent that is killed leaves no worker behind."""
    program = f"""
        import os, sys, time
        from functools import partial
        from insa_anomaly.adapters.workers import LokyWorkers
        from tests.adapters.test_workers import told
        list(LokyWorkers(2).run([partial(told, {str(tmp_path)!r}, i) for i in range(2)]))
    """
    asking = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2, 60)
    finally:
        asking.kill()
        asking.wait()
    workers = [int(file.name) for file in tmp_path.iterdir()]
    wait_for(lambda: not any(alive(pid) for pid in workers), 10)


def told(folder: str, number: int) -> int:
    """Record the process id of this worker, and stay for a minute."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)
    return number


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_dask_is_an_extra() -> None:
    """A scheduler named without the extra, or an unreachable scheduler, raises TrainingError."""
    with pytest.raises(TrainingError, match="dask|does not answer"):
        list(DaskWorkers("tcp://127.0.0.1:1").run(TASKS))


@pytest.mark.parametrize("scheduler", ["tcp://plant:8786", "plant:8786", "http://127.0.0.1", ""])
def test_dask_is_asked_safely_or_not_at_all(scheduler: str) -> None:
    """A scheduler is used over TLS or on this machine only, because it runs the code it is sent."""
    with pytest.raises(ValueError, match="dask_scheduler"):
        Settings(training={"dask_scheduler": scheduler})  # type: ignore[arg-type]
    assert TrainingSettings(dask_scheduler="tls://plant:8786").dask_scheduler
