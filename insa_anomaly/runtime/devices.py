"""Devices that have a model of all their metrics: the stream's readings become rows, and the rows are scored as they are complete.

A row is scored with the reading that completes it, so what is found is a function of the log alone, like all else. A device without a
model costs nothing here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core import alignment, device, device_window
from insa_anomaly.core.alignment import Aligned
from insa_anomaly.core.detector import Status
from insa_anomaly.core.device import METRIC_NAME, DeviceModel, DeviceParameters, DeviceResults, Served
from insa_anomaly.core.event import NO_MODEL, Anomaly, Transition, anomaly_id, episode_id
from insa_anomaly.core.features import Floats, Ints
from insa_anomaly.core.reading import Flag, Quality
from insa_anomaly.core.verdict import Policy
from insa_anomaly.ports import SeriesKey, Telemetry
from insa_anomaly.runtime.feed import Registry
from insa_anomaly.runtime.finding import Finding, finding

_MOVED = (Status.COLLECTING, Status.WARMING, Status.SCORED)
_HISTORICAL = int(Flag.HISTORICAL)


class KeptDevice(msgspec.Struct, frozen=True, array_like=True):
    """The checkpoint of one device."""

    model_id: str | None
    metrics: tuple[str, ...]
    rows: bytes  # what waits for the rest of its row
    state: bytes


@dataclass(frozen=True)
class DeviceTerms:
    """How devices are scored."""

    parameters: DeviceParameters = field(default_factory=DeviceParameters)
    tolerance: float = 1.0  # seconds between readings that belong together

    @property
    def tolerance_micros(self) -> float:
        """The same in microseconds."""
        return self.tolerance * 1e6


@dataclass
class _Device:
    """A device as it stands."""

    device_id: str
    metrics: tuple[str, ...]
    served: Served | None
    rows: Floats
    state: Floats
    moved: bool = True


@dataclass(frozen=True)
class ScoredRows:
    """The rows of one device that a batch completed."""

    device_id: str
    model: DeviceModel | None
    rows: Aligned  # `at` is the place in the batch
    results: DeviceResults


@dataclass(frozen=True)
class Outcome:
    """What a batch of n readings is to the devices."""

    scored: list[ScoredRows]
    episodes: Ints  # [n] when the episode of the reading's device began (microseconds), 0 where none is open

    @property
    def due(self) -> list[SeriesKey]:
        """Devices that ask for training."""
        return [(one.device_id, METRIC_NAME) for one in self.scored if one.results.refit_due.any()]

    def findings(self) -> Iterator[Finding]:
        """What was found in the rows."""
        for one in self.scored:
            anomalous = (one.results.score < 0) & (one.results.status == Status.SCORED)
            for i in np.flatnonzero(anomalous | (one.results.transition != Transition.NONE)).tolist():
                yield finding(int(one.rows.at[i]), _anomaly(one, i), one.results, i)


class Devices:
    """States and models of devices. One thread, the score reader's, uses it."""

    def __init__(self, registry: Registry, policy: Policy, terms: DeviceTerms) -> None:
        self._registry, self._policy, self._terms = registry, policy, terms
        self._all: list[_Device] = []
        self._places: dict[str, int] = {}
        self._device = np.zeros(0, np.int64)  # of every series number: the place of its device, -1 where that is unknown here
        self._column = np.zeros(0, np.int64)  # and its column in the device's rows, -1 where it has none

    def __len__(self) -> int:
        return len(self._all)

    @property
    def models(self) -> dict[SeriesKey, str]:
        """Id of the model of every device that has one."""
        return {(one.device_id, METRIC_NAME): one.served.model.id for one in self._all if one.served}

    def swap(self, device_id: str, model: DeviceModel | None) -> None:
        """Give the device this model, or none: its window stays, and so does an open episode.

        A device takes a place in the registry, as a series does, since that bounds the memory of models; without one it gets none.
        """
        if self._registry.number((device_id, METRIC_NAME)) < 0:
            return
        place = self._places.get(device_id)
        if place is None and model is not None:
            rows, state = alignment.empty(len(model.metrics)), device_window.empty(len(model.metrics))
            self._add(_Device(device_id, model.metrics, Served(model), rows, state))
        elif place is not None:
            one = self._all[place]
            one.served, one.moved = Served(model) if model else None, True
            if model and model.metrics != one.metrics:
                one.rows = alignment.rearranged(one.rows, one.metrics, model.metrics)
                one.state = device_window.rearranged(one.state, one.metrics, model.metrics)
                one.metrics = model.metrics
                self._forget_numbers()

    def restore(self, device_id: str, kept: KeptDevice, model: DeviceModel | None) -> None:
        """Take a device from its checkpoint, where there is room."""
        if self._registry.number((device_id, METRIC_NAME)) < 0:
            return
        rows, state = np.frombuffer(kept.rows, np.float64), np.frombuffer(kept.state, np.float64)
        self._add(_Device(device_id, kept.metrics, None, rows, state, moved=False))
        self.swap(device_id, model)

    def moved(self) -> dict[SeriesKey, bytes]:
        """Checkpoints of the devices that moved since the last call."""
        out = {(one.device_id, METRIC_NAME): _kept(one) for one in self._all if one.moved}
        for one in self._all:
            one.moved = False
        return out

    def advance(self, telemetry: Telemetry) -> Outcome:
        """Take the readings in order, and score the rows that they complete."""
        outcome = Outcome([], np.zeros(len(telemetry.value), np.int64))
        if self._all:
            self._learn_numbers()
            devices = self._device[telemetry.key]
            mine = np.flatnonzero(devices >= 0)
            mine = mine[np.argsort(devices[mine], kind="stable")]
            for at in np.split(mine, np.flatnonzero(np.diff(devices[mine])) + 1) if len(mine) else []:
                self._advance(self._all[devices[at[0]]], telemetry, at, outcome)
        return outcome

    def turn_back(self, keys: npt.NDArray[np.int32], latest: float) -> None:
        """Of the devices of these series, begin the windows anew that are ahead of `latest` (microseconds): the clock was set back."""
        if not self._all:
            return
        self._learn_numbers()
        places = np.unique(self._device[keys])
        for one in (self._all[place] for place in places[places >= 0].tolist()):
            if max(one.state[device_window.LAST], alignment.newest(one.rows)) > latest:
                state = one.state.copy()
                state[device_window.TIMES] = -np.inf
                one.rows, one.state, one.moved = alignment.empty(len(one.metrics)), state, True

    def _advance(self, one: _Device, telemetry: Telemetry, at: Ints, outcome: Outcome) -> None:
        """Take the readings `at` of one device."""
        column = self._column[telemetry.key[at]]
        good = at[(column >= 0) & (telemetry.quality[at] == Quality.GOOD) & np.isfinite(telemetry.value[at])]
        one.rows, aligned = alignment.align(
            one.rows,
            self._column[telemetry.key[good]],
            telemetry.timestamp[good],
            telemetry.value[good],
            (telemetry.flags[good] & _HISTORICAL) > 0,
            self._terms.tolerance_micros,
        )
        one.moved = True
        before = _standing(one.state)
        if not len(aligned.times):
            outcome.episodes[at] = before
            return
        rows = Aligned(aligned.times, aligned.values, aligned.historical, good[aligned.at])
        one.state, results = device.advance(one.state, one.served, rows.times, rows.values, self._policy, self._terms.parameters)
        outcome.scored.append(ScoredRows(one.device_id, one.served.model if one.served else None, rows, results))
        outcome.episodes[at] = _open_after(before, results)[np.searchsorted(rows.at, at, side="right")]

    def _add(self, one: _Device) -> None:
        self._places[one.device_id] = len(self._all)
        self._all.append(one)
        self._forget_numbers()

    def _forget_numbers(self) -> None:
        self._device = self._column = np.zeros(0, np.int64)

    def _learn_numbers(self) -> None:
        """Find the series that are new since the last call among the devices."""
        new = [self._placed(key) for key in self._registry.keys[len(self._device) :]]
        if new:
            devices, columns = np.array(new, np.int64).T
            self._device, self._column = np.concatenate((self._device, devices)), np.concatenate((self._column, columns))

    def _placed(self, key: SeriesKey) -> tuple[int, int]:
        place = self._places.get(key[0], -1)
        metrics = self._all[place].metrics if place >= 0 else ()
        return place, metrics.index(key[1]) if key[1] in metrics else -1


