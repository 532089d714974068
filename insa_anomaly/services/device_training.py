"""Training a device: the histories of its metrics in, a stored model of them together out. Loads scikit-learn, so it is imported late."""

from collections.abc import Sequence
from typing import Protocol
from uuid import uuid4

import numpy as np

from insa_anomaly.core.device import alignment
from insa_anomaly.core.device.alignment import Aligned
from insa_anomaly.core.device.detector import FEWEST_METRICS, DeviceModel, DeviceParameters
from insa_anomaly.core.device.training import DeviceLearner, TrainedDevice
from insa_anomaly.core.learning import challenge
from insa_anomaly.core.learning.challenge import Challenge
from insa_anomaly.core.learning.trained_model import Past
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.errors import TrainingError
from insa_anomaly.ports import History, ModelRow
from insa_anomaly.services.training import Lesson, TrainingData, told


class DeviceShelf(Protocol):
    """Where trained models are put."""

    def next_version(self, key: SeriesKey) -> int:
        """The version that the next model of the device gets."""

    def serving_device(self, device_id: str) -> DeviceModel | None:
        """The active model of the device; None where there is none that can be read."""

    def save(self, trained: TrainedDevice, trained_at: int, refusal: str = "") -> ModelRow:
        """Store the model, and make it the active one of its device, unless it is refused. Raises ModelFileError."""


class DeviceTrainingService:
    """Trains models of devices by one set of parameters and puts them on the shelf."""

    def __init__(
        self, shelf: DeviceShelf, parameters: DeviceParameters, tolerance: float, policy: Policy
    ) -> None:
        """`tolerance`: seconds between readings of different metrics that belong together."""
        self._shelf = shelf
        self._parameters = parameters
        self._tolerance = tolerance * 1e6
        self._policy = policy

    def from_history(
        self, device_id: str, metrics: Sequence[str], history: History, now: int
    ) -> ModelRow:
        """Train on what is recorded of these metrics, or, where none is named, of all that the device has.

        Where a model serves, the new one takes its place only if it is not worse. Raises TrainingError where fewer than two of the metrics
        report together, NotEnoughData, DatabaseAway, ModelFileError.
        """
        return self._trained(self.lesson(device_id, metrics, history, now), now)

    def lesson(
        self, device_id: str, metrics: Sequence[str], history: History, now: int
    ) -> Lesson[DeviceModel]:
        """What `from_history` learns from. Raises TrainingError, DatabaseAway, ModelFileError."""
        metrics = self._recorded(device_id, metrics, history)
        rows = self._rows(device_id, metrics, history, now)
        return self._lesson(device_id, metrics, rows, self._past(device_id, history, rows))

    def refit(self, device_id: str, metrics: Sequence[str], history: History, now: int) -> ModelRow:
        """Learn on from where the serving model stands; where none does, as `from_history`, which says what it raises."""
        metrics = self._recorded(device_id, metrics, history)
        rows = self._rows(device_id, metrics, history, now)
        past = self._past(device_id, history, rows)
        if past is None:
            return self._trained(self._lesson(device_id, metrics, rows, None), now)
        return self.keep(
            challenge.refit(self._learner(device_id, metrics), rows.times, rows.values, past), now
        )

    def from_rows(
        self, device_id: str, metrics: Sequence[str], rows: TrainingData, now: int
    ) -> ModelRow:
        """Train on rows, NaN where there is no value, whatever serves. Raises as `from_history` does."""
        return self._trained(Lesson(self._learner(device_id, metrics), rows, None), now)

    def _lesson(
        self, device_id: str, metrics: Sequence[str], rows: Aligned, past: Past[DeviceModel] | None
    ) -> Lesson[DeviceModel]:
        return Lesson(
            self._learner(device_id, metrics), TrainingData(rows.times, rows.values), past
        )

    def _trained(self, lesson: Lesson[DeviceModel], now: int) -> ModelRow:
        return self.keep(lesson.learn(), now)

    def keep(self, challenger: Challenge[DeviceModel], now: int) -> ModelRow:
        """Put what was learnt on the shelf. Raises ModelFileError, and TrainingError where too few metrics report together."""
        model = challenger.trained.model
        if len(model.metrics) < FEWEST_METRICS:
            raise TrainingError(
                f"fewer than {FEWEST_METRICS} metrics of {model.device_id} report together"
            )
        return self._shelf.save(told(challenger), now, challenger.refusal)

    def _learner(self, device_id: str, metrics: Sequence[str]) -> DeviceLearner:
        version = self._shelf.next_version(SeriesKey.of_device(device_id))
        return DeviceLearner(
            device_id, tuple(metrics), str(uuid4()), version, self._parameters, self._policy
        )

    def _recorded(self, device_id: str, metrics: Sequence[str], history: History) -> Sequence[str]:
        metrics = metrics or [
            key.metric_name for key in history.series() if key.device_id == device_id
        ]
        if len(metrics) < FEWEST_METRICS:
            raise TrainingError(
                f"{len(metrics)} metrics are recorded of {device_id}; at least {FEWEST_METRICS} are needed"
            )
        return metrics

    def _past(self, device_id: str, history: History, rows: Aligned) -> Past[DeviceModel] | None:
        """The model that serves, and the rows in episodes: single rows beyond the line are too many, at one in a hundred, to leave out."""
        champion = self._shelf.serving_device(device_id)
        since = int(rows.times.min(initial=2**62))
        return (
            Past(champion, history.in_episodes(SeriesKey.of_device(device_id), since))
            if champion and len(rows.times)
            else None
        )

    def _rows(self, device_id: str, metrics: Sequence[str], history: History, now: int) -> Aligned:
        """The newest readings of all metrics, aligned as the stream does it; without what was confirmed a fault."""
        since = now - int(self._parameters.history_days * 86_400e6)
        most = self._parameters.history_readings_most
        found = [history.readings(SeriesKey(device_id, metric), since, most) for metric in metrics]
        if (
            max((len(times) for times, _ in found), default=0)
            < self._parameters.history_readings_least
        ):  # few: from longer ago, too
            since = -(2**53)
            found = [
                history.readings(
                    SeriesKey(device_id, metric), since, self._parameters.history_readings_least
                )
                for metric in metrics
            ]
        column = np.repeat(np.arange(len(metrics)), [len(times) for times, _ in found])
        times, values = (np.concatenate([one[place] for one in found]) for place in (0, 1))
        order = np.argsort(times, kind="stable")
        unmarked = np.zeros(len(order), np.bool_)
        state, rows = alignment.align(
            alignment.empty(len(metrics)),
            column[order],
            times[order],
            values[order],
            unmarked,
            self._tolerance,
        )
        last = alignment.waiting(state)
        learnt = ~np.isin(
            np.concatenate((rows.times, last.times)),
            history.confirmed(SeriesKey.of_device(device_id), since),
        )
        return Aligned(
            *(
                np.concatenate((getattr(rows, name), getattr(last, name)))[learnt]
                for name in Aligned.__dataclass_fields__
            )
        )
