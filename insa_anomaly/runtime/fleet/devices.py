"""Devices with a model of all their metrics: readings become rows, complete rows are scored.

A row is scored with the reading that completes it, so results are a function of the log alone. Rows
of different devices are scored together where they can be (`core.device.batch`). A device without a
model costs no time here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core.device import alignment, batch, detector, window
from insa_anomaly.core.device.alignment import Aligned
from insa_anomaly.core.device.detector import DeviceModel, DeviceParameters, DeviceResults, Served
from insa_anomaly.core.notification.event import NO_MODEL, Anomaly, Transition
from insa_anomaly.core.reading.reading import Flag, Quality
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.scoring.forest import Arena
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.units import Floats, Ints
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.runtime.detections import Detection, ScoredReading, anomaly, detection, noteworthy
from insa_anomaly.runtime.fleet.registry import Registry
from insa_anomaly.runtime.fleet.shadows import KeptShadow

_MOVED = (Status.COLLECTING, Status.WARMING, Status.SCORED)
_HISTORICAL = int(Flag.HISTORICAL)
_ALONE = 1.6  # what it costs to score a device by itself, in rounds of a row of each


class KeptDevice(msgspec.Struct, frozen=True, array_like=True):
    """The checkpoint of a device."""

    model_id: str | None
    metrics: tuple[str, ...]
    rows: bytes  # what waits for the rest of its row
    state: bytes


class Restored(NamedTuple):
    """The model that served a series or device at its checkpoint, to be served again."""

    key: SeriesKey
    model_id: str | None
    threshold: float | None = None
    shadow: KeptShadow | None = None


@dataclass(frozen=True)
class DeviceTerms:
    """Parameters by which devices are scored."""

    parameters: DeviceParameters = field(default_factory=DeviceParameters)
    tolerance: float = 1.0  # seconds between readings that belong together

    @property
    def tolerance_micros(self) -> float:
        """The tolerance in microseconds."""
        return self.tolerance * 1e6


@dataclass
class _Device:
    """A device with its window, its model and its waiting readings."""

    key: SeriesKey
    metrics: tuple[str, ...]
    served: Served | None
    rows: Floats
    state: Floats
    moved: bool = True


@dataclass(frozen=True)
class _Completed:
    """Rows of a device that a batch completed."""

    device: _Device
    at: Ints  # places of all its readings in the batch
    rows: Aligned  # `at` is the place in the batch

    def __len__(self) -> int:
        return len(self.rows.times)


class RowOf(NamedTuple):
    """Owner of a row, and the model that scored it."""

    key: SeriesKey
    model: DeviceModel | None


@dataclass(frozen=True)
class ScoredRows:
    """Rows scored together: of a device, or one of each of several with equally many metrics."""

    of: list[RowOf]
    rows: Aligned  # `at` is the place in the batch
    results: DeviceResults


@dataclass(frozen=True)
class DeviceOutcome:
    """Results of the devices for a batch of n readings."""

    scored: list[ScoredRows]
    episodes: Ints  # [n] start of the open episode of the device, microseconds, or 0

    @property
    def due(self) -> list[SeriesKey]:
        """Devices that are due for training."""
        found: dict[SeriesKey, None] = {}
        for one in self.scored:
            rows = np.flatnonzero(one.results.refit_due).tolist()
            found |= dict.fromkeys(one.of[i].key for i in rows)
        return list(found)

    def findings(self) -> Iterator[Detection]:
        """Yield the detections in the rows."""
        for one in self.scored:
            for i in noteworthy(one.results):
                yield detection(int(one.rows.at[i]), _anomaly(one, i), one.results, i)


class Devices:
    """States and models of devices; only the score reader's thread uses it."""

    def __init__(
        self, registry: Registry, policy: Policy, terms: DeviceTerms, arena: Arena | None = None
    ) -> None:
        """Prepare without devices.

        `arena` has room for a forest at the index of every device in the registry, where devices of
        a batch are scored together.
        """
        self._registry = registry
        self._policy = policy
        self._parameters = terms.parameters
        self._tolerance = terms.tolerance_micros
        self._arena = arena
        self._all: list[_Device] = []
        self._places: dict[str, int] = {}
        # Of every series number: the place of its device, -1 where that is unknown here, and its
        # column in the device's rows, -1 where it has none.
        self._device = self._column = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def models(self) -> dict[SeriesKey, str]:
        """Id of the model of every device with a model."""
        return {one.key: one.served.model.id for one in self._all if one.served}

    def swap(self, key: SeriesKey, model: DeviceModel | None) -> None:
        """Serve the device with this model, or with none: its window and an open episode stay.

        A device takes a place in the registry, as a series does, because that bounds the memory of
        models; without a place it is not served.
        """
        index = self._registry.index_of(key)
        if index < 0:
            return
        place = self._places.get(key.device_id)
        served = Served(model, self._arena, index) if model else None
        if place is None and model is not None:
            rows, state = alignment.empty(len(model.metrics)), window.empty(len(model.metrics))
            self._add(_Device(key, model.metrics, served, rows, state))
        elif place is not None:
            one = self._all[place]
            one.served, one.moved = served, True
            if model and model.metrics != one.metrics:
                one.rows = alignment.rearranged(one.rows, one.metrics, model.metrics)
                one.state = window.rearranged(one.state, one.metrics, model.metrics)
                one.metrics = model.metrics
                self._forget_indices()

    def restore(self, key: SeriesKey, data: bytes) -> Restored:
        """Take a device from its checkpoint if there is room, and return the model to serve."""
        kept = msgspec.msgpack.decode(data, type=KeptDevice)
        if self._registry.index_of(key) >= 0:
            rows, state = (np.frombuffer(one, np.float64) for one in (kept.rows, kept.state))
            self._add(_Device(key, kept.metrics, None, rows, state, moved=False))
        return Restored(key, kept.model_id)

    def moved(self) -> dict[SeriesKey, bytes]:
        """Checkpoints of the devices that moved since the last call."""
        out = {one.key: _kept(one) for one in self._all if one.moved}
        for one in self._all:
            one.moved = False
        return out

    def not_kept(self, key: SeriesKey) -> None:
        """Mark the device as moved again: its checkpoint could not be written."""
        self._all[self._places[key.device_id]].moved = True

    def advance(self, telemetry: Telemetry) -> DeviceOutcome:
        """Take the readings in order, and score the rows that they complete."""
        outcome = DeviceOutcome([], np.zeros(len(telemetry.value), np.int64))
        if self._all:
            self._learn_indices()
            groups: dict[int, list[_Completed]] = {}
            for one in self._taken(telemetry, outcome):
                groups.setdefault(len(one.device.metrics), []).append(one)
            for group in groups.values():
                self._score(group, outcome)
        return outcome

    def turn_back(self, keys: npt.NDArray[np.int32], latest: float) -> None:
        """Reset windows ahead of `latest` (microseconds): the system clock was moved back."""
        if not self._all:
            return
        self._learn_indices()
        places = np.unique(self._device[keys])
        for one in (self._all[place] for place in places[places >= 0].tolist()):
            if max(one.state[window.LAST], alignment.newest(one.rows)) > latest:
                state = one.state.copy()
                state[window.TIMES] = -np.inf
                one.rows, one.state, one.moved = alignment.empty(len(one.metrics)), state, True

    def _taken(self, telemetry: Telemetry, outcome: DeviceOutcome) -> Iterator[_Completed]:
        """Take the readings device by device; yield the rows that they complete."""
        devices = self._device[telemetry.key]
        mine = np.flatnonzero(devices >= 0)
        mine = mine[np.argsort(devices[mine], kind="stable")]
        if not len(mine):
            return
        owners = devices[mine]
        edges = np.flatnonzero(np.concatenate(([True], owners[1:] != owners[:-1], [True])))
        good = (
            (self._column[telemetry.key[mine]] >= 0)
            & (telemetry.quality[mine] == Quality.GOOD)
            & np.isfinite(telemetry.value[mine])
        )
        taken, cuts = mine[good], np.concatenate(([0], np.cumsum(good)))[edges].tolist()
        columns = self._column[telemetry.key[taken]]
        times, values = telemetry.timestamp[taken], telemetry.value[taken]
        historical = (telemetry.flags[taken] & _HISTORICAL) > 0
        spans = zip(pairwise(edges.tolist()), pairwise(cuts), strict=True)
        for (begin, end), (first, last) in spans:
            one, at, own = self._all[devices[mine[begin]]], mine[begin:end], slice(first, last)
            readings = columns[own], times[own], values[own], historical[own]
            one.rows, rows = alignment.align(one.rows, *readings, tolerance=self._tolerance)
            one.moved = True
            if standing := _standing(one.state):
                outcome.episodes[at] = standing
            if len(rows.times):
                yield _Completed(one, at, replace(rows, at=taken[own][rows.at]))

    def _score(self, group: list[_Completed], outcome: DeviceOutcome) -> None:
        """Score rows of devices with equally many metrics.

        The first rows of all devices go together, then the second rows, and so on; a device with
        many more rows than the others goes by itself.
        """
        group = sorted(group, key=len)
        rounds = [len(one) - _ALONE * (i + 1) for i, one in enumerate(group)]
        together = rounds.index(min(rounds)) + 1 if min(rounds) < 0 else 0
        for i in range(len(group[together - 1]) if together else 0):
            self._score_each([one for one in group[:together] if len(one) > i], i, outcome)
        for one in group[together:]:
            self._score_all(one, outcome)

    def _score_each(self, group: list[_Completed], i: int, outcome: DeviceOutcome) -> None:
        """Score row i of each device."""
        own = slice(i, i + 1)
        columns = zip(*(vars(one.rows).values() for one in group), strict=True)
        rows = Aligned(*(np.concatenate([part[own] for part in column]) for column in columns))
        devices = [one.device for one in group]
        states, served = [one.state for one in devices], [one.served for one in devices]
        states, results = batch.advance_each(
            states, served, rows.times, rows.values, self._policy, parameters=self._parameters
        )
        outcome.scored.append(ScoredRows([_row_of(one) for one in devices], rows, results))
        for device_, state in zip(devices, states, strict=True):
            device_.state = state
        for j in np.flatnonzero(results.transition).tolist():
            at = group[j].at
            outcome.episodes[at[at >= rows.at[j]]] = _standing(states[j])

    def _score_all(self, one: _Completed, outcome: DeviceOutcome) -> None:
        """Score all rows of a device."""
        device_, rows = one.device, one.rows
        state, served, before = device_.state, device_.served, _standing(device_.state)
        device_.state, results = detector.advance(
            state, served, rows.times, rows.values, self._policy, parameters=self._parameters
        )
        outcome.scored.append(ScoredRows([_row_of(device_)] * len(one), rows, results))
        rows_before = np.searchsorted(rows.at, one.at, side="right")
        outcome.episodes[one.at] = _open_after(before, results)[rows_before]

    def _add(self, one: _Device) -> None:
        self._places[one.key.device_id] = len(self._all)
        self._all.append(one)
        self._forget_indices()

    def _forget_indices(self) -> None:
        self._device = self._column = np.zeros(0, np.int64)

    def _learn_indices(self) -> None:
        """Assign the series that are new since the last call to their devices."""
        new = [self._placed(key) for key in self._registry.keys[len(self._device) :]]
        if new:
            devices, columns = np.array(new, np.int64).T
            self._device = np.concatenate((self._device, devices))
            self._column = np.concatenate((self._column, columns))

    def _placed(self, key: SeriesKey) -> tuple[int, int]:
        place = self._places.get(key.device_id, -1)
        metrics = self._all[place].metrics if place >= 0 else ()
        return place, metrics.index(key.metric_name) if key.metric_name in metrics else -1


