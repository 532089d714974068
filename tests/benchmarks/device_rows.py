"""Rows of devices: a row for each of many devices at once, beside a device after another."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import numpy as np

from insa_anomaly.core.device import detector, window
from insa_anomaly.core.device.batch import advance_each
from insa_anomaly.core.device.detector import DeviceModel, DeviceParameters, DeviceResults, Served
from insa_anomaly.core.device.training import DeviceLearner
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.scoring.forest import Arena
from insa_anomaly.core.units import Floats, Ints
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.runtime.fleet.devices import Devices, DeviceTerms
from insa_anomaly.runtime.fleet.registry import Registry
from tests.benchmarks.figure import Figure
from tests.benchmarks.scoring import cycling, in_turn, timed
from tests.benchmarks.signals import MINUTE

DEVICES = 100
METRICS = tuple(f"m{j}" for j in range(8))
_KINDS = 4
_PARAMETERS, _POLICY = DeviceParameters(), Policy()


def history(kind: int, rows: int, until: int) -> tuple[Ints, Floats]:
    """Return times and values [rows, 8] of a kind of device, a row a minute up to `until`.

    A load drives all metrics, each adds its noise.
    """
    random = np.random.default_rng(kind)
    load = np.sin(np.arange(rows) / 30 + kind)[:, None] * random.uniform(0.5, 2.0, len(METRICS))
    return until - MINUTE * np.arange(rows, 0, -1), 20 + load + random.normal(0, 0.3, load.shape)


def learnt(kind: int, now: int, rows: int = 2000) -> DeviceModel:
    """Return a model of a kind of device."""
    times, values = history(kind, rows, now)
    return (
        DeviceLearner(
            device_id=f"device-{kind}",
            metrics=METRICS,
            id=str(UUID(int=kind + 1)),
            version=1,
            parameters=_PARAMETERS,
            policy=_POLICY,
        )
        .fit(times, values)
        .model
    )


@dataclass(frozen=True)
class DeviceRig:
    """Devices with full windows, and the next row of each."""

    served: list[Served]
    states: list[Floats]
    times: Ints
    values: Floats

    @classmethod
    def built(cls, models: list[DeviceModel], now: int, devices: int = DEVICES) -> "DeviceRig":
        """Build devices with full windows and the models in turn, each in its own memory."""
        arena = Arena(devices, _PARAMETERS.n_estimators)
        served = [Served(models[i % len(models)], arena, i) for i in range(devices)]
        rows = [history(i % len(models), 200, now) for i in range(devices)]
        states = [
            _warm(one, times, values) for one, (times, values) in zip(served, rows, strict=True)
        ]
        return cls(
            served,
            states,
            np.array([times[-1] for times, _ in rows]),
            np.stack([values[-1] for _, values in rows]),
        )

    def together(self) -> object:
        """Advance all devices by a row at once."""
        return advance_each(
            self.states,
            self.served,
            self.times,
            self.values,
            policy=_POLICY,
            parameters=_PARAMETERS,
        )

    def alone(self, i: int) -> object:
        """Advance a single device by a row."""
        own = slice(i, i + 1)
        return _advanced(self.states[i], self.served[i], self.times[own], self.values[own])


def _warm(served: Served, times: Ints, values: Floats) -> Floats:
    state = window.empty(len(METRICS))
    return _advanced(state, served, times[:-1], values[:-1])[0]


def _advanced(
    state: Floats, served: Served, times: Ints, values: Floats
) -> tuple[Floats, DeviceResults]:
    return detector.advance(state, served, times, values, policy=_POLICY, parameters=_PARAMETERS)


def device_rows(rig: DeviceRig, seconds: float) -> Figure:
    """Measure rows of many devices of 8 metrics at once; the baseline takes device after device."""
    mine, baseline = in_turn(
        rig.together, cycling(lambda i: rig.alone(i % len(rig.states))), seconds
    )
    return Figure.less_is_better(
        "device_rows", mine / len(rig.states) * 1e6, "us/row", baseline * 1e6
    )


def stream_seconds(model: DeviceModel, now: int, devices: int, seconds: float) -> float:
    """Return the seconds of a row in the daemon, from readings to findings.

    The batches hold a row for each device.
    """
    capacity = devices * (len(METRICS) + 1)
    registry = Registry(capacity)
    fleet = Devices(registry, _POLICY, DeviceTerms(), Arena(capacity, _PARAMETERS.n_estimators))
    key = np.array(
        [
            registry.index_of(SeriesKey(f"d{i}", metric))
            for i in range(devices)
            for metric in METRICS
        ],
        np.int32,
    )
    for i in range(devices):
        fleet.swap(SeriesKey.of_device(f"d{i}"), model)
    times, values = history(0, 2000, now)
    step = cycling(_taking(fleet, registry, key, times, np.tile(values, devices)))
    for _ in range(100):
        step()
    return timed(step, seconds, most=len(times) - 100) / devices


def _taking(
    fleet: Devices,
    registry: Registry,
    key: np.typing.NDArray[np.int32],
    times: Ints,
    values: Floats,
) -> Callable[[int], object]:
    nothing = np.zeros(len(key), np.int16)

    def take(i: int) -> object:
        when = np.full(len(key), times[i])
        return list(
            fleet.advance(
                Telemetry(
                    keys=registry.keys,
                    key=key,
                    timestamp=when,
                    discriminator=np.zeros_like(when),
                    value=values[i],
                    quality=nothing,
                    flags=nothing,
                )
            ).findings()
        )

    return take


def figure(now: int, seconds: float, say: Callable[[str], None]) -> Figure:
    """Measure the figure, and report the cost of a row in the daemon's own path."""
    say("training device models of 8 metrics")
    models = [learnt(kind, now) for kind in range(_KINDS)]
    for devices in (1, 5, 20, 100):
        say(
            f"a row each of {devices} devices, readings to findings: "
            f"{1e6 * stream_seconds(models[0], now, devices, 2.0):.0f} us a row"
        )
    return device_rows(DeviceRig.built(models, now), seconds)
