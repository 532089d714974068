"""Every series with its state and its model, as matrices: a row for each series, by its index."""

from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core.device.detector import DeviceModel
from insa_anomaly.core.layout import StateRows
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.event import Reason
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.scoring.forest import Allocator
from insa_anomaly.core.series import features
from insa_anomaly.core.series.detector import THRESHOLD, Model, Results, advance
from insa_anomaly.core.series.reasons import reasons
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.runtime.fleet.devices import Devices, DeviceTerms, Restored
from insa_anomaly.runtime.fleet.registry import Registry
from insa_anomaly.runtime.fleet.shadows import KeptShadow, Shadows, readings_of
from insa_anomaly.runtime.fleet.shared_windows import SharedWindows


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """The checkpoint of a series."""

    model_id: str | None
    state: bytes
    threshold: float | None = None
    shadow: KeptShadow | None = None


class Fleet:
    """States and models of all series.

    Only the score reader's thread changes them; any thread may read the shared windows.
    """

    def __init__(
        self,
        registry: Registry,
        parameters: Parameters,
        policy: Policy,
        terms: DeviceTerms | None = None,
        zeros: Allocator = np.zeros,
    ) -> None:
        self.registry = registry
        self._parameters = parameters
        self._policy = policy
        self.windows = SharedWindows(registry.capacity, parameters.n_estimators, zeros)
        self._models = self.windows.models
        self._states = self.windows.states
        self.devices = Devices(registry, policy, terms or DeviceTerms(), self._models.arena)
        self.shadows = Shadows(registry.capacity, parameters, policy)
        self._known = 0  # rows in use
        self._moved = np.zeros(registry.capacity, bool)
        self.with_model = np.zeros(registry.capacity, bool)
        self.model: dict[int, tuple[str, int]] = {}  # number -> id and version
        self._set_thresholds: dict[int, float] = {}

    def advance(self, telemetry: Telemetry, muted: npt.NDArray[np.bool_] | None = None) -> Results:
        """Score the readings in order and move the states; `muted` readings open no episode."""
        indices, which = np.unique(telemetry.key, return_inverse=True)
        self._grow(int(indices[-1]) + 1 if len(indices) else 0)
        rows = np.where(self.with_model[telemetry.key], telemetry.key, -1)
        batch = readings_of(telemetry, slice(None), series=which, models=rows, muted=muted)
        states, results = advance(
            StateRows(self._states[indices]), batch, self._models, self._policy, self._parameters
        )
        with self.windows.changing(indices):
            self._states[indices] = states
        self._moved[indices] = True
        self.shadows.follow(telemetry, results, muted)
        return results

    def turn_back(self, keys: npt.NDArray[np.int32], latest: float) -> None:
        """Reset windows ahead of `latest` (microseconds): the system clock was moved back."""
        indices = np.unique(keys[keys < self._known])
        ahead = indices[self._states[indices, features.LAST] > latest]
        if len(ahead):
            with self.windows.changing(ahead):
                self._states[ahead, features.TIMES] = -np.inf
                first = self._states[ahead, features.FIRST]
                self._states[ahead, features.FIRST] = np.minimum(first, latest)
            self._moved[ahead] = True
        self.devices.turn_back(keys, latest)

    @property
    def series(self) -> int:
        """Number of known series, without devices, which have an index too."""
        return sum(not key.is_device for key in self.registry.keys)

    @property
    def serving(self) -> dict[SeriesKey, str]:
        """Id of the model of every series and device with a model."""
        series = {self.registry.keys[index]: one[0] for index, one in self.model.items()}
        return series | self.devices.models

    def swap(
        self, key: SeriesKey, model: Model | DeviceModel | None, threshold: float | None = None
    ) -> None:
        """Serve the series or device with this model, or with none.

        `threshold` was set by hand. Raises ValueError if a model of a series has too many trees.
        """
        if key.is_device:
            self.devices.swap(key, model if isinstance(model, DeviceModel) else None)
        else:
            self._swap(key, model if isinstance(model, Model) else None, threshold)

    def _swap(self, key: SeriesKey, model: Model | None, threshold: float | None) -> None:
        index = self.registry.index_of(key)
        if index < 0:
            return
        self._grow(index + 1)
        self._moved[index] = True
        if model is not None and self.model.get(index, (model.id,))[0] != model.id:
            self.shadows.served_by_another(index)
        with self.windows.changing(index):
            self.windows.put(index, model)
            self._set_thresholds.pop(index, None)
            if model is None:
                self.model.pop(index, None)
            else:
                self.model[index] = (model.id, model.version)
                if threshold is not None:
                    self._models.learnt[index, THRESHOLD] = self._set_thresholds[index] = threshold
            self.with_model[index] = model is not None

    def shadow(
        self, key: SeriesKey, model: Model | DeviceModel | None, kept: KeptShadow | None = None
    ) -> None:
        """Score the series with this version too, or with none; a device has no shadow.

        The shadow continues from its checkpoint, else from the window of the series.
        """
        index = self.registry.index_of(key)
        if index < 0:
            return
        self._grow(index + 1)
        self._moved[index] = True
        if not isinstance(model, Model):
            self.shadows.remove(index)
        elif kept is None:
            self.shadows.put(index, model, self._states[index])
        else:
            self.shadows.put(index, model, np.frombuffer(kept.state, np.float64), kept.tally)

    def reasons(self, index: int, results: Results, i: int) -> list[Reason]:
        """Return the reasons for result i, a reading of series `index`."""
        return reasons(self._models, index, results, i)

    def moved(self) -> dict[SeriesKey, bytes]:
        """Return checkpoints of the series and devices that moved since the last call."""
        indices = np.flatnonzero(self._moved)
        self._moved[indices] = False
        series = {self.registry.keys[index]: self._kept(index) for index in indices.tolist()}
        return series | self.devices.moved()

    def not_kept(self, keys: Iterable[SeriesKey]) -> None:
        """Mark series as moved again: their checkpoint could not be written."""
        for key in keys:
            if key.is_device:
                self.devices.not_kept(key)
            else:
                self._moved[self.registry.index_of(key)] = True

    def restore(self, kept: Mapping[SeriesKey, bytes]) -> list[Restored]:
        """Take states from checkpoints, as many as there is room for: of series, then of devices.

        Returns the models to serve by `swap`.
        """
        return [
            self.devices.restore(key, kept[key]) if key.is_device else self._restore(key, kept[key])
            for key in sorted(kept, key=lambda key: key.is_device)
        ]

    def _restore(self, key: SeriesKey, data: bytes) -> Restored:
        kept, index = msgspec.msgpack.decode(data, type=Kept), self.registry.index_of(key)
        if index >= 0:
            self._grow(index + 1)
            self._states[index] = np.frombuffer(kept.state, np.float64)
        return Restored(key, kept.model_id, kept.threshold, kept.shadow)

    def _kept(self, index: int) -> bytes:
        model_id, _ = self.model.get(index, (None, 0))
        state, threshold = self._states[index].tobytes(), self._set_thresholds.get(index)
        return msgspec.msgpack.encode(Kept(model_id, state, threshold, self.shadows.kept(index)))

    def _grow(self, least: int) -> None:
        if least > self._known:
            new = slice(self._known, least)
            with self.windows.changing(new):
                self._states[new] = features.empty(least - self._known)
            self._known = least


def due(results: Results, telemetry: Telemetry) -> npt.NDArray[np.int32]:
    """Return the indices of the series that are due for training."""
    asking = results.refit_due
    return np.unique(telemetry.key[asking]) if asking.any() else np.zeros(0, np.int32)
