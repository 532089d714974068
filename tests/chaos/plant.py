"""The devices' messages under chaos: endless, equal for equal seeds, with faults to be found.

Of all messages 1 % are poison, 1 % are repeated and 1 % come out of order. Every reading has a time
of its own in its series.
"""

import heapq
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from uuid import UUID, uuid5

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.event import rfc3339
from insa_anomaly.core.reading.parser import microseconds
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.series.training import SeriesLearner, Trained

BEGIN = 1_700_000_000_000_000  # microseconds
STEP = 1_000_000
NEVER_HISTORICAL = 1e10  # seconds: old readings are alerted like new readings
DEVICES = 20
METRICS = ("temperature", "pressure")
KEYS = [SeriesKey(f"press-{number:02}", metric) for number in range(DEVICES) for metric in METRICS]
_TRAINING_ROWS = 600
_BLOCK = 256  # rows made at once
_FAULT_EVERY, _FAULT_ROWS, _QUIET_ROWS = 150, 4, 100
_LEVEL, _WAVE, _PERIOD = np.array([60.0, 5.0]), np.array([4.0, 0.3]), np.array([90.0, 35.0])
_NOISE, _SIZE = np.array([0.5, 0.05]), np.array([25.0, 3.0])
_NAMESPACE = UUID("4a3c1d84-16ce-4d62-9a0c-0d6a5d9e3c12")

Message = tuple[str, bytes]


def is_poison(message: Message) -> bool:
    """Return whether the message holds no reading."""
    return message[1].startswith(b"poison")


def time_of(message: Message) -> int:
    """Return the time of the readings, in microseconds."""
    found = microseconds(json.loads(message[1])["timestamp"])
    assert found is not None
    return found


def messages(seed: int) -> Iterator[Message]:
    """Yield all messages, in the order of publication."""
    chance = np.random.default_rng([seed, 1])
    held: list[tuple[int, int, Message]] = []
    for number, message in enumerate(_rows(seed)):
        while held and held[0][0] <= number:
            yield heapq.heappop(held)[2]
        draw = chance.random()
        later = number + int(chance.integers(2 * DEVICES, 5 * DEVICES))
        if draw < 0.01:
            yield message[0], b"poison %d" % number
        if 0.01 <= draw < 0.03:
            heapq.heappush(held, (later, number, message))
        if not 0.01 <= draw < 0.02:
            yield message


def _rows(seed: int) -> Iterator[Message]:
    """Yield a message of every device for each row."""
    random = np.random.default_rng([seed, 2])
    first = 0
    while True:
        values = _values(random, first, _BLOCK)
        for i, row in enumerate(values.tolist()):
            for device, metrics in enumerate(row):
                yield _message(first + i, device, metrics)
        first += _BLOCK


def _message(row: int, device: int, metrics: Sequence[float]) -> Message:
    name = f"press-{device:02}"
    said = {
        "id": f"{name}:{row}",
        "timestamp": rfc3339(BEGIN + row * STEP),
        "metrics": dict(zip(METRICS, metrics, strict=True)),
    }
    return f"insa/iiot/telemetry/{name}", json.dumps(said).encode()


def _values(random: np.random.Generator, first: int, rows: int) -> npt.NDArray[np.float64]:
    """Return slow waves, noise and faults at known times, [rows, devices, metrics]."""
    at = np.arange(first, first + rows)[:, None, None]
    values = _ordinary(random, at, (rows, DEVICES, len(METRICS)))
    turn = (np.arange(DEVICES)[:, None] * 7 + np.arange(len(METRICS)) * 75) % _FAULT_EVERY
    faulty = (at >= _QUIET_ROWS) & ((at + turn) % _FAULT_EVERY < _FAULT_ROWS)
    rounded: npt.NDArray[np.float64] = np.round(values + faulty * _SIZE, 4)
    return rounded


def _ordinary(
    random: np.random.Generator, at: npt.NDArray[np.int64], shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = (
        _LEVEL + np.sin(at / _PERIOD) * _WAVE + random.normal(0, 1, shape) * _NOISE
    )
    return values


# ------------------------------------------------------------------------------------- models
@cache
def trained() -> tuple[Trained, ...]:
    """Return a model for each metric; the devices are alike."""
    at = np.arange(-_TRAINING_ROWS, 0)[:, None]
    values = np.round(_ordinary(np.random.default_rng(0), at, (_TRAINING_ROWS, len(METRICS))), 4)
    times = BEGIN + at[:, 0] * STEP
    policy = Policy(false_alarms_per_day=5.0)
    return tuple(
        SeriesLearner(
            key=SeriesKey("any", metric),
            id=metric,
            version=1,
            parameters=Parameters(mature_days=0.0, mature_readings=0),
            policy=policy,
        ).fit(times, values[:, i])
        for i, metric in enumerate(METRICS)
    )


def for_every_series() -> Iterator[Trained]:
    """Yield the model of every series, with its own name and id, in the order of `KEYS`."""
    for number, (device_id, metric_name) in enumerate(KEYS):
        one = trained()[number % len(METRICS)]
        yield replace(one, model=_named(one.model, device_id, metric_name))


def _named(model: Model, device_id: str, metric_name: str) -> Model:
    return replace(
        model,
        id=str(uuid5(_NAMESPACE, f"{device_id}/{metric_name}")),
        device_id=device_id,
        metric_name=metric_name,
    )
