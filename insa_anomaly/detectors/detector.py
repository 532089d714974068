"""The frame that the two detectors share: a model with its window, in a few calls.

Thin over `core`: a detector turns timestamps into microseconds, holds a model and a state, refits
itself, and saves all in a file that the caller names. The daemon stores its own models, sealed, in
`adapters/disk/models.py`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core import units
from insa_anomaly.core.device.detector import DeviceModel
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.event import Reason, deterministic_id
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy, Transition
from insa_anomaly.core.scoring.results import ScoringResults
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.units import Bools, Floats, Ints
from insa_anomaly.detectors.history import RefitHistory
from insa_anomaly.detectors.saved import write_arrays
from insa_anomaly.detectors.timestamps import Timestamp, micros
from insa_anomaly.errors import TrainingError

if TYPE_CHECKING:
    from insa_anomaly.core.learning.challenge import Challenge
    from insa_anomaly.core.learning.learner import Learner
    from insa_anomaly.core.learning.trained_model import Past

_REMEMBERED = [Status.COLLECTING, Status.WARMING, Status.SCORED, Status.LATE]
_STATUS_NAMES = np.array([status.name.lower() for status in Status])
_TRANSITION_NAMES = np.array([transition.name.lower() for transition in Transition])
_CHUNK = 4096  # readings or rows advanced at once
_CONTEXT = units.FLAT_CAP + units.LONG  # readings or rows of the training data to fill the window


class StateColumns(Protocol):
    """Columns that the states of series and of devices share: a module of the core."""

    LAST: int
    SINCE_DUE: int
    EPISODE: slice


class Ready(Protocol):
    """A model with its forest laid out to score."""

    @property
    def model(self) -> Model | DeviceModel:
        """The model."""


S = TypeVar("S", bound=Ready)
R = TypeVar("R", bound=ScoringResults)


class BaseDetector(ABC, Generic[S, R]):
    """A model of a series or a device, the state of its window, and the history of its refits."""

    _columns: ClassVar[StateColumns]
    _ready: ClassVar[type[Any]]  # S
    _names: dict[str, Any]  # in `get_model_info`

    def __init__(
        self,
        key: SeriesKey,
        parameters: Parameters,
        policy: Policy,
        state: Floats,
        history: RefitHistory,
    ) -> None:
        self.device_id, self._key = key.device_id, key
        self.parameters, self.policy = parameters, policy
        self._state, self._history = state, history
        self._serving: S | None = None
        self._figures: dict[str, Any] = {}

    def train(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Learn from at least 100 readings or rows, in any order, and return `get_model_info()`.

        `data` is a mapping or a DataFrame with `timestamp` and `value`, or for a device with
        `timestamp` and a column for each metric; a metric without a column has no readings. The
        newest readings fill the window, unless it has moved beyond them already. Raises
        NotEnoughData or TrainingError.
        """
        self._learn(*self._rows(data, TrainingError), None)
        return self.get_model_info()

    def retrain(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Learn anew from `data` as `train` does; the window and an open episode stay.

        The new model serves only if it is not worse (`promoted`). The answer adds
        `improvement_percentage` of balanced accuracy over the serving model on readings that
        neither has learnt, None if these are too few, and the `reason` of a refusal or of None.
        """
        times, values = self._rows(data, TrainingError)
        challenge = self._learn(times, values, self._past(self._serving) if self._serving else None)
        return self.get_model_info() | challenge.outcome

    def save_model(self, path: str | os.PathLike[str]) -> bool:
        """Save model, window and history in this file, whole or not at all; return True.

        Raises ModelFileError.
        """
        write_arrays(Path(path), **self._saved())
        return True

    def load_model(self, path: str | os.PathLike[str]) -> bool:
        """Continue from a file that `save_model` wrote; return True.

        Raises ModelFileError, and then nothing has changed.
        """
        self._load(Path(path))
        return True

    def get_model_info(self) -> dict[str, Any]:
        """Return id, version, threshold, parameters and the figures of the training.

        `trained` is False before the first training.
        """
        info = self._names | {"trained": self._serving is not None}
        if self._serving is not None:
            model = self._serving.model
            info |= {"model_id": model.id, "version": model.version, "threshold": model.threshold}
            info |= self._figures
        return info | {"parameters": asdict(self.parameters) | asdict(self.policy)}

    # ------------------------------------------------------------------------------- the bodies
    @abstractmethod
    def _rows(self, data: Mapping[str, Any], refusal: type[Exception]) -> tuple[Ints, Floats]:
        """Return times [n] and values [n] or [n, metrics] of the data. Raises `refusal`."""

    @abstractmethod
    def _learner(self, **own: Any) -> Learner[Any]:  # noqa: ANN401 - fields of `Learner`
        """Return a learner with these fields."""

    @abstractmethod
    def _advance(self, times: Ints, values: Floats) -> tuple[Floats, R]:
        """Return the state after these readings, and their results."""

    def _expectation(self, results: R, serving: S | None) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of the answer that state the expected values."""
        del serving
        return {"expected": results.expected, "lower": results.lower, "upper": results.upper}

    @abstractmethod
    def _reasons(self, results: R, values: Floats, serving: S) -> list[Reason]:
        """Return the reasons of the first result."""

    @abstractmethod
    def _alarming(self, results: R) -> Bools:
        """Return the results that are alarms if their score is below 0."""

    @abstractmethod
    def _saved(self) -> dict[str, npt.NDArray[Any] | bytes]:
        """Return the arrays of the file."""

    @abstractmethod
    def _load(self, path: Path) -> None:
        """Continue from a file. Raises ModelFileError."""

    # ---------------------------------------------------------------------------------- scoring
    def _predict(self, values: Floats, timestamp: Timestamp | None) -> dict[str, Any]:
        time = self._next_time() if timestamp is None else int(micros([timestamp])[0])
        return self._single(self._advance(np.array([time]), values)[1], values, self._serving)

    def _observe(self, values: Floats, timestamp: Timestamp) -> dict[str, Any]:
        serving = self._serving
        return self._single(self._move(micros([timestamp]), values), values, serving)

    def _observe_many(self, times: Ints, values: Floats) -> dict[str, Any]:
        parts, begin = list[dict[str, Any]](), 0
        while begin < len(times) or not parts:
            serving = self._serving
            results = self._move(times[begin:], values[begin:])
            parts.append(self._answer(results, serving))
            begin += len(results.score)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _move(self, times: Ints, values: Floats) -> R:
        """Take readings up to and including the first at which a refit is due, and then refit."""
        n = self._at_once()
        state, results = self._advance(times[:n], values[:n])
        due = np.flatnonzero(results.refit_due) + 1
        if len(due) and due[0] < len(results.score):
            state, results = self._advance(times[: due[0]], values[: due[0]])
        self._state = state
        kept = np.flatnonzero(np.isin(results.status, _REMEMBERED))
        alarms = np.where(self._alarming(results), np.minimum(results.score, 0.0), 0.0)
        self._history.add(times[kept], values[kept], alarms[kept])
        if len(due):
            self._refit()
        return results

    def _at_once(self) -> int:
        """Return a number of readings such that a refit is hardly due before the last of them."""
        first = float(self.parameters.first_fit_retry_readings)
        step = self._serving.model.refit_step if self._serving else first
        return int(np.clip(np.ceil(step - self._state[self._columns.SINCE_DUE]), 1, _CHUNK))

    def _next_time(self) -> int:
        newest = self._state[self._columns.LAST]
        pause = self._serving.model.interval if self._serving else 0.0
        return int(newest + pause) if np.isfinite(newest) else 0

    def _answer(self, results: R, serving: S | None) -> dict[str, Any]:
        """Return the results under the names of the public interface."""
        return {
            "score": results.score,
            "is_anomaly": results.score < 0,
            "confidence": results.confidence,
            "raw_score": results.raw_score,
            **self._expectation(results, serving),
            "status": _STATUS_NAMES[results.status],
            "transition": _TRANSITION_NAMES[results.transition],
        }

    def _single(self, results: R, values: Floats, serving: S | None) -> dict[str, Any]:
        columns = self._answer(results, serving)
        answer = {name: self._plain(column[0]) for name, column in columns.items()}
        reasons = (
            self._reasons(results, values, serving) if serving and answer["is_anomaly"] else ()
        )
        return answer | {
            "reasons": [msgspec.structs.asdict(reason) for reason in reasons],
            "model_id": serving.model.id if serving else None,
            "model_version": serving.model.version if serving else None,
        }

    def _plain(self, cell: Any) -> Any:  # noqa: ANN401 - of any column
        return cell.item()

    # --------------------------------------------------------------------------------- learning
    def _refit(self) -> None:
        # Loads scikit-learn, which scoring does without
        from insa_anomaly.core.learning import challenge  # noqa: PLC0415

        times, values, _ = self._history.columns()
        with suppress(TrainingError):  # the detector keeps its model, and tries again a day later
            if self._serving is None:
                self._take_up(challenge.train(self._next_learner(), times, values))
            else:
                past = self._past(self._serving)
                self._take_up(challenge.refit(self._next_learner(), times, values, past))

    def _learn(self, times: Ints, values: Floats, past: Past[Any] | None) -> Challenge[Any]:
        # Loads scikit-learn, which scoring does without
        from insa_anomaly.core.learning.challenge import train  # noqa: PLC0415

        challenge = train(self._next_learner(), times, values, past)
        self._take_up(challenge)
        order = np.argsort(times, kind="stable")
        self._warm_up(times[order], values[order])
        if values.ndim == 1:  # a row may lack a metric, a reading has a value
            order = order[np.isfinite(values[order])]
        self._history.begin(times[order], values[order])
        return challenge

    def _take_up(self, challenge: Challenge[Any]) -> None:
        if challenge.promoted:
            trained = challenge.trained
            figures = {"training_samples": trained.samples} | trained.figures
            self._serve(self._ready(trained.model), figures)

    def _serve(self, serving: S | None, figures: dict[str, Any]) -> None:
        self._serving, self._figures = serving, figures

    def _next_learner(self) -> Learner[Any]:
        version = self._serving.model.version + 1 if self._serving else 1
        own_id = deterministic_id(*self._key, version)
        parameters, policy = self.parameters, self.policy
        return self._learner(id=own_id, version=version, parameters=parameters, policy=policy)

    def _past(self, serving: S) -> Past[Any]:
        # Loads scikit-learn, which scoring does without
        from insa_anomaly.core.learning.trained_model import Past  # noqa: PLC0415

        times, _, alarms = self._history.columns()
        return Past(serving.model, times[alarms < 0])

    def _warm_up(self, times: Ints, values: Floats) -> None:
        """Fill the window with the newest training data; it opens no episode, and closes none."""
        newer = np.flatnonzero(times > self._state[self._columns.LAST])[-_CONTEXT:]
        episode = self._state[self._columns.EPISODE].copy()
        self._state, _ = self._advance(times[newer], values[newer])
        self._state[self._columns.EPISODE] = episode
        self._state[self._columns.SINCE_DUE] = 0
