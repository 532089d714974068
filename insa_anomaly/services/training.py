"""Training a series: its history in, a stored model out. The only service that loads scikit-learn, so it is imported late."""

from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.challenge import Name, train
from insa_anomaly.core.detector import Parameters
from insa_anomaly.core.training import Trained
from insa_anomaly.core.verdict import Policy
from insa_anomaly.ports import History, ModelRow, SeriesKey


class Shelf(Protocol):
    """Where trained models are put."""

    def next_version(self, key: SeriesKey) -> int:
        """The version that the next model of the series gets."""

    def save(self, trained: Trained, trained_at: int) -> ModelRow:
        """Store the model and make it the active one of its series. Raises ModelFileError."""


@dataclass(frozen=True)
class Readings:
    """What a model is trained on: times in microseconds [n], values [n]."""

    times: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class TrainingService:
    """Trains models by one set of parameters and puts them on the shelf."""

    def __init__(self, shelf: Shelf, parameters: Parameters, policy: Policy) -> None:
        self._shelf, self._parameters, self._policy = shelf, parameters, policy

    def from_history(self, key: SeriesKey, history: History, now: int) -> ModelRow:
        """Train on what is recorded of the series. Raises TrainingError, NotEnoughData, DatabaseAway, ModelFileError."""
        since = now - int(self._parameters.history_days * 86_400e6)
        times, values = history.readings(key, since, self._parameters.history_readings_most)
        if len(times) < self._parameters.history_readings_least:  # few in that span: a slow series learns from a longer one
            times, values = history.readings(key, -(2**53), self._parameters.history_readings_least)
        return self.from_readings(key, Readings(times, values), now)

    def from_readings(self, key: SeriesKey, readings: Readings, now: int) -> ModelRow:
        """Train on these readings. Raises TrainingError, NotEnoughData, ModelFileError."""
        name = Name(key, str(uuid4()), self._shelf.next_version(key))
        return self._shelf.save(train(readings.times, readings.values, name, self._parameters, self._policy).trained, now)
