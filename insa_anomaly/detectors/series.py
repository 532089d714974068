"""The detector of a series: a model of a metric of a device with its window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core.layout import StateRows
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.event import Reason
from insa_anomaly.core.reading.reading import Quality
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.series import features
from insa_anomaly.core.series.detector import Model, ModelTable, Results, SeriesBatch, advance
from insa_anomaly.core.series.reasons import reasons
from insa_anomaly.core.units import Bools, Floats, Ints
from insa_anomaly.detectors.detector import BaseDetector, StateColumns
from insa_anomaly.detectors.history import RefitHistory
from insa_anomaly.detectors.parameters import parameters as sorted_parameters
from insa_anomaly.detectors.saved import ANOTHER_FORM, decoded, read_arrays
from insa_anomaly.detectors.timestamps import Timestamp, micros
from insa_anomaly.errors import ModelFileError

if TYPE_CHECKING:
    from insa_anomaly.core.series.training import SeriesLearner

# `alarm`: the score, if it was below 0.
_SEEN = np.dtype([("time", np.int64), ("value", np.float64), ("alarm", np.float64)])


class _ServedModel:
    """A model and the table that it is scored from."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.table = ModelTable(1, len(model.forest.thresholds))
        self.table.put(0, model)


class AnomalyDetector(BaseDetector[_ServedModel, Results]):
    """Detector that learns a metric of a device and scores every further reading.

    The detector refits itself once a day of readings, on the newest of them, between two readings;
    a refit takes about a second. An untrained detector learns from its first 500 readings. Versions
    count the refits.

    Timestamps are seconds since the epoch, datetimes (naive datetimes are UTC), ISO 8601 texts, or
    numpy and pandas times. Parameters are the fields of `core.learning.parameters.Parameters` and
    `core.scoring.episodes.Policy`.

    >>> detector = AnomalyDetector("PUMP-1", "pressure", random_state=7)
    >>> values = [4.0 + i % 7 / 10 for i in range(1000)]
    >>> figures = detector.train({"timestamp": range(0, 60_000, 60), "value": values})
    >>> detector.observe(9.0, 60_000)["is_anomaly"]
    True
    """

    _columns: ClassVar[StateColumns] = features
    _ready = _ServedModel

    def __init__(self, device_id: str, metric_name: str, **parameters: float | str) -> None:
        own, policy = sorted_parameters(parameters, Parameters)
        key, history = SeriesKey(device_id, metric_name), RefitHistory(own.history_readings_most)
        super().__init__(key, own, policy, features.empty(1)[0], history)
        self.metric_name, self._names = metric_name, key._asdict()
        self._no_model = ModelTable(1, own.n_estimators)

    def predict(self, value: float, timestamp: Timestamp | None = None) -> dict[str, Any]:
        """Score a value as if it were the next reading; no state changes.

        The default timestamp is a typical pause after the newest reading.
        """
        return self._predict(np.array([float(value)]), timestamp)

    def observe(self, value: float, timestamp: Timestamp) -> dict[str, Any]:
        """Score the next reading, and move the window."""
        return self._observe(np.array([float(value)]), timestamp)

    def observe_many(
        self, values: Sequence[float] | Floats, timestamps: Iterable[Timestamp]
    ) -> dict[str, Any]:
        """Score the next n readings: arrays [n] of the answers of `observe`, to the bit."""
        data = {"timestamp": timestamps, "value": values}
        return self._observe_many(*self._rows(data, ValueError))

    def _rows(self, data: Mapping[str, Any], refusal: type[Exception]) -> tuple[Ints, Floats]:
        times, values = micros(data["timestamp"]), np.asarray(data["value"], np.float64)
        if times.shape != values.shape or values.ndim != 1:
            shapes = f"timestamps of shape {times.shape} for values of shape {values.shape}"
            raise refusal(f"{shapes}; both must be [n]")
        return times, values

    def _learner(self, **own: Any) -> SeriesLearner:  # noqa: ANN401 - fields of `Learner`
        # Loads scikit-learn, which scoring does without
        from insa_anomaly.core.series.training import SeriesLearner  # noqa: PLC0415

        return SeriesLearner(key=self._key, **own)

    def _advance(self, times: Ints, values: Floats) -> tuple[Floats, Results]:
        which, good = np.zeros(len(values), np.int64), np.full(len(values), int(Quality.GOOD))
        batch = SeriesBatch(
            series=which,
            models=which if self._serving else which - 1,
            values=values,
            times=times,
            # A reading of the same time is another reading if its value is another.
            discriminators=np.ascontiguousarray(values + 0.0).view(np.int64),
            qualities=good,
        )
        table = self._serving.table if self._serving else self._no_model
        state = StateRows(self._state[None])
        states, results = advance(state, batch, table, self.policy, self.parameters)
        return states[0], results

    def _reasons(self, results: Results, values: Floats, serving: _ServedModel) -> list[Reason]:
        del values
        return reasons(serving.table, 0, results, 0)

    def _alarming(self, results: Results) -> Bools:
        return results.scored

    def _saved(self) -> dict[str, npt.NDArray[Any] | bytes]:
        times, values, alarms = self._history.columns()
        seen = np.empty(len(times), _SEEN)
        seen["time"], seen["value"], seen["alarm"] = times, values, alarms
        return {
            "scorer": self._serving.model.to_bytes() if self._serving else b"",
            "state": self._state[None],
            "seen": seen,
            "figures": msgspec.json.encode(self._figures),
        }

    def _load(self, path: Path) -> None:
        scorer, state, seen, figures = read_arrays(path, "scorer", "state", "seen", "figures")
        model = Model.from_bytes(scorer.tobytes()) if scorer.size else None
        if state.shape != (1, features.STATE.width):
            raise ModelFileError(f"{path} {ANOTHER_FORM}")
        if model and (model.device_id, model.metric_name) != self._key:
            raise ModelFileError(f"{path} holds the model of {model.device_id}/{model.metric_name}")
        self._serve(self._ready(model) if model else None, decoded(path, figures))
        self._state = np.asarray(state[0], np.float64)
        self._history.begin(seen["time"], seen["value"], seen["alarm"])
