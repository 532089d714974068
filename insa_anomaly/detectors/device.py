"""The detector of a device: a model of all its metrics together with their window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core.device import batch, detector, window
from insa_anomaly.core.device.detector import DeviceModel, DeviceParameters, DeviceResults, Served
from insa_anomaly.core.notification.event import Reason
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.units import Bools, Floats, Ints
from insa_anomaly.detectors.detector import BaseDetector, StateColumns
from insa_anomaly.detectors.history import RefitHistory
from insa_anomaly.detectors.parameters import parameters as sorted_parameters
from insa_anomaly.detectors.saved import ANOTHER_FORM, decoded, read_arrays
from insa_anomaly.detectors.timestamps import Timestamp, micros
from insa_anomaly.errors import ModelFileError

if TYPE_CHECKING:
    from insa_anomaly.core.device.training import DeviceLearner


class DeviceDetector(BaseDetector[Served, DeviceResults]):
    """Detector that learns all metrics of a device together and scores every further row.

    A row is a reading of every metric at the same time. A metric that is missing from a row, None
    or NaN takes no part in it; a metric with a reading in fewer than half of the rows is left out
    of the model until a refit finds more. The answer names the metric that makes a row strange.
    The detector refits itself as `AnomalyDetector` does: once a day of rows, or from the first 500
    if it was never trained.

    Four measures decide (`core.device.features`), by the mean of their -log10 p, smoothed over ten
    rows; a row is anomalous if that mean is rarer than `alpha`. The spans (10, 20 and 60 rows),
    `alpha`, the allowance for drift and the shrinkage of the covariance were chosen on the 34
    recordings of a water pump of the Skoltech Anomaly Benchmark, and hold for every device.

    Parameters are the fields of `core.device.detector.DeviceParameters` and
    `core.scoring.episodes.Policy`; timestamps are as for `AnomalyDetector`.
    """

    _columns: ClassVar[StateColumns] = window
    _ready = Served

    def __init__(self, device_id: str, metrics: Sequence[str], **parameters: float | str) -> None:
        self.metrics = tuple(metrics)
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"a device needs metrics of different names, not {self.metrics}")
        own, policy = sorted_parameters(parameters, DeviceParameters)
        width = len(self.metrics)
        most = min(own.history_readings_most, max(detector.CELLS_MOST // width, 1))
        history = RefitHistory(most, width)
        super().__init__(SeriesKey.of_device(device_id), own, policy, window.empty(width), history)
        self._names = {"device_id": device_id, "metrics": self.metrics}

    def predict(
        self, row: Mapping[str, float | None], timestamp: Timestamp | None = None
    ) -> dict[str, Any]:
        """Score a row as if it were the next row; no state changes.

        The default timestamp is a typical pause after the newest row.
        """
        return self._predict(self._row(row), timestamp)

    def observe(self, row: Mapping[str, float | None], timestamp: Timestamp) -> dict[str, Any]:
        """Score the next row, and move the window."""
        return self._observe(self._row(row), timestamp)

    def observe_many(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Score the next n rows: arrays [n] of the answers of `observe`, to the bit.

        `data` is as for `train`; `shares` is [n, metrics]. If a row has a `metric_name`, the
        expected value and its band belong to that metric.
        """
        return self._observe_many(*self._rows(data, ValueError))

    def _rows(self, data: Mapping[str, Any], refusal: type[Exception]) -> tuple[Ints, Floats]:
        times = micros(data["timestamp"])
        if not any(metric in data for metric in self.metrics):
            raise refusal(f"none of the metrics {', '.join(self.metrics)} is in the data")
        nothing = np.full(len(times), np.nan)
        columns = [np.asarray(data.get(name, nothing), np.float64) for name in self.metrics]
        for metric, column in zip(self.metrics, columns, strict=True):
            if times.shape != column.shape or column.ndim != 1:
                shapes = f"{times.shape} for values of {metric} of shape {column.shape}"
                raise refusal(f"timestamps of shape {shapes}; both must be [n]")
        return times, np.column_stack(columns)

    def _row(self, row: Mapping[str, float | None]) -> Floats:
        given = [row.get(metric) for metric in self.metrics]
        return np.array([[np.nan if value is None else float(value) for value in given]])

    @property
    def _window_metrics(self) -> tuple[str, ...]:
        """Metrics that the window holds."""
        return self._serving.model.metrics if self._serving else self.metrics

    @property
    def _places(self) -> list[int]:
        return [self.metrics.index(metric) for metric in self._window_metrics]

    def _serve(self, serving: Served | None, figures: dict[str, Any]) -> None:
        before = self._window_metrics
        super()._serve(serving, figures)
        if self._window_metrics != before:
            self._state = window.rearranged(self._state, before, self._window_metrics)

    def _learner(self, **own: Any) -> DeviceLearner:  # noqa: ANN401 - fields of `Learner`
        # Loads scikit-learn, which scoring does without
        from insa_anomaly.core.device.training import DeviceLearner  # noqa: PLC0415

        return DeviceLearner(device_id=self.device_id, metrics=self.metrics, **own)

    def _advance(self, times: Ints, values: Floats) -> tuple[Floats, DeviceResults]:
        rows, parameters = (times, values[:, self._places], self.policy), self.parameters
        if len(times) != 1:
            return detector.advance(self._state, self._serving, *rows, parameters=parameters)
        states, serving = [self._state], [self._serving]
        states, results = batch.advance_each(states, serving, *rows, parameters=parameters)
        return states[0], results

    def _expectation(
        self, results: DeviceResults, serving: Served | None
    ) -> dict[str, npt.NDArray[Any]]:
        metrics = serving.model.metrics if serving else self.metrics
        metric, row = results.metric, np.arange(len(results.score))
        shares = np.zeros((len(row), len(self.metrics)))
        shares[:, [self.metrics.index(one) for one in metrics]] = results.shares
        own = {"metric_name": np.array([*metrics, ""])[metric]}
        for name, column in super()._expectation(results, serving).items():
            own[name] = np.where(metric >= 0, column[row, metric], np.nan)
        return own | {"shares": shares}

    def _plain(self, cell: Any) -> Any:  # noqa: ANN401 - of any column
        return dict(zip(self.metrics, cell.tolist(), strict=True)) if cell.ndim else cell.item()

    def _reasons(self, results: DeviceResults, values: Floats, serving: Served) -> list[Reason]:
        row = values[0, [self.metrics.index(metric) for metric in serving.model.metrics]]
        return detector.reasons(results, 0, row, serving.model)

    def _alarming(self, results: DeviceResults) -> Bools:
        return results.episode_readings > 0

    def _saved(self) -> dict[str, npt.NDArray[Any] | bytes]:
        return {
            "about": msgspec.json.encode(self._names | {"figures": self._figures}),
            "model": self._serving.model.to_bytes() if self._serving else b"",
            "state": self._state,
            "history": self._history.to_bytes(),
        }

    def _load(self, path: Path) -> None:
        packed, model, state, history = read_arrays(path, "about", "model", "state", "history")
        about = decoded(path, packed)
        if (about["device_id"], tuple(about["metrics"])) != (self.device_id, self.metrics):
            held = f"{about['device_id']} with the metrics {', '.join(about['metrics'])}"
            raise ModelFileError(f"{path} holds the model of {held}")
        serving = Served(DeviceModel.from_bytes(model.tobytes())) if model.size else None
        if state.shape != (window.width(len(serving.model.metrics if serving else self.metrics)),):
            raise ModelFileError(f"{path} {ANOTHER_FORM}")
        self._history.read(history.tobytes())
        self._serve(serving, about["figures"])
        self._state = state
