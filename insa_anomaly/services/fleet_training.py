"""Training many series and devices at once: histories are read and models stored here, what takes time is done by whoever works."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from insa_anomaly.core.learning.challenge import Challenge
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import InsaError, TrainingError
from insa_anomaly.ports import History, ModelRow
from insa_anomaly.services.device_training import DeviceTrainingService
from insa_anomaly.services.training import Lesson, TrainingService


@dataclass(frozen=True)
class TaskOutcome:
    """What came of a task: something to keep, or why there is nothing."""

    key: SeriesKey
    found: Challenge[Any] | str
    seconds: float


@dataclass(frozen=True)
class Task:
    """A lesson that may be sent to another process; a text instead says why there is none."""

    key: SeriesKey
    lesson: Lesson[Any] | str

    def __call__(self) -> TaskOutcome:
        """Learn it."""
        began = monotonic()
        try:
            found = self.lesson if isinstance(self.lesson, str) else self.lesson.learn()
        except InsaError as error:
            found = str(error)
        return TaskOutcome(self.key, found, monotonic() - began)


class Workers(Protocol):
    """Processes, here or elsewhere. Any call may raise TrainingError: they are not there, or no longer."""

    def run(self, tasks: Iterable[Callable[[], TaskOutcome]]) -> Iterator[TaskOutcome]:
        """Call each task, and give what came of it, in any order. Tasks are taken as they are needed."""


class FleetTrainingService:
    """Trains series, and devices as a whole, through workers."""

    def __init__(
        self, series: TrainingService, devices: DeviceTrainingService, workers: Workers
    ) -> None:
        self._series = series
        self._devices = devices
        self._workers = workers

    def train(
        self, keys: Sequence[SeriesKey], history: History, now: int, days: float | None = None
    ) -> Iterator[tuple[SeriesKey, ModelRow | str, float]]:
        """Each as soon as it is done: its model, or why there is none, and the seconds it took. `days`: learn the last so many alone."""
        tasks = (Task(key, self._lesson(key, history, now, days)) for key in keys)
        left = dict.fromkeys(keys)
        try:
            for learnt in self._workers.run(tasks):
                left.pop(learnt.key)
                yield learnt.key, self._kept(learnt, now), learnt.seconds
        except TrainingError as error:  # there are no workers, or none any more
            yield from ((key, str(error), 0.0) for key in left)

    def _lesson(
        self, key: SeriesKey, history: History, now: int, days: float | None
    ) -> Lesson[Any] | str:
        try:
            if key.is_device:
                return self._devices.lesson(key.device_id, (), history, now)
            return self._series.lesson(key, history, now, days)
        except InsaError as error:
            return str(error)

    def _kept(self, learnt: TaskOutcome, now: int) -> ModelRow | str:
        if isinstance(learnt.found, str):
            return learnt.found
        try:
            return (self._devices if learnt.key.is_device else self._series).keep(learnt.found, now)
        except InsaError as error:
            return str(error)