def _kept(one: _Device) -> bytes:
    model_id = one.served.model.id if one.served else None
    return msgspec.msgpack.encode(KeptDevice(model_id, one.metrics, one.rows.tobytes(), one.state.tobytes()))


def _standing(state: Floats) -> int:
    started, readings = state[device_window.EPISODE][:2].tolist()
    return int(started) if readings else 0


def _open_after(before: int, results: DeviceResults) -> Ints:
    """When the episode began that is open before the first row and after each [k + 1], 0 for none."""
    is_open = (results.episode_readings > 0) & (results.transition != Transition.CLOSED)
    after = np.concatenate(([before], np.where(is_open, results.episode_started, 0)))
    moved = np.concatenate(([True], np.isin(results.status, _MOVED)))
    newest: npt.NDArray[np.int64] = after[np.maximum.accumulate(np.where(moved, np.arange(len(after)), 0))]
    return newest


def _anomaly(one: ScoredRows, i: int) -> Anomaly:
    """The row as an anomaly: it carries the value of the metric with the largest share, and the shares as reasons."""
    values, results = one.rows.values[i], one.results
    there = np.flatnonzero(np.isfinite(values))
    metric = int(results.metric[i]) if results.metric[i] >= 0 else int(there[0])
    timestamp, score = int(one.rows.times[i]), float(results.score[i])
    discriminator = int(device_window.discriminators(values[None])[0])
    return Anomaly(
        id=anomaly_id(one.device_id, METRIC_NAME, timestamp, discriminator),
        model_id=one.model.id if one.model else NO_MODEL,
        model_version=one.model.version if one.model else 0,
        device_id=one.device_id,
        metric_name=METRIC_NAME,
        timestamp=timestamp,
        value=float(values[metric]),
        score=score,
        raw_score=float(results.raw_score[i]),
        confidence=float(results.confidence[i]),
        expected=float(results.expected[i, metric]),
        lower=float(results.lower[i, metric]),
        upper=float(results.upper[i, metric]),
        reasons=device.reasons(results, i, values, one.model) if one.model and score < 0 else [],
        historical=bool(one.rows.historical[i]),
        episode_id=episode_id(one.device_id, METRIC_NAME, int(results.episode_started[i])) if results.episode_readings[i] else None,
    )
