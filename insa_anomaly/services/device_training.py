"""Training a device: the histories of its metrics in, a stored model of them together out. Loads scikit-learn, so it is imported late."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

import numpy as np

from insa_anomaly.core import alignment
from insa_anomaly.core.alignment import Aligned
from insa_anomaly.core.device import FEWEST_METRICS, METRIC_NAME, DeviceParameters
from insa_anomaly.core.device_training import TrainedDevice, fit
from insa_anomaly.core.features import Floats, Ints
from insa_anomaly.core.verdict import Policy
from insa_anomaly.errors import TrainingError
from insa_anomaly.ports import History, ModelRow, SeriesKey


class DeviceShelf(Protocol):
    """Where trained models are put."""

    def next_version(self, key: SeriesKey) -> int:
        """The version that the next model of the device gets."""

    def save(self, trained: TrainedDevice, trained_at: int) -> ModelRow:
        """Store the model and make it the active one of its device. Raises ModelFileError."""


@dataclass(frozen=True)
class DeviceLesson:
    """What a device is to be learnt from: rows of its metrics; needs nothing but processor time, and may be sent to another process."""

    device_id: str
    metrics: Sequence[str]
    times: Ints  # [n] microseconds since the epoch
    values: Floats  # [n, metrics]; NaN where there is none
    version: int
    parameters: DeviceParameters
    policy: Policy

    def learn(self) -> TrainedDevice:
        """Learn it. Raises TrainingError where fewer than two metrics report together, NotEnoughData."""
        trained = fit(self.times, self.values, self.device_id, self.metrics, str(uuid4()), self.version, self.parameters, self.policy)
        if len(trained.model.metrics) < FEWEST_METRICS:
            raise TrainingError(f"fewer than {FEWEST_METRICS} of {', '.join(self.metrics)} report together")
        return trained


class DeviceTrainingService:
    """Trains models of devices by one set of parameters and puts them on the shelf."""

    def __init__(self, shelf: DeviceShelf, parameters: DeviceParameters, tolerance: float, policy: Policy) -> None:
        """`tolerance`: seconds between readings of different metrics that belong together."""
        self._shelf, self._parameters, self._tolerance, self._policy = shelf, parameters, tolerance * 1e6, policy

    def from_history(self, device_id: str, metrics: Sequence[str], history: History, now: int) -> ModelRow:
        """Train on what is recorded of these metrics, or, where none is named, of all that the device has.

        Raises TrainingError where fewer than two of them report together, NotEnoughData, DatabaseAway, ModelFileError.
        """
        return self.keep(self.lesson(device_id, metrics, history, now).learn(), now)

    def lesson(self, device_id: str, metrics: Sequence[str], history: History, now: int) -> DeviceLesson:
        """What `from_history` learns from. Raises TrainingError, DatabaseAway, ModelFileError."""
        metrics = metrics or [metric for device, metric in history.series() if device == device_id]
        if len(metrics) < FEWEST_METRICS:
            raise TrainingError(f"{len(metrics)} metrics are recorded of {device_id}; at least {FEWEST_METRICS} are needed")
        rows = self._rows(device_id, metrics, history, now)
        return self._lesson(device_id, metrics, rows.times, rows.values)

    def from_rows(self, device_id: str, metrics: Sequence[str], times: Ints, values: Floats, now: int) -> ModelRow:
        """Train on rows: times [n] in microseconds, values [n, metrics]; NaN where there is none. Raises as `from_history` does."""
        return self.keep(self._lesson(device_id, metrics, times, values).learn(), now)

    def keep(self, trained: TrainedDevice, now: int) -> ModelRow:
        """Put what was learnt on the shelf. Raises ModelFileError."""
        return self._shelf.save(trained, now)

    def _lesson(self, device_id: str, metrics: Sequence[str], times: Ints, values: Floats) -> DeviceLesson:
        version = self._shelf.next_version((device_id, METRIC_NAME))
        return DeviceLesson(device_id, metrics, times, values, version, self._parameters, self._policy)

    def _rows(self, device_id: str, metrics: Sequence[str], history: History, now: int) -> Aligned:
        """The newest readings of all metrics, aligned as the stream does it."""
        since = now - int(self._parameters.history_days * 86_400e6)
        most = self._parameters.history_readings_most
        found = [history.readings((device_id, metric), since, most) for metric in metrics]
        if max((len(times) for times, _ in found), default=0) < self._parameters.history_readings_least:  # few: from longer ago, too
            found = [history.readings((device_id, metric), -(2**53), self._parameters.history_readings_least) for metric in metrics]
        column = np.repeat(np.arange(len(metrics)), [len(times) for times, _ in found])
        times, values = (np.concatenate([one[place] for one in found]) for place in (0, 1))
        order = np.argsort(times, kind="stable")
        unmarked = np.zeros(len(order), np.bool_)
        state, rows = alignment.align(alignment.empty(len(metrics)), column[order], times[order], values[order], unmarked, self._tolerance)
        last = alignment.waiting(state)
        return Aligned(*(np.concatenate((getattr(rows, name), getattr(last, name))) for name in Aligned.__dataclass_fields__))
