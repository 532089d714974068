"""The face of a device model: all metrics of a device together, with their window and the rows they are learnt from.

Thin over `core.device.detector`, as `detectors.series.AnomalyDetector` is over `core.series.detector`, and it keeps itself in a file in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid5

import msgspec
import numpy as np

from insa_anomaly.core import units
from insa_anomaly.core.device import batch, detector, window
from insa_anomaly.core.device.detector import DeviceModel, DeviceParameters, DeviceResults, Served
from insa_anomaly.core.device.history import DeviceHistory
from insa_anomaly.core.notification.event import NAMESPACE
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Transition
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.units import Floats, Ints
from insa_anomaly.detectors.parameters import parameters as sorted_parameters
from insa_anomaly.detectors.saved import decoded, read_arrays, write_arrays
from insa_anomaly.detectors.timestamps import Timestamp, micros
from insa_anomaly.errors import ModelFileError, TrainingError

if TYPE_CHECKING:
    from insa_anomaly.core.device.training import DeviceLearner
    from insa_anomaly.core.learning.challenge import Challenge
    from insa_anomaly.core.learning.trained_model import Past

_STATUS_NAMES = np.array([status.name.lower() for status in Status])
_TRANSITION_NAMES = np.array([transition.name.lower() for transition in Transition])
_CHUNK = 4096  # rows advanced at once
_REMEMBERED = [Status.COLLECTING, Status.WARMING, Status.SCORED, Status.LATE]
_CONTEXT = units.FLAT_CAP + units.LONG  # rows of the training data that fill the window


class DeviceDetector:
    """Learns all metrics of a device together, and says of every further row how strange it is and which metric makes it so.

    A row is one reading of every metric at one time; a metric that is missing from it, None or NaN takes no part in it, and one that
    has a reading in fewer than half of the rows is left out of the model until it is refitted with more. It goes on learning as
    `AnomalyDetector` does: once a day of rows, or from the first 500 where it was never trained.

    Four measures decide (`core.device.features`), by the mean of their -log10 p, smoothed over ten rows; a row is anomalous where that
    is rarer than `alpha`. The spans (10, 20 and 60 rows), `alpha`, the allowance for drift and the shrinkage of the covariance were
    chosen on the 34 recordings of a water pump that make up the Skoltech Anomaly Benchmark, and hold for every device.

    Parameters are those of `core.device.detector.DeviceParameters` and `core.scoring.episodes.Policy`; timestamps are as `AnomalyDetector` takes them.
    """

    def __init__(self, device_id: str, metrics: Sequence[str], **parameters: float | str) -> None:
        self.device_id = device_id
        self.metrics = tuple(metrics)
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"a device needs metrics of different names, not {self.metrics}")
        self.parameters, self.policy = sorted_parameters(parameters, DeviceParameters)
        self._served: Served | None = None
        self._figures: dict[str, Any] = {}
        self._state = window.empty(len(self.metrics))
        self._history = DeviceHistory(len(self.metrics), self.parameters)

    def train(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Learn from `data["timestamp"]` and a column a metric: any 100 rows or more, in any order; answers `get_model_info()`.

        `data` is a mapping or a DataFrame; a metric without a column has no readings. The newest rows fill the window, unless it has
        moved beyond them already. Raises NotEnoughData or TrainingError.
        """
        self._learn(*self._rows(data, TrainingError), None)
        return self.get_model_info()

    def retrain(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Learn anew from `data`; the window and an open episode stay. The new model serves only where it is not worse (`promoted`).

        What is added to the answer is as for `AnomalyDetector.retrain`.
        """
        challenge = self._learn(
            *self._rows(data, TrainingError),
            self._past(self._served.model) if self._served else None,
        )
        return self.get_model_info() | challenge.outcome

    def predict(
        self, row: Mapping[str, float | None], timestamp: Timestamp | None = None
    ) -> dict[str, Any]:
        """What if this were the next row? Changes nothing. Without a timestamp: one typical pause after the newest."""
        time = self._next_time() if timestamp is None else int(micros([timestamp])[0])
        values = self._row(row)
        return self._single(self._advance(np.array([time]), values)[1], values, self._served)

    def observe(self, row: Mapping[str, float | None], timestamp: Timestamp) -> dict[str, Any]:
        """The next row; moves the window."""
        times, values, served = micros([timestamp]), self._row(row), self._served
        return self._single(self._observe(times, values), values, served)

    def observe_many(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The next n rows, `data` as for `train`: arrays [n] of what `observe` says of each, to the bit; `shares` [n, metrics].

        Where a row has a `metric_name`, the expected value and its band are those of that metric.
        """
        times, values = self._rows(data, ValueError)
        parts, begin = list[dict[str, Any]](), 0
        while begin < len(times) or not parts:
            served = self._served
            results = self._observe(times[begin:], values[begin:])
            parts.append(self._columns(results, served))
            begin += len(results.score)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def save_model(self, path: str | os.PathLike[str]) -> bool:
        """Keep model, window and history in this file, whole or not at all; True when it is done. Raises ModelFileError."""
        about = msgspec.json.encode(
            {"device_id": self.device_id, "metrics": self.metrics, "figures": self._figures}
        )
        model = self._served.model.to_bytes() if self._served else b""
        write_arrays(
            Path(path),
            about=about,
            model=model,
            state=self._state,
            history=self._history.to_bytes(),
        )
        return True

    def load_model(self, path: str | os.PathLike[str]) -> bool:
        """Go on from what `save_model` kept; True when it is done. Raises ModelFileError, and nothing has changed then."""
        packed, model, state, history = read_arrays(
            Path(path), "about", "model", "state", "history"
        )
        about = decoded(Path(path), packed)
        if (about["device_id"], tuple(about["metrics"])) != (self.device_id, self.metrics):
            raise ModelFileError(
                f"{path} holds the model of {about['device_id']} with the metrics {', '.join(about['metrics'])}"
            )
        served = Served(DeviceModel.from_bytes(model.tobytes())) if model.size else None
        if state.shape != (window.width(len(served.model.metrics if served else self.metrics)),):
            raise ModelFileError(
                f"{path} was saved by another version: its window has another form"
            )
        rows = DeviceHistory.from_bytes(history.tobytes(), len(self.metrics), self.parameters)
        self._served, self._state, self._history, self._figures = (
            served,
            state,
            rows,
            about["figures"],
        )
        return True

    def get_model_info(self) -> dict[str, Any]:
        """What is known of the model: id, version, threshold, parameters and the figures of its training; `trained` False before it."""
        info = {
            "device_id": self.device_id,
            "metrics": self.metrics,
            "trained": self._served is not None,
        }
        parameters = asdict(self.parameters) | asdict(self.policy)
        if self._served is None:
            return info | {"parameters": parameters}
        model = self._served.model
        about = {"model_id": model.id, "version": model.version, "threshold": model.threshold}
        return info | about | self._figures | {"parameters": parameters}

    # ------------------------------------------------------------------------------------------------------------ rows
    def _rows(self, data: Mapping[str, Any], refusal: type[Exception]) -> tuple[Ints, Floats]:
        times = micros(data["timestamp"])
        if not any(metric in data for metric in self.metrics):
            raise refusal(f"none of the metrics {', '.join(self.metrics)} is in the data")
        nothing = np.full(len(times), np.nan)
        columns = [
            np.asarray(data[metric], np.float64) if metric in data else nothing
            for metric in self.metrics
        ]
        for metric, column in zip(self.metrics, columns, strict=True):
            if times.shape != column.shape or column.ndim != 1:
                raise refusal(
                    f"timestamps of shape {times.shape} for values of {metric} of shape {column.shape}; both must be [n]"
                )
        return times, np.column_stack(columns)

    def _row(self, row: Mapping[str, float | None]) -> Floats:
        given = [row.get(metric) for metric in self.metrics]
        return np.array([[np.nan if value is None else float(value) for value in given]])

    @property
    def _looked_at(self) -> tuple[str, ...]:
        """The metrics that the window holds."""
        return self._served.model.metrics if self._served else self.metrics

    @property
    def _places(self) -> list[int]:
        return [self.metrics.index(metric) for metric in self._looked_at]

    # --------------------------------------------------------------------------------------------------- going on learning
    def _observe(self, times: Ints, values: Floats) -> DeviceResults:
        """Take the first of these rows: up to and with that at which a refit is due, which follows at once."""
        n = self._at_once()
        state, results = self._advance(times[:n], values[:n])
        due = np.flatnonzero(results.refit_due) + 1
        if len(due) and due[0] < len(results.score):
            state, results = self._advance(times[: due[0]], values[: due[0]])
        self._state = state
        kept = np.isin(results.status, _REMEMBERED)
        told = (results.score < 0) & (results.episode_readings > 0)
        self._history.add(times[: len(kept)][kept], values[: len(kept)][kept], told[kept])
        if len(due):
            self._refit()
        return results

    def _at_once(self) -> int:
        """So many rows that a refit is hardly due before the last of them."""
        step = (
            self._served.model.refit_step
            if self._served
            else self.parameters.first_fit_retry_readings
        )
        return int(np.clip(np.ceil(step - self._state[window.SINCE_DUE]), 1, _CHUNK))

    def _refit(self) -> None:
        from insa_anomaly.core.learning import challenge  # noqa: PLC0415 - loads scikit-learn, which scoring does without

        times, values, _ = self._history.columns()
        with suppress(TrainingError):  # it goes on with what it has, and tries again a day later
            if self._served is None:
                self._take_up(challenge.train(self._learner(), times, values))
            else:
                self._take_up(
                    challenge.refit(self._learner(), times, values, self._past(self._served.model))
                )

    def _learn(
        self, times: Ints, values: Floats, past: Past[DeviceModel] | None
    ) -> Challenge[DeviceModel]:
        from insa_anomaly.core.learning.challenge import train  # noqa: PLC0415 - loads scikit-learn, which scoring does without

        challenge = train(self._learner(), times, values, past)
        self._take_up(challenge)
        order = np.argsort(times, kind="stable")
        self._history.begin(times[order], values[order])
        self._warm_up(times[order], values[order])
        return challenge

    def _take_up(self, challenge: Challenge[DeviceModel]) -> None:
        if not challenge.promoted:
            return
        before, trained = self._looked_at, challenge.trained
        self._served = Served(trained.model)
        self._figures = {"training_samples": trained.samples} | trained.figures
        if self._looked_at != before:
            self._state = window.rearranged(self._state, before, self._looked_at)

    def _learner(self) -> DeviceLearner:
        from insa_anomaly.core.device.training import DeviceLearner  # noqa: PLC0415 - loads scikit-learn, which scoring does without

        version = self._served.model.version + 1 if self._served else 1
        name = str(
            uuid5(NAMESPACE, "\x1f".join([*SeriesKey.of_device(self.device_id), str(version)]))
        )
        return DeviceLearner(
            self.device_id, self.metrics, name, version, self.parameters, self.policy
        )

    def _past(self, model: DeviceModel) -> Past[DeviceModel]:
        from insa_anomaly.core.learning.trained_model import Past  # noqa: PLC0415 - loads scikit-learn, which scoring does without

        times, _, told = self._history.columns()
        return Past(model, times[told])

    def _warm_up(self, times: Ints, values: Floats) -> None:
        """Let the newest training data fill the window."""
        newer = np.flatnonzero(times > self._state[window.LAST])[-_CONTEXT:]
        episode = self._state[window.EPISODE].copy()
        self._state, _ = self._advance(times[newer], values[newer])
        self._state[window.EPISODE] = (
            episode  # what is learnt from opens no episode, and closes none
        )
        self._state[window.SINCE_DUE] = 0

    def _advance(self, times: Ints, values: Floats) -> tuple[Floats, DeviceResults]:
        values = values[:, self._places]
        if len(times) != 1:
            return detector.advance(
                self._state, self._served, times, values, self.policy, self.parameters
            )
        states, results = batch.advance_each(
            [self._state], [self._served], times, values, self.policy, self.parameters
        )
        return states[0], results

    def _next_time(self) -> int:
        newest, pause = (
            self._state[window.LAST],
            self._served.model.interval if self._served else 0.0,
        )
        return int(newest + pause) if np.isfinite(newest) else 0

    # --------------------------------------------------------------------------------------------------------- answers
    def _columns(self, results: DeviceResults, served: Served | None) -> dict[str, Any]:
        """The results under the names of the public interface."""
        metrics = served.model.metrics if served else self.metrics
        metric, row = results.metric, np.arange(len(results.score))
        named = metric >= 0
        shares = np.zeros((len(row), len(self.metrics)))
        shares[:, [self.metrics.index(one) for one in metrics]] = results.shares
        return {
            "score": results.score,
            "is_anomaly": results.score < 0,
            "confidence": results.confidence,
            "raw_score": results.raw_score,
            "metric_name": np.array([*metrics, ""])[metric],
            **{
                name: np.where(named, getattr(results, name)[row, metric], np.nan)
                for name in ("expected", "lower", "upper")
            },
            "shares": shares,
            "status": _STATUS_NAMES[results.status],
            "transition": _TRANSITION_NAMES[results.transition],
        }

    def _single(
        self, results: DeviceResults, values: Floats, served: Served | None
    ) -> dict[str, Any]:
        columns = self._columns(results, served)
        said: dict[str, Any] = {
            name: column[0].item() for name, column in columns.items() if name != "shares"
        }
        said["shares"] = dict(zip(self.metrics, columns["shares"][0].tolist(), strict=True))
        said["reasons"] = []
        if served and said["is_anomaly"]:
            row = values[0, [self.metrics.index(metric) for metric in served.model.metrics]]
            said["reasons"] = [
                msgspec.structs.asdict(reason)
                for reason in detector.reasons(results, 0, row, served.model)
            ]
        return said | {
            "model_id": served.model.id if served else None,
            "model_version": served.model.version if served else None,
        }
