"""Every series with its state and its model, as matrices: one row a series, its number in the registry."""

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core import features
from insa_anomaly.core.detector import THRESHOLD, Model, Models, Parameters, Results, advance, foresee
from insa_anomaly.core.device import METRIC_NAME
from insa_anomaly.core.event import Reason
from insa_anomaly.core.reasons import reasons
from insa_anomaly.core.verdict import Policy
from insa_anomaly.ports import SeriesKey, Telemetry
from insa_anomaly.runtime.devices import Devices, DeviceTerms
from insa_anomaly.runtime.feed import Registry
from insa_anomaly.runtime.shadows import KeptShadow, Shadows

ROWS_AT_ONCE = 256


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """The checkpoint of one series."""

    model_id: str | None
    state: bytes
    threshold: float | None = None
    shadow: KeptShadow | None = None


@dataclass(frozen=True)
class Window:
    """A series at one moment: its number, a copy of its state [1, features.STATE_WIDTH], and id and version of its model, if any."""

    number: int
    state: npt.NDArray[np.float64]
    model: tuple[str, int] | None


class Fleet:
    """States and models of all series. One thread, the score reader's, changes it; any thread may look."""

    def __init__(self, registry: Registry, parameters: Parameters, policy: Policy, terms: DeviceTerms | None = None) -> None:
        self.registry, self._parameters, self._policy = registry, parameters, policy
        self._models = Models(registry.capacity, parameters.n_estimators)
        self.devices = Devices(registry, policy, terms or DeviceTerms(), self._models.arena)
        self.shadows = Shadows(registry.capacity, parameters, policy)
        self._states = features.empty(ROWS_AT_ONCE)
        self._moved = np.zeros(ROWS_AT_ONCE, bool)
        self.with_model = np.zeros(registry.capacity, bool)
        self.model: dict[int, tuple[str, int]] = {}  # number -> id and version
        self._set_thresholds: dict[int, float] = {}
        self._changing = Lock()  # held for moments: while rows are written, and while one is copied

    def advance(self, telemetry: Telemetry, muted: npt.NDArray[np.bool_] | None = None) -> Results:
        """Score the readings in order and move the states of their series; those that are `muted` open no episode."""
        numbers, which = np.unique(telemetry.key, return_inverse=True)
        self._grow(int(numbers[-1]) + 1 if len(numbers) else 0)
        rows = np.where(self.with_model[telemetry.key], telemetry.key, -1)
        states, results = advance(
            self._states[numbers], which, self._models, rows, telemetry.value, telemetry.timestamp, telemetry.discriminator,
            telemetry.quality, self._policy, self._parameters, muted,
        )  # fmt: skip
        with self._changing:
            self._states[numbers] = states
        self._moved[numbers] = True
        self.shadows.follow(telemetry, results, muted)
        return results

    def turn_back(self, keys: npt.NDArray[np.int32], latest: float) -> None:
        """Of these series, begin the windows anew that are ahead of `latest` (microseconds): the clock was set back since."""
        numbers = keys[keys < len(self._states)]
        ahead = numbers[self._states[numbers, features.LAST] > latest]  # of a series with several readings, several times
        if len(ahead):
            with self._changing:
                self._states[ahead, features.TIMES] = -np.inf
                self._states[ahead, features.FIRST] = np.minimum(self._states[ahead, features.FIRST], latest)
            self._moved[ahead] = True
        self.devices.turn_back(keys, latest)

    @property
    def series(self) -> int:
        """How many series are known; devices, which have a number too, are none."""
        return sum(metric != METRIC_NAME for _, metric in self.registry.keys)

    @property
    def serving(self) -> dict[SeriesKey, str]:
        """Id of the model of every series and device that has one."""
        return {self.registry.keys[number]: one[0] for number, one in self.model.items()} | self.devices.models

    def look(self, key: SeriesKey) -> Window | None:
        """The series as it is between two batches; None where it was never seen."""
        number = self.registry.known(key)
        if number is None:
            return None
        with self._changing:
            state = self._states[number : number + 1].copy() if number < len(self._states) else features.empty(1)
            return Window(number, state, self.model.get(number))

    def foresee(self, window: Window, values: npt.NDArray[np.float64]) -> Results | None:
        """What each of these values would be as the next reading of the series, one usual pause after the newest.

        None where its model was swapped meanwhile: what was computed is then of neither.
        """
        results = foresee(window.state, self._models, window.number, values)
        with self._changing:
            return results if self.model.get(window.number) == window.model else None

    def swap(self, key: SeriesKey, model: Model | None, threshold: float | None = None) -> None:
        """Give the series this model, or none; `threshold` is one set by hand."""
        number = self.registry.number(key)
        if number < 0:
            return
        self._grow(number + 1)
        self._moved[number] = True
        if model is not None and self.model.get(number, (model.id,))[0] != model.id:
            self.shadows.served_by_another(number)
        with self._changing:
            self._set_thresholds.pop(number, None)
            if model is None:
                self._models.remove(number)
                self.model.pop(number, None)
            else:
                self._models.put(number, model)
                self.model[number] = (model.id, model.version)
                if threshold is not None:
                    self._models.numbers[number, THRESHOLD] = self._set_thresholds[number] = threshold
            self.with_model[number] = model is not None

    def shadow(self, key: SeriesKey, model: Model | None, kept: KeptShadow | None = None) -> None:
        """Let this version score the series along, or none; from where its checkpoint ended, else from the series' own window."""
        number = self.registry.number(key)
        if number < 0:
            return
        self._grow(number + 1)
        self._moved[number] = True
        if model is None:
            self.shadows.remove(number)
        elif kept is None:
            self.shadows.put(number, model, self._states[number])
        else:
            self.shadows.put(number, model, np.frombuffer(kept.state, np.float64), kept.tally)

    def reasons(self, number: int, results: Results, i: int) -> list[Reason]:
        """Why reading i of the results, which belongs to series `number`, stands out."""
        return reasons(self._models, number, results, i)

    def moved(self) -> dict[SeriesKey, bytes]:
        """Checkpoints of the series and devices that moved since the last call."""
        numbers = np.flatnonzero(self._moved)
        self._moved[numbers] = False
        return {self.registry.keys[number]: self._kept(int(number)) for number in numbers} | self.devices.moved()

    def not_kept(self, keys: Iterable[SeriesKey]) -> None:
        """These moved after all: their checkpoint could not be written."""
        for key in keys:
            self._moved[self.registry.number(key)] = True

    def restore(self, kept: Iterable[tuple[SeriesKey, Kept]]) -> None:
        """Take states from checkpoints, as many as there is room for; models are given by `swap`."""
        for key, one in kept:
            number = self.registry.number(key)
            if number >= 0:
                self._grow(number + 1)
                self._states[number] = np.frombuffer(one.state, np.float64)

    def _kept(self, number: int) -> bytes:
        model_id, _ = self.model.get(number, (None, 0))
        kept = Kept(model_id, self._states[number].tobytes(), self._set_thresholds.get(number), self.shadows.kept(number))
        return msgspec.msgpack.encode(kept)

    def _grow(self, least: int) -> None:
        have = len(self._states)
        if least > have:
            more = max(least, 2 * have) - have
            with self._changing:
                self._states = np.concatenate([self._states, features.empty(more)])
            self._moved = np.concatenate([self._moved, np.zeros(more, bool)])


def due(results: Results, telemetry: Telemetry) -> npt.NDArray[np.int32]:
    """Numbers of the series that ask for training."""
    return np.unique(telemetry.key[results.refit_due]) if results.refit_due.any() else np.zeros(0, np.int32)
