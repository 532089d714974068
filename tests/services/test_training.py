"""Training a series: the history learnt, the model saved, and no trace of a failure."""

from uuid import UUID

import numpy as np
import pytest

from insa_anomaly.core.device.detector import DeviceParameters
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.series.training import Trained
from insa_anomaly.errors import NotEnoughData
from insa_anomaly.ports.models import ModelRow
from insa_anomaly.services.training import (
    DeviceTraining,
    Scope,
    SeriesTraining,
    TrainingData,
    TrainingService,
)
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.testing.history import MemoryHistory
from insa_anomaly.testing.recorder import MemoryTables

KEY = SeriesKey("pump", "a")
SECOND = 1_000_000
DAY = 86_400 * SECOND
NOW = 1_760_000_000 * SECOND
PARAMETERS = Parameters(
    n_estimators=3, history_days=1.0, history_readings_least=200, history_readings_most=400
)


class Shelf:
    """Storage of models in memory."""

    def __init__(self) -> None:
        self.kept: list[tuple[Trained, int]] = []
        self.refusals: list[str] = []

    def next_version(self, key: SeriesKey) -> int:
        """Return the next version of a series."""
        return 1 + sum((one.model.device_id, one.model.metric_name) == key for one, _ in self.kept)

    def serving(self, key: SeriesKey) -> Model | None:
        """Return the last saved model of the series that was not refused."""
        own = zip((one.model for one, _ in self.kept), self.refusals, strict=True)
        served = [
            model
            for model, refusal in own
            if not refusal and (model.device_id, model.metric_name) == key
        ]
        return served[-1] if served else None

    def save(self, trained: Trained, trained_at: int, refusal: str = "") -> ModelRow:
        """Save a model."""
        self.kept.append((trained, trained_at))
        self.refusals.append(refusal)
        one = trained.model
        path = f"{one.device_id}/{one.metric_name}"
        return ModelRow(
            id=one.id,
            device_id=one.device_id,
            metric_name=one.metric_name,
            version=one.version,
            status="active",
            model_path=path,
            trained_at=trained_at,
            training_samples=trained.samples,
            threshold=0.5,
            parameters={},
            figures={},
            sha256="",
        )


@pytest.fixture
def shelf() -> Shelf:
    """Return an empty shelf."""
    return Shelf()


@pytest.fixture
def service(shelf: Shelf) -> TrainingService:
    """Return a service with small models."""
    series = SeriesTraining(PARAMETERS, Policy())
    devices = DeviceTraining(DeviceParameters(), 1.0, Policy())
    return TrainingService(shelf, series, devices, SettableClock())


def history(ages: range, *, noise: float = 1.0) -> MemoryHistory:
    """Return a history with readings of the given ages in seconds.

    A value is about its age, so that the model reveals the readings learnt.
    """
    random = np.random.default_rng(1)
    telemetry: dict[tuple[SeriesKey, int, int], tuple[float, int, int, str | None]] = {}
    telemetry |= {
        (KEY, NOW - age * SECOND, 0): (age + noise * float(random.normal()), 0, 0, None)
        for age in ages
    }
    return MemoryHistory(MemoryTables(telemetry=telemetry))


def learnt(shelf: Shelf) -> int:
    """Return the number of readings that the last model was learnt from."""
    return shelf.kept[-1][0].samples


def test_the_model_is_kept_as_the_next_version(service: TrainingService, shelf: Shelf) -> None:
    """A model is saved as the next version with a new id and its time of training."""
    rows = [service.from_history(KEY, history(range(300)), NOW + i) for i in range(2)]
    assert [(row.version, row.device_id, row.metric_name, row.trained_at) for row in rows] == [
        (1, *KEY, NOW),
        (2, *KEY, NOW + 1),
    ]
    assert len({UUID(row.id) for row in rows}) == 2
    assert [one.model.id for one, _ in shelf.kept] == [row.id for row in rows]


def test_the_last_days_are_learnt(service: TrainingService, shelf: Shelf) -> None:
    """Readings older than `history_days` are left out if the newer readings suffice."""
    step = 86_400 // 250
    service.from_history(KEY, history(range(step, 86_400 * 3, step)), NOW)
    assert learnt(shelf) == 250


def test_a_slow_series_is_learnt_from_longer_ago(service: TrainingService, shelf: Shelf) -> None:
    """A slow series is learnt from its newest `history_readings_least` readings."""
    service.from_history(KEY, history(range(0, 86_400 * 30, 7200)), NOW)
    assert learnt(shelf) == PARAMETERS.history_readings_least


def test_a_fast_series_is_learnt_from_its_newest(service: TrainingService, shelf: Shelf) -> None:
    """A fast series is learnt from its newest `history_readings_most` readings."""
    service.from_history(KEY, history(range(2000)), NOW)
    assert learnt(shelf) == PARAMETERS.history_readings_most
    assert 100 < float(shelf.kept[-1][0].model.learnt[0]) < 300  # the centre of the newest 400


def test_too_few_readings_leave_nothing(service: TrainingService, shelf: Shelf) -> None:
    """Insufficient history is refused without a version or a file."""
    with pytest.raises(NotEnoughData, match="40 different readings"):
        service.from_history(KEY, history(range(40)), NOW)
    with pytest.raises(NotEnoughData):
        service.from_history(SeriesKey("no", "such"), history(range(400)), NOW)
    assert shelf.kept == []


def test_readings_can_be_given(service: TrainingService, shelf: Shelf) -> None:
    """The same readings lead to the same model except its id, at any time.

    The readings may come from a file.
    """
    times, values = history(range(300)).readings(KEY, 0, 1000)
    for now in (NOW, 0):
        service.from_readings(KEY, TrainingData(times, values), now)
    first, second = (one.model for one, _ in shelf.kept)
    assert first.id != second.id
    assert first.learnt.tobytes() == second.learnt.tobytes()
    assert np.array_equal(first.forest.thresholds, second.forest.thresholds)
    assert isinstance(Model.from_bytes(first.to_bytes()), Model)


def test_a_model_says_how_it_was_trained_and_how_the_one_before_did(
    service: TrainingService, shelf: Shelf
) -> None:
    """Figures state the kind of training, and the accuracy of the predecessor on new readings.

    The accuracy is present once there are enough new readings.
    """
    service.from_history(KEY, history(range(300, 600)), NOW)
    service.from_history(KEY, history(range(599)), NOW, Scope(refit=True))
    service.from_history(KEY, history(range(600)), NOW, Scope(refit=True))
    first, second, third = (trained.figures for trained, _ in shelf.kept)
    assert [one["training"] for one in (first, second, third)] == ["anew", "refit", "refit"]
    assert {str(one["refusal"]) for one in (first, second, third)} == set(shelf.refusals)
    assert ["predecessor_accuracy" in one for one in (first, second, third)] == [False, True, False]
    assert 0 <= float(str(second["predecessor_accuracy"])) <= 1
