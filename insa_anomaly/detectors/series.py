"""The faces that people import: a model of one metric, or of one device (`detectors/device`), with its window, in a few calls.

Thin over `core`: they turn timestamps into microseconds, keep a model and a state, and save both in a file the caller names. The
daemon keeps its own models, sealed, in `adapters/disk/models.py`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid5

import msgspec
import numpy as np

from insa_anomaly.core import units
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.event import NAMESPACE
from insa_anomaly.core.reading.reading import Quality
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Transition
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.series import detector, features
from insa_anomaly.core.series.detector import Model, ModelTable, Results, advance
from insa_anomaly.core.series.reasons import reasons
from insa_anomaly.core.units import Floats, Ints
from insa_anomaly.detectors.parameters import parameters as sorted_parameters
from insa_anomaly.detectors.saved import decoded, read_arrays, write_arrays
from insa_anomaly.detectors.timestamps import Timestamp, micros
from insa_anomaly.errors import ModelFileError, TrainingError

if TYPE_CHECKING:
    from insa_anomaly.core.learning.challenge import Challenge
    from insa_anomaly.core.learning.trained_model import Past
    from insa_anomaly.core.series.training import SeriesLearner

_STATUS_NAMES = np.array([status.name.lower() for status in Status])
_TRANSITION_NAMES = np.array([transition.name.lower() for transition in Transition])
_CHUNK = 4096  # readings advanced at once
_SEEN = np.dtype(
    [("time", np.int64), ("value", np.float64), ("alarm", np.float64)]
)  # alarm: the score, where it was below 0
_REMEMBERED = [Status.COLLECTING, Status.WARMING, Status.SCORED, Status.LATE]
_CONTEXT = units.FLAT_CAP + units.LONG  # readings of the training data that fill the window


class AnomalyDetector:
    """Learns one metric of one device, and says of every further reading how strange it is.

    It goes on learning: once a day of readings it is refitted on the newest of what it has seen, at once, between that reading and the
    next, which takes about a second; an untrained one learns from its first 500 readings. Versions count the refits.

    Timestamps may be seconds since the epoch, datetimes (naive ones are UTC), ISO 8601 texts, or numpy and pandas times. Parameters are
    those of `core.series.detector.Parameters` and `core.scoring.episodes.Policy`.

    >>> detector = AnomalyDetector("PUMP-1", "pressure", random_state=7)
    >>> figures = detector.train({"timestamp": range(0, 60_000, 60), "value": [4.0 + i % 7 / 10 for i in range(1000)]})
    >>> detector.observe(9.0, 60_000)["is_anomaly"]
    True
    """

    def __init__(self, device_id: str, metric_name: str, **parameters: float | str) -> None:
        self.device_id = device_id
        self.metric_name = metric_name
        self.parameters, self.policy = sorted_parameters(parameters, Parameters)
        self._state = features.empty(1)
        self._seen: deque[tuple[int, float, float]] = deque(
            maxlen=self.parameters.history_readings_most
        )
        self._take(None, {})

    def train(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Learn from `data["timestamp"]` and `data["value"]`: any 100 readings or more, in any order; answers `get_model_info()`.

        `data` is a mapping or a DataFrame. The newest readings fill the window, unless it has moved beyond them already. Raises
        NotEnoughData or TrainingError.
        """
        times, values = _readings(data)
        self._learn(times, values, None)
        return self.get_model_info()

    def retrain(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Learn anew from `data`; the window and an open episode stay. The new model serves only where it is not worse (`promoted`).

        Adds `improvement_percentage` of balanced accuracy over the serving model, on readings that neither has learnt, None where there
        are too few; and the reason of a refusal, or of the None.
        """
        times, values = _readings(data)
        challenge = self._learn(times, values, self._past() if self._model else None)
        return self.get_model_info() | challenge.outcome

    def predict(self, value: float, timestamp: Timestamp | None = None) -> dict[str, Any]:
        """What if this were the next reading? Changes nothing. Without a timestamp: one typical pause after the newest."""
        time = self._next_time() if timestamp is None else int(micros([timestamp])[0])
        return self._single(
            self._advance(np.array([float(value)]), np.array([time]))[1], self._model
        )

    def observe(self, value: float, timestamp: Timestamp) -> dict[str, Any]:
        """The next reading; moves the window."""
        values, times = np.array([float(value)]), micros([timestamp])
        model = self._model
        return self._single(self._observe(values, times), model)

    def observe_many(
        self, values: Sequence[float] | Floats, timestamps: Iterable[Timestamp]
    ) -> dict[str, Any]:
        """The next n readings: arrays [n] of what `observe` says of each, to the bit."""
        values, times = np.asarray(values, np.float64), micros(timestamps)
        if times.shape != values.shape or values.ndim != 1:
            raise ValueError(
                f"timestamps of shape {times.shape} for values of shape {values.shape}; both must be [n]"
            )
        parts: list[dict[str, Any]] = []
        begin = 0
        while begin < len(values) or not parts:
            results = self._observe(values[begin:], times[begin:])
            parts.append(_columns(results))
            begin += len(results.score)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def save_model(self, path: str | os.PathLike[str]) -> bool:
        """Keep model and window in this file, whole or not at all; True when it is done. Raises ModelFileError."""
        scorer, figures = (
            self._model.to_bytes() if self._model else b"",
            msgspec.json.encode(self._figures),
        )
        write_arrays(
            Path(path),
            scorer=scorer,
            state=self._state,
            seen=np.array(self._seen, _SEEN),
            figures=figures,
        )
        return True

    def load_model(self, path: str | os.PathLike[str]) -> bool:
        """Go on from what `save_model` kept; True when it is done. Raises ModelFileError, and nothing has changed then."""
        scorer, state, seen, figures = read_arrays(Path(path), "scorer", "state", "seen", "figures")
        model = Model.from_bytes(scorer.tobytes()) if scorer.size else None
        if state.shape != (1, features.STATE_WIDTH):
            raise ModelFileError(
                f"{path} was saved by another version: its window has another form"
            )
        if model and (model.device_id, model.metric_name) != (self.device_id, self.metric_name):
            raise ModelFileError(f"{path} holds the model of {model.device_id}/{model.metric_name}")
        self._take(model, decoded(Path(path), figures))
        self._state = np.asarray(state, np.float64)
        self._seen.clear()
        self._seen.extend(seen.tolist())
        return True

    def get_model_info(self) -> dict[str, Any]:
        """What is known of the model: id, version, threshold, parameters and the figures of its training; `trained` False before it."""
        info = {
            "device_id": self.device_id,
            "metric_name": self.metric_name,
            "trained": self._model is not None,
        }
        parameters = asdict(self.parameters) | asdict(self.policy)
        if self._model is None:
            return info | {"parameters": parameters}
        about = {
            "model_id": self._model.id,
            "version": self._model.version,
            "threshold": self._model.threshold,
        }
        return info | about | self._figures | {"parameters": parameters}

    def _take(self, model: Model | None, figures: dict[str, Any]) -> None:
        """Serve with this model from now on."""
        models = ModelTable(
            1, self.parameters.n_estimators if model is None else len(model.forest.thresholds)
        )
        if model is not None:
            models.put(0, model)
        self._model, self._models, self._figures = model, models, figures

    # ------------------------------------------------------------------------------------------------ going on learning
    def _observe(self, values: Floats, times: Ints) -> Results:
        """Take the first of these readings: up to and with that at which a refit is due, which follows at once."""
        n = self._at_once()
        state, results = self._advance(values[:n], times[:n])
        due = np.flatnonzero(results.refit_due) + 1
        if len(due) and due[0] < len(results.score):
            state, results = self._advance(values[: due[0]], times[: due[0]])
        self._state = state
        self._remember(values, times, results)
        if len(due):
            self._refit()
        return results

    def _at_once(self) -> int:
        """So many readings that a refit is hardly due before the last of them."""
        step = (
            self._model.numbers[detector.REFIT_STEP]
            if self._model
            else self.parameters.first_fit_retry_readings
        )
        return int(np.clip(np.ceil(step - self._state[0, features.SINCE_DUE]), 1, _CHUNK))

    def _remember(self, values: Floats, times: Ints, results: Results) -> None:
        n = len(results.score)
        kept = np.isin(results.status, _REMEMBERED)
        alarms = np.where(results.scored, np.minimum(results.score, 0.0), 0.0)[kept]
        self._seen.extend(
            zip(times[:n][kept].tolist(), values[:n][kept].tolist(), alarms.tolist(), strict=True)
        )

    def _refit(self) -> None:
        from insa_anomaly.core.learning import challenge  # noqa: PLC0415 - loads scikit-learn, which scoring does without

        times, values, _ = self._history()
        with suppress(TrainingError):  # it goes on with what it has, and tries again a day later
            if self._model is None:
                self._take_up(challenge.train(self._learner(), times, values))
            else:
                self._take_up(challenge.refit(self._learner(), times, values, self._past()))

    def _learn(self, times: Ints, values: Floats, past: Past[Model] | None) -> Challenge[Model]:
        from insa_anomaly.core.learning.challenge import train  # noqa: PLC0415 - loads scikit-learn, which scoring does without

        challenge = train(self._learner(), times, values, past)
        self._take_up(challenge)
        self._remember_all(times, values)
        self._warm_up(times, values)
        return challenge

    def _take_up(self, challenge: Challenge[Model]) -> None:
        if challenge.promoted:
            trained = challenge.trained
            self._take(trained.model, {"training_samples": trained.samples} | trained.figures)

    def _learner(self) -> SeriesLearner:
        from insa_anomaly.core.series.training import SeriesLearner  # noqa: PLC0415 - loads scikit-learn, which scoring does without

        version = self._model.version + 1 if self._model else 1
        model_id = str(uuid5(NAMESPACE, f"{self.device_id}\x1f{self.metric_name}\x1f{version}"))
        return SeriesLearner(
            SeriesKey(self.device_id, self.metric_name),
            model_id,
            version,
            self.parameters,
            self.policy,
        )

    def _past(self) -> Past[Model]:
        from insa_anomaly.core.learning.trained_model import Past  # noqa: PLC0415 - loads scikit-learn, which scoring does without

        assert self._model is not None  # noqa: S101 - the caller asked
        times, _, alarms = self._history()
        return Past(self._model, times[alarms < 0])

    def _history(self) -> tuple[Ints, Floats, Floats]:
        """What was seen: times, values, and the scores of what alarmed."""
        seen = np.array(self._seen, _SEEN)
        return seen["time"], seen["value"], seen["alarm"]

    def _remember_all(self, times: Ints, values: Floats) -> None:
        """What was given to training is the history from now on."""
        order = np.argsort(times, kind="stable")
        order = order[np.isfinite(values[order])]
        self._seen.clear()
        self._seen.extend(
            (time, value, 0.0)
            for time, value in zip(times[order].tolist(), values[order].tolist(), strict=True)
        )

    def _warm_up(self, times: Ints, values: Floats) -> None:
        """Let the newest training data fill the window."""
        order = np.argsort(times, kind="stable")[-_CONTEXT:]
        order = order[times[order] > self._state[0, features.LAST]]
        episode = self._state[0, features.EPISODE].copy()
        self._state, _ = self._advance(values[order], times[order])
        self._state[0, features.EPISODE] = (
            episode  # what is learnt from opens no episode, and closes none
        )
        self._state[0, features.SINCE_DUE] = 0

    def _advance(self, values: Floats, times: Ints) -> tuple[Floats, Results]:
        n = len(values)
        row = np.full(n, 0 if self._model else -1)
        # A reading of the same time is another one if its value is another.
        discriminators = np.ascontiguousarray(values + 0.0).view(np.int64)
        which, good = np.zeros(n, np.int64), np.full(n, int(Quality.GOOD))
        return advance(
            self._state,
            which,
            self._models,
            row,
            values,
            times,
            discriminators,
            good,
            self.policy,
            self.parameters,
        )

    def _next_time(self) -> int:
        newest, pause = (
            self._state[0, features.LAST],
            self._model.numbers[detector.INTERVAL] if self._model else 0.0,
        )
        return int(newest + pause) if np.isfinite(newest) else 0

    def _single(self, results: Results, model: Model | None) -> dict[str, Any]:
        said: dict[str, Any] = {
            name: column[0].item() for name, column in _columns(results).items()
        }
        said["reasons"] = []
        if model and said["is_anomaly"]:
            why = reasons(self._models, 0, results, 0)
            said["reasons"] = [msgspec.structs.asdict(reason) for reason in why]
        return said | {
            "model_id": model.id if model else None,
            "model_version": model.version if model else None,
        }


def _readings(data: Mapping[str, Any]) -> tuple[Ints, Floats]:
    """Times and values of a mapping or a DataFrame. Raises TrainingError."""
    times, values = micros(data["timestamp"]), np.asarray(data["value"], np.float64)
    if times.shape != values.shape or values.ndim != 1:
        raise TrainingError(
            f"timestamps of shape {times.shape} for values of shape {values.shape}; both must be [n]"
        )
    return times, values


def _columns(results: Results) -> dict[str, Any]:
    """The results under the names of the public interface."""
    return {
        "score": results.score,
        "is_anomaly": results.score < 0,
        "confidence": results.confidence,
        "raw_score": results.raw_score,
        "expected": results.expected,
        "lower": results.lower,
        "upper": results.upper,
        "status": _STATUS_NAMES[results.status],
        "transition": _TRANSITION_NAMES[results.transition],
    }
