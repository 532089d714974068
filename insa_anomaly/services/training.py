"""Training a series: its history in, a stored model out. The only service that loads scikit-learn, so it is imported late."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Literal, Protocol, TypeVar
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.learning import challenge
from insa_anomaly.core.learning.challenge import Challenge, Learner
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.learning.trained_model import Figures, LearntModel, Past, TrainedModel
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.series.training import SeriesLearner, Trained
from insa_anomaly.ports import History, ModelRow

M = TypeVar("M", bound=LearntModel)
Kind = Literal["anew", "refit"]  # of training


class TrainedModelStore(Protocol):
    """Where trained models are put."""

    def next_version(self, key: SeriesKey) -> int:
        """The version that the next model of the series gets."""

    def serving(self, key: SeriesKey) -> Model | None:
        """The active model of the series; None where there is none that can be read."""

    def save(self, trained: Trained, trained_at: int, refusal: str = "") -> ModelRow:
        """Store the model, and make it the active one of its series, unless it is refused. Raises ModelFileError."""


@dataclass(frozen=True)
class TrainingData:
    """What a model is trained on: times in microseconds [n], values [n], or [n, metrics] of a device."""

    times: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lesson(Generic[M]):
    """What a series or a device is to be learnt from: needs nothing but processor time, and may be sent to another process."""

    learner: Learner[M]
    readings: TrainingData
    past: Past[M] | None

    def learn(self) -> Challenge[M]:
        """Learn it. Raises TrainingError, NotEnoughData."""
        return challenge.train(self.learner, self.readings.times, self.readings.values, self.past)


class TrainingService:
    """Trains models by one set of parameters and puts them on the shelf."""

    def __init__(
        self,
        shelf: TrainedModelStore,
        parameters: Parameters,
        policy: Policy,
        tell: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`tell` hears how far a training is, in percent."""
        self._shelf = shelf
        self._parameters = parameters
        self._policy = policy
        self._tell = tell

    def from_history(
        self, key: SeriesKey, history: History, now: int, days: float | None = None
    ) -> ModelRow:
        """Train on what is recorded of the series; where a model serves, the new one takes its place only if it is not worse.

        `days`: on the last so many, and nothing older. Raises TrainingError, NotEnoughData, DatabaseAway, ModelFileError.
        """
        return self._trained(self.lesson(key, history, now, days), now)

    def lesson(
        self, key: SeriesKey, history: History, now: int, days: float | None = None
    ) -> Lesson[Model]:
        """What `from_history` learns from. Raises DatabaseAway, ModelFileError."""
        if days is None:
            readings = self._recorded(key, history, now)
        else:
            readings = TrainingData(
                *history.readings(
                    key, now - int(days * 86_400e6), self._parameters.history_readings_most
                )
            )
        return self._lesson(key, readings, self._past(key, history, readings))

    def refit(self, key: SeriesKey, history: History, now: int) -> ModelRow:
        """Learn on from where the serving model stands; where none does, as `from_history`, which says what it raises."""
        readings = self._recorded(key, history, now)
        past = self._past(key, history, readings)
        if past is None:
            return self._trained(self._lesson(key, readings, None), now)
        challenger = challenge.refit(self._learner(key), readings.times, readings.values, past)
        return self.keep(challenger, now, "refit")

    def from_readings(self, key: SeriesKey, readings: TrainingData, now: int) -> ModelRow:
        """Train on these readings, whatever serves. Raises TrainingError, NotEnoughData, ModelFileError."""
        return self._trained(self._lesson(key, readings, None), now)

    def _lesson(
        self, key: SeriesKey, readings: TrainingData, past: Past[Model] | None
    ) -> Lesson[Model]:
        return Lesson(self._learner(key), readings, past)

    def _trained(self, lesson: Lesson[Model], now: int) -> ModelRow:
        self._tell(20)
        challenger = lesson.learn()
        self._tell(90)
        return self.keep(challenger, now)

    def keep(self, challenger: Challenge[Model], now: int, training: Kind = "anew") -> ModelRow:
        """Put what was learnt on the shelf. Raises ModelFileError."""
        return self._shelf.save(told(challenger, training), now, challenger.refusal)

    def _learner(self, key: SeriesKey) -> SeriesLearner:
        return SeriesLearner(
            key, str(uuid4()), self._shelf.next_version(key), self._parameters, self._policy
        )

    def _recorded(self, key: SeriesKey, history: History, now: int) -> TrainingData:
        since = now - int(self._parameters.history_days * 86_400e6)
        times, values = history.readings(key, since, self._parameters.history_readings_most)
        if (
            len(times) < self._parameters.history_readings_least
        ):  # few in that span: a slow series learns from a longer one
            times, values = history.readings(key, -(2**53), self._parameters.history_readings_least)
        return TrainingData(times, values)

    def _past(self, key: SeriesKey, history: History, readings: TrainingData) -> Past[Model] | None:
        champion = self._shelf.serving(key)
        return (
            Past(champion, history.anomalous(key, int(readings.times.min(initial=0))))
            if champion
            else None
        )


def told(challenger: Challenge[M], training: Kind = "anew") -> TrainedModel[M]:
    """What was trained, with what became of it among its figures."""
    known: Figures = {
        "improvement_percentage": challenger.improvement_percentage,
        "improvement_unknown": challenger.unknown,
    }
    known |= {"training": training, "refusal": challenger.refusal}
    if challenger.champion is not None:
        known |= {
            "predecessor_accuracy": challenger.champion.accuracy,
            "predecessor_false_positive_rate": challenger.champion.false_positive_rate,
        }
    return replace(challenger.trained, figures=challenger.trained.figures | known)
