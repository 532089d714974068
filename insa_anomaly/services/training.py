"""Training of series and devices: recorded history in, stored models out.

Both are trained in the same way; `SeriesTraining` and `DeviceTraining` hold the differences. Many
are trained at once by workers: this process reads histories and stores models, and the workers
fit. The module loads scikit-learn, so it is imported late.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Generic, Literal, ParamSpec, Protocol, TypeVar
from uuid import uuid4

import numpy as np

from insa_anomaly.core.device import alignment
from insa_anomaly.core.device.detector import FEWEST_METRICS, DeviceModel, DeviceParameters
from insa_anomaly.core.device.training import DeviceLearner
from insa_anomaly.core.learning import challenge
from insa_anomaly.core.learning.challenge import Challenge
from insa_anomaly.core.learning.learner import Learner
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.learning.trained_model import Figures, LearntModel, Past, TrainedModel
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.series.training import SeriesLearner
from insa_anomaly.core.units import DAY, Floats, Ints
from insa_anomaly.errors import InsaError, TrainingError
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.history import History
from insa_anomaly.ports.models import ModelRow

M = TypeVar("M", bound=LearntModel)
P = ParamSpec("P")
R = TypeVar("R")
Kind = Literal["anew", "refit"]  # of training
_EVER = -(2**53)  # microseconds: before any reading


class TrainedModelStore(Protocol):
    """Storage of trained models."""

    def next_version(self, key: SeriesKey) -> int:
        """Return the version of the next model of the series or device."""

    def serving(self, key: SeriesKey) -> LearntModel | None:
        """Return the active model; None if there is none that can be read."""

    def save(self, trained: TrainedModel[Any], trained_at: int, refusal: str = "") -> ModelRow:
        """Store the model, as the active model unless it is refused. Raises ModelFileError."""


@dataclass(frozen=True)
class TrainingData:
    """Data of a training: times in microseconds [n], values [n], or [n, metrics] of a device."""

    times: Ints
    values: Floats
    metrics: tuple[str, ...] = ()  # of the columns of a device


@dataclass(frozen=True)
class Scope:
    """Extent of a training."""

    days: float | None = None  # of the history of a series; None: as the parameters say
    metrics: tuple[str, ...] = ()  # of a device; none: all that are recorded
    refit: bool = False  # continue from the serving model, if there is one


_WHOLE = Scope()


@dataclass(frozen=True)
class TrainingTask(Generic[M]):
    """Training that needs only processor time, so that another process can do it."""

    learner: Learner[M]
    data: TrainingData
    past: Past[M] | None
    refit: bool = False

    def run(self) -> Challenge[M]:
        """Train the model. Raises TrainingError, NotEnoughData."""
        if self.refit and self.past is not None:
            return challenge.refit(self.learner, self.data.times, self.data.values, self.past)
        return challenge.train(self.learner, self.data.times, self.data.values, self.past)


@dataclass(frozen=True)
class TaskOutcome:
    """Result of a task: a model to store, or the reason why there is none."""

    key: SeriesKey
    found: Challenge[Any] | str
    seconds: float


class Workers(Protocol):
    """Processes on this machine or elsewhere. Any call raises TrainingError if they are gone."""

    def run(self, tasks: Iterable[Callable[[], TaskOutcome]]) -> Iterator[TaskOutcome]:
        """Call each task and yield its outcome, in any order. Tasks are taken when needed."""


@dataclass(frozen=True)
class SeriesTraining:
    """Training of a series from its readings; a refit leaves out all readings that alarmed."""

    parameters: Parameters
    policy: Policy
    refit_kind: ClassVar[Kind] = "refit"

    def data(self, key: SeriesKey, history: History, now: int, scope: Scope) -> TrainingData:
        """Return the readings to learn. Raises DatabaseAway."""
        if scope.days is None:
            _, [readings] = _recorded([key], history, now, self.parameters)
        else:
            since, most = now - int(scope.days * DAY), self.parameters.history_readings_most
            readings = history.readings(key, since, most)
        return TrainingData(*readings)

    def alarmed(self, key: SeriesKey, history: History, since: int) -> Ints:
        """Return the times of all anomalous readings."""
        return history.anomalous(key, since)

    def learner(self, key: SeriesKey, _: TrainingData, version: int) -> SeriesLearner:
        """Return a learner for the next version."""
        name = str(uuid4())
        return SeriesLearner(
            key=key, id=name, version=version, parameters=self.parameters, policy=self.policy
        )

    def check(self, _: Model) -> None:
        """Accept any model."""


@dataclass(frozen=True)
class DeviceTraining:
    """Training of a device from rows, aligned as in the stream.

    A refit leaves out rows in episodes only: single rows beyond the line are too many, at 1 in 100.
    """

    parameters: DeviceParameters
    tolerance: float  # seconds between readings of different metrics that belong together
    policy: Policy
    refit_kind: ClassVar[Kind] = "anew"  # in the figures of devices, refits are not told apart

    def data(self, key: SeriesKey, history: History, now: int, scope: Scope) -> TrainingData:
        """Return the rows to learn, without confirmed faults.

        Raises DatabaseAway, and TrainingError if fewer than two metrics are recorded.
        """
        recorded = (one for one in history.series() if one.device_id == key.device_id)
        names = scope.metrics or tuple(one.metric_name for one in recorded)
        if len(names) < FEWEST_METRICS:
            few = f"{len(names)} metrics are recorded of {key.device_id}"
            raise TrainingError(f"{few}; at least {FEWEST_METRICS} are needed")
        columns = [SeriesKey(key.device_id, name) for name in names]
        since, found = _recorded(columns, history, now, self.parameters)
        times, values = _rows(found, self.tolerance * 1e6)
        learnt = ~np.isin(times, history.confirmed(key, since))
        return TrainingData(times[learnt], values[learnt], names)

    def alarmed(self, key: SeriesKey, history: History, since: int) -> Ints:
        """Return the times of the rows in episodes."""
        return history.in_episodes(key, since)

    def learner(self, key: SeriesKey, data: TrainingData, version: int) -> DeviceLearner:
        """Return a learner for the next version."""
        return DeviceLearner(
            device_id=key.device_id,
            metrics=data.metrics,
            id=str(uuid4()),
            version=version,
            parameters=self.parameters,
            policy=self.policy,
        )

    def check(self, model: DeviceModel) -> None:
        """Raise TrainingError if too few metrics report together."""
        if len(model.metrics) < FEWEST_METRICS:
            few = f"fewer than {FEWEST_METRICS} metrics of {model.device_id}"
            raise TrainingError(f"{few} report together")


@dataclass(frozen=True)
class TrainingService:
    """Trains series and devices, each by its key, and stores the models."""

    store: TrainedModelStore
    series: SeriesTraining
    devices: DeviceTraining
    clock: Clock
    on_progress: Callable[[int], None] = lambda _: None  # receives percent

    def from_history(
        self, key: SeriesKey, history: History, now: int, scope: Scope = _WHOLE
    ) -> ModelRow:
        """Train on recorded history; the new model serves unless it is worse than the serving one.

        Raises TrainingError, NotEnoughData, DatabaseAway, ModelFileError.
        """
        return self._trained(key, self.task(key, history, now, scope), now)

    def task(
        self, key: SeriesKey, history: History, now: int, scope: Scope = _WHOLE
    ) -> TrainingTask[Any]:
        """Return the task of `from_history`. Raises TrainingError, DatabaseAway, ModelFileError."""
        data = self._subject(key).data(key, history, now, scope)
        past = self._past(key, history, data)
        return TrainingTask(self._learner(key, data), data, past, scope.refit and past is not None)

    def from_readings(self, key: SeriesKey, data: TrainingData, now: int) -> ModelRow:
        """Train on this data, whatever model serves; the values of a device are NaN where missing.

        Raises TrainingError, NotEnoughData, ModelFileError.
        """
        return self._trained(key, TrainingTask(self._learner(key, data), data, None), now)

    def train_many(
        self,
        keys: Sequence[SeriesKey],
        history: History,
        now: int,
        workers: Workers,
        scope: Scope = _WHOLE,
    ) -> Iterator[tuple[SeriesKey, ModelRow | str, float]]:
        """Train through workers, and yield each key when it is done.

        Yields the model, or the reason why there is none, and the seconds that the training took.
        """
        prepared = ((key, _or_reason(self.task, key, history, now, scope)) for key in keys)
        tasks = (partial(_attempt, key, task, self.clock) for key, task in prepared)
        left = dict.fromkeys(keys)
        try:
            for outcome in workers.run(tasks):
                left.pop(outcome.key)
                yield outcome.key, self._stored(outcome, now), outcome.seconds
        except TrainingError as error:  # the workers are gone
            yield from ((key, str(error), 0.0) for key in left)

    def _stored(self, outcome: TaskOutcome, now: int) -> ModelRow | str:
        if isinstance(outcome.found, str):
            return outcome.found
        return _or_reason(self._keep, outcome.key, outcome.found, now)

    def _trained(self, key: SeriesKey, task: TrainingTask[Any], now: int) -> ModelRow:
        self.on_progress(20)
        challenger = task.run()
        self.on_progress(90)
        training = self._subject(key).refit_kind if task.refit else "anew"
        return self._keep(key, challenger, now, training)

    def _keep(
        self, key: SeriesKey, challenger: Challenge[Any], now: int, training: Kind = "anew"
    ) -> ModelRow:
        self._subject(key).check(challenger.trained.model)
        return self.store.save(_with_figures(challenger, training), now, challenger.refusal)

    def _subject(self, key: SeriesKey) -> SeriesTraining | DeviceTraining:
        return self.devices if key.is_device else self.series

    def _learner(self, key: SeriesKey, data: TrainingData) -> Learner[Any]:
        return self._subject(key).learner(key, data, self.store.next_version(key))

    def _past(self, key: SeriesKey, history: History, data: TrainingData) -> Past[Any] | None:
        champion = self.store.serving(key)
        if champion is None or not len(data.times):
            return None
        return Past(champion, self._subject(key).alarmed(key, history, int(data.times.min())))


def _or_reason(make: Callable[P, R], *given: P.args, **named: P.kwargs) -> R | str:
    """Return the result of `make`, or the reason why there is none."""
    try:
        return make(*given, **named)
    except InsaError as error:
        return str(error)


def _attempt(key: SeriesKey, task: TrainingTask[Any] | str, clock: Clock) -> TaskOutcome:
    """Run a task in a worker; a text states why there is no task."""
    began = clock.monotonic()
    found = task if isinstance(task, str) else _or_reason(task.run)
    return TaskOutcome(key, found, clock.monotonic() - began)


def _recorded(
    keys: Sequence[SeriesKey], history: History, now: int, parameters: Parameters
) -> tuple[int, list[tuple[Ints, Floats]]]:
    """Return the newest readings of each series, and the time from which they were read.

    If all series have few readings in the span of the parameters, older readings are read too.
    """
    since, most = now - int(parameters.history_days * DAY), parameters.history_readings_most
    found = [history.readings(key, since, most) for key in keys]
    if max(len(times) for times, _ in found) < parameters.history_readings_least:
        since, most = _EVER, parameters.history_readings_least
        found = [history.readings(key, since, most) for key in keys]
    return since, found


def _rows(columns: Sequence[tuple[Ints, Floats]], tolerance: float) -> tuple[Ints, Floats]:
    """Return the rows that readings of several metrics form: times [n], values [n, metrics]."""
    column = np.repeat(np.arange(len(columns)), [len(times) for times, _ in columns])
    times, values = (np.concatenate([one[place] for one in columns]) for place in (0, 1))
    order = np.argsort(times, kind="stable")
    column, times, values = column[order], times[order], values[order]
    empty, historical = alignment.empty(len(columns)), np.zeros(len(order), np.bool_)
    state, rows = alignment.align(empty, column, times, values, historical, tolerance=tolerance)
    last = alignment.waiting(state)
    return np.concatenate((rows.times, last.times)), np.concatenate((rows.values, last.values))


def _with_figures(challenger: Challenge[M], training: Kind) -> TrainedModel[M]:
    """Return the trained model with the outcome of the challenge among its figures."""
    known: Figures = {"improvement_percentage": challenger.improvement_percentage}
    known |= {"improvement_unknown": challenger.unknown}
    known |= {"training": training, "refusal": challenger.refusal}
    before = challenger.champion
    if before is not None:
        known |= {"predecessor_accuracy": before.accuracy}
        known |= {"predecessor_false_positive_rate": before.false_positive_rate}
    return replace(challenger.trained, figures=challenger.trained.figures | known)