def _kept(one: _Device) -> bytes:
    model_id = one.served.model.id if one.served else None
    return msgspec.msgpack.encode(
        KeptDevice(model_id, one.metrics, one.rows.tobytes(), one.state.tobytes())
    )


def _row_of(one: _Device) -> RowOf:
    return RowOf(one.key, one.served.model if one.served else None)


def _standing(state: Floats) -> int:
    started, readings = state[window.EPISODE.start : window.EPISODE.start + 2].tolist()
    return int(started) if readings else 0


def _open_after(before: int, results: DeviceResults) -> Ints:
    """Return the start of the open episode before the first row and after each [k + 1], or 0."""
    is_open = (results.episode_readings > 0) & (results.transition != Transition.CLOSED)
    after = np.concatenate(([before], np.where(is_open, results.episode_started, 0)))
    moved = np.concatenate(([True], np.isin(results.status, _MOVED)))
    newest = np.maximum.accumulate(np.where(moved, np.arange(len(after)), 0))
    return np.asarray(after[newest], np.int64)


def _anomaly(one: ScoredRows, i: int) -> Anomaly:
    """Return the row as an anomaly with the value of the metric that has the largest share."""
    values, results, (key, model) = one.rows.values[i], one.results, one.of[i]
    shares = results.shares[i]
    metric = int((shares if shares.any() else np.isfinite(values)).argmax())
    row = ScoredReading(
        key,
        int(one.rows.times[i]),
        int(window.discriminators(values[None])[0]),
        float(values[metric]),
        historical=bool(one.rows.historical[i]),
        model=(model.id, model.version) if model else (NO_MODEL, 0),
    )
    anomalous = results.score[i] < 0
    reasons = detector.reasons(results, i, values, model) if model and anomalous else []
    return anomaly(row, results, i, reasons, metric=metric)
