"""Training a fleet: the same models as single trainings, in any process, despite failures."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.adapters.workers import LokyWorkers
from insa_anomaly.core.device.detector import DeviceParameters
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.reading.series_key import DEVICE_METRIC, SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series.detector import Model
from insa_anomaly.errors import DatabaseAway, ModelFileError, TrainingError
from insa_anomaly.ports.models import ModelRow
from insa_anomaly.services.training import (
    DeviceTraining,
    SeriesTraining,
    TaskOutcome,
    TrainingService,
    Workers,
)
from insa_anomaly.testing.history import MemoryHistory
from insa_anomaly.testing.recorder import MemoryTables
from insa_anomaly.wiring.clock import clock

SECOND = 1_000_000
NOW = 1_760_000_000 * SECOND
PARAMETERS = Parameters(n_estimators=3, history_days=1.0)
SERIES = [SeriesKey("pump", "a"), SeriesKey("pump", "b"), SeriesKey("fan", "a")]
KEYS = [
    *SERIES,
    SeriesKey.of_device("pump"),
    SeriesKey.of_device("fan"),
    SeriesKey("few", "a"),
    SeriesKey("never", "a"),
]


class Posted:
    """Workers that pickle every task and every result."""

    def run(self, tasks: Iterable[Callable[[], TaskOutcome]]) -> Iterator[TaskOutcome]:
        """Run the tasks in reverse order, through pickle both ways."""
        for task in reversed(list(tasks)):
            yield pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(task))()))  # noqa: S301 - our own


def history() -> MemoryHistory:
    """Return 300 readings of each series, and 20 of the series few/a."""
    random = np.random.default_rng(1)
    counts = {**dict.fromkeys(SERIES, 300), SeriesKey("few", "a"): 20}
    telemetry: dict[tuple[SeriesKey, int, int], tuple[float, int, int, str | None]] = {}
    telemetry |= {
        (key, NOW - i * SECOND, 0): (float(random.normal()), 0, 0, None)
        for key, n in counts.items()
        for i in range(n)
    }
    return MemoryHistory(MemoryTables(telemetry=telemetry))


@pytest.fixture
def files(tmp_path: Path) -> Iterator[ModelFiles]:
    """Yield an empty folder of models."""
    with ModelFiles(tmp_path / "models", tmp_path / "key") as files:
        yield files


def service(files: ModelFiles) -> TrainingService:
    """Return a service with small models."""
    devices = DeviceTraining(DeviceParameters(n_estimators=3, history_days=1.0), 1.0, Policy())
    return TrainingService(files, SeriesTraining(PARAMETERS, Policy()), devices, clock)


def trained(files: ModelFiles, workers: Workers) -> dict[SeriesKey, ModelRow | str]:
    """Return the results of training all keys."""
    return {
        key: found for key, found, _ in service(files).train_many(KEYS, history(), NOW, workers)
    }


@pytest.mark.parametrize("workers", [Posted(), LokyWorkers(2)])
def test_law_many_at_once_are_as_one_by_one(files: ModelFiles, workers: Workers) -> None:
    """Every model equals the model of a single training, in any order of results.

    A key that cannot be learnt has a reason, and harms no other key.
    """
    alone = {
        key: service(files).task(key, history(), NOW).run().trained.model.learnt for key in SERIES
    }
    found = trained(files, workers)
    assert {key for key, one in found.items() if isinstance(one, ModelRow)} == {
        *SERIES,
        SeriesKey.of_device("pump"),
    }
    assert "at least 2 are needed" in str(found[SeriesKey("fan", DEVICE_METRIC)])
    assert "20 different readings" in str(found[SeriesKey("few", "a")])
    assert found.keys() == set(KEYS)
    for key, learnt in alone.items():
        np.testing.assert_array_equal(
            Model.from_bytes(files.scorer(files.active()[key])).learnt, learnt
        )


class Striking:
    """Workers that do a single task and then fail."""

    def run(self, tasks: Iterable[Callable[[], TaskOutcome]]) -> Iterator[TaskOutcome]:
        """Run a single task, and then raise an error."""
        yield next(iter(tasks))()
        raise TrainingError("the workers are gone")


def test_workers_that_go_leave_an_answer_for_each(files: ModelFiles) -> None:
    """A failure of the workers keeps the finished models, and is the reason for all other keys."""
    found = trained(files, Striking())
    assert isinstance(found[KEYS[0]], ModelRow)
    assert [found[key] for key in KEYS[1:]] == ["the workers are gone"] * 6


def test_a_history_or_a_disk_that_fails_is_told(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing history or disk is the reason for a key, and the next key is tried."""
    told = history()

    def away(_: SeriesKey, *__: int) -> None:
        raise DatabaseAway("nobody answers")

    def full(*_: object) -> None:
        raise ModelFileError("the disk is full")

    train = partial(service(files).train_many, SERIES, told, NOW, LokyWorkers(1))
    with monkeypatch.context() as without:
        without.setattr(told, "readings", away)
        assert [found for _, found, _ in train()] == ["nobody answers"] * 3
    monkeypatch.setattr(files, "save", full)
    assert [found for _, found, _ in train()] == ["the disk is full"] * 3
