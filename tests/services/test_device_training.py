"""Training a device: histories become rows as in the stream, and a failure leaves no model."""

from dataclasses import replace

import numpy as np
import pytest

from insa_anomaly.core.device.detector import DeviceModel, DeviceParameters
from insa_anomaly.core.device.training import TrainedDevice
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.event import Anomaly
from insa_anomaly.core.reading.series_key import DEVICE_METRIC, SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.errors import NotEnoughData, TrainingError
from insa_anomaly.ports.models import ModelRow
from insa_anomaly.services.training import DeviceTraining, Scope, SeriesTraining, TrainingService
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.testing.history import MemoryHistory
from insa_anomaly.testing.recorder import MemoryTables

SECOND = 1_000_000
NOW = 1_760_000_000 * SECOND
PUMP = SeriesKey.of_device("pump")
BOTH = Scope(metrics=("a", "b"))
REFIT = Scope(metrics=("a", "b"), refit=True)
PARAMETERS = DeviceParameters(
    n_estimators=3, history_days=1.0, history_readings_least=200, history_readings_most=400
)


class Shelf:
    """Storage of models in memory."""

    def __init__(self) -> None:
        self.kept: list[TrainedDevice] = []
        self.refusals: list[str] = []

    def next_version(self, key: SeriesKey) -> int:
        """Return the next version of a device."""
        return 1 + sum((one.model.device_id, one.model.metric_name) == key for one in self.kept)

    def serving(self, key: SeriesKey) -> DeviceModel | None:
        """Return the last saved model of the device that was not refused."""
        served = [
            one.model
            for one, refusal in zip(self.kept, self.refusals, strict=True)
            if not refusal and one.model.device_id == key.device_id
        ]
        return served[-1] if served else None

    def save(self, trained: TrainedDevice, trained_at: int, refusal: str = "") -> ModelRow:
        """Save a model."""
        self.kept.append(trained)
        self.refusals.append(refusal)
        one = trained.model
        return ModelRow(
            id=one.id,
            device_id=one.device_id,
            metric_name=one.metric_name,
            version=one.version,
            status="active",
            model_path="",
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
    """Return a service with small models and a tolerance of two seconds."""
    devices = DeviceTraining(PARAMETERS, 2.0, Policy())
    return TrainingService(shelf, SeriesTraining(Parameters(), Policy()), devices, SettableClock())


def history(*columns: tuple[str, list[float]]) -> MemoryHistory:
    """Return a history of a pump's metrics, with readings of the given ages in seconds."""
    return MemoryHistory(recorded(*columns))


def recorded(*columns: tuple[str, list[float]]) -> MemoryTables:
    """Return the same readings as tables."""
    random = np.random.default_rng(1)
    telemetry: dict[tuple[SeriesKey, int, int], tuple[float, int, int, str | None]] = {}
    for metric, ages in columns:
        telemetry |= {
            (SeriesKey("pump", metric), NOW - round(age * SECOND), 0): (
                float(random.normal()),
                0,
                0,
                None,
            )
            for age in ages
        }
    return MemoryTables(telemetry=telemetry)


def anomaly(time: int, episode: str | None) -> Anomaly:
    """Return a row of the device that was called anomalous."""
    return Anomaly(
        id=str(time),
        model_id="m",
        model_version=1,
        device_id="pump",
        metric_name=DEVICE_METRIC,
        timestamp=time,
        value=1.0,
        score=-0.5,
        raw_score=0.0,
        confidence=0.5,
        expected=0.0,
        lower=0.0,
        upper=0.0,
        reasons=[],
        historical=False,
        episode_id=episode,
    )


def every(seconds: float, count: int, *, late: float = 0.0) -> list[float]:
    """Return ages of readings."""
    return [i * seconds - late for i in range(count)]


def test_the_model_is_kept_as_the_next_version(service: TrainingService, shelf: Shelf) -> None:
    """A model is saved as the next version under the reserved metric name, with a new id."""
    told = history(("a", every(60, 300)), ("b", every(60, 300)))
    kept = [service.from_history(PUMP, told, NOW, BOTH) for _ in range(2)]
    assert [
        (row.device_id, row.metric_name, row.version, row.training_samples) for row in kept
    ] == [("pump", DEVICE_METRIC, 1, 300), ("pump", DEVICE_METRIC, 2, 300)]
    assert len({row.id for row in kept}) == 2
    assert DeviceModel.from_bytes(shelf.kept[0].model.to_bytes()).metrics == ("a", "b")


def test_readings_within_the_tolerance_are_a_row(service: TrainingService, shelf: Shelf) -> None:
    """Readings within the tolerance form a row; readings further apart do not."""
    service.from_history(
        PUMP, history(("a", every(60, 300)), ("b", every(60, 300, late=1.5))), NOW, BOTH
    )
    assert shelf.kept[-1].samples == 300
    with pytest.raises(
        TrainingError, match="fewer than 2 metrics of pump report together|do not report together"
    ):
        service.from_history(
            PUMP, history(("a", every(60, 300)), ("b", every(91, 40, late=30))), NOW, BOTH
        )
    assert len(shelf.kept) == 1


def test_how_much_is_learnt_is_bounded(service: TrainingService, shelf: Shelf) -> None:
    """The last days are learnt, more if they hold few rows, and never above the maximum."""
    for seconds, expected in ((86_400 / 250, 251), (7200, 200), (1, 400)):
        ages = every(seconds, 900)
        service.from_history(PUMP, history(("a", ages), ("b", ages)), NOW, BOTH)
        assert shelf.kept[-1].samples == expected


def test_too_little_leaves_nothing(service: TrainingService, shelf: Shelf) -> None:
    """Insufficient history is refused without a version or a file."""
    for metrics in (("a", "b"), ("no", "such"), ()):
        with pytest.raises(NotEnoughData):
            service.from_history(
                PUMP,
                history(("a", every(60, 40)), ("b", every(60, 40))),
                NOW,
                Scope(metrics=metrics),
            )
    with pytest.raises(
        TrainingError, match="1 metrics are recorded of pump; at least 2 are needed"
    ):
        service.from_history(PUMP, history(("a", every(60, 300))), NOW)
    assert shelf.kept == []


def test_a_metric_that_is_seldom_there_is_left_out(service: TrainingService, shelf: Shelf) -> None:
    """A metric present in few rows is left out, and the figures report it."""
    service.from_history(
        PUMP,
        history(("a", every(60, 300)), ("b", every(60, 300)), ("c", every(300, 60))),
        NOW,
        Scope(metrics=("a", "b", "c")),
    )
    assert shelf.kept[-1].model.metrics == ("a", "b")
    assert shelf.kept[-1].figures["left_out"] == "c has a reading in 20% of the rows"


def test_a_refit_learns_on_from_the_model_that_serves(
    service: TrainingService, shelf: Shelf
) -> None:
    """A refit continues from the serving model, and trains if no model serves.

    A mature model leaves out rows in episodes, but learns other anomalous rows.
    """
    ages = every(60, 300)
    tables = recorded(("a", ages), ("b", ages))
    told = MemoryHistory(tables)
    service.from_history(PUMP, told, NOW, REFIT)
    first = shelf.kept[-1]
    shelf.kept[-1] = replace(
        first, model=replace(first.model, life=replace(first.model.life, mature=True, released=0.0))
    )
    service.from_history(PUMP, told, NOW, REFIT)
    assert shelf.kept[-1].samples == 300
    for age in range(100, 110):
        episode = "e" if age < 105 else None
        tables.anomalies[f"{age}"] = anomaly(NOW - age * 60 * SECOND, episode)
    shelf.kept[-1] = replace(shelf.kept[-1], model=shelf.kept[0].model)
    service.from_history(PUMP, told, NOW, REFIT)
    assert shelf.kept[-1].samples == 295
    assert shelf.kept[-1].model.life.mature


def test_what_was_confirmed_a_fault_is_never_learnt(service: TrainingService, shelf: Shelf) -> None:
    """A confirmed fault is never learnt, by a refit or anew; a dismissed episode is learnt."""
    ages = every(60, 300)
    tables = recorded(("a", ages), ("b", ages))
    tables.anomalies |= {
        f"{age}": anomaly(NOW - age * 60 * SECOND, "fault" if age < 105 else "change")
        for age in range(100, 110)
    }
    tables.verdicts |= {"fault": "confirmed", "change": "dismissed"}
    for scope in (BOTH, REFIT):
        service.from_history(PUMP, MemoryHistory(tables), NOW, scope)
        assert shelf.kept[-1].samples == 295
