"""Streams of messages as a plant sends them, and models of its series, for laws of the readers."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from uuid import UUID

import numpy as np

from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.reading.parser import Parser
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.reading.topics import Acceptance
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.series.training import SeriesLearner
from insa_anomaly.ports.log import Entry, Swap
from insa_anomaly.ports.models import ModelRow
from insa_anomaly.testing.log import MemoryLog
from insa_anomaly.testing.models import MemoryModels

NOW = 1_760_000_000_000_000
SECOND = 1_000_000
PARAMETERS = Parameters(
    n_estimators=8,
    first_fit_readings=50,
    first_fit_seconds=10.0,
    first_fit_retry_readings=30,
    refit_readings_least=40,
)
POLICY = Policy(merge_gap_readings=3, false_alarms_per_day=50.0)
SERIES: tuple[SeriesKey, ...] = (
    SeriesKey("pump", "a"),
    SeriesKey("pump", "b"),
    SeriesKey("fan", "a"),
)
GARBAGE = (b"{", b"", b'{"a": NaN}', b"\xff", b'{"a": true}')
CAPACITY = 8
Message = tuple[str, bytes]


def topic(device_id: str) -> str:
    """Return the topic on which the device publishes."""
    return f"insa/iiot/telemetry/{device_id}"


def message(device_id: str, second: float, metrics: dict[str, float], rest: str = "") -> Message:
    """Build a message with values of the metrics, `second` seconds after NOW.

    A negative `second` lies before NOW.
    """
    values = ", ".join(f'"{name}": {float(value)!r}' for name, value in metrics.items())
    timestamp = f"{(NOW + round(second * SECOND)) / SECOND:.6f}"
    body = f'{{"timestamp": {timestamp}, {rest}"metrics": {{{values}}}}}'
    return topic(device_id), body.encode()


def parser() -> Parser:
    """Return a parser that accepts all messages of these streams."""
    return Parser(Acceptance(max_age=None))


# ------------------------------------------------------------------------------ models
@cache
def model(number: int) -> Model:
    """Fit model `number` on noise around 10."""
    random = np.random.default_rng(number)
    times, values = SECOND * np.arange(400), 10 + random.normal(size=400)
    device_id, metric_name = SERIES[number % len(SERIES)]
    return (
        SeriesLearner(
            key=SeriesKey(device_id, metric_name),
            id=str(UUID(int=number + 1)),
            version=number + 1,
            parameters=PARAMETERS,
            policy=POLICY,
        )
        .fit(times, values)
        .model
    )


@cache
def _scorer(number: int) -> bytes:
    return model(number).to_bytes()


def model_row(number: int, status: str = "archived", key: SeriesKey | None = None) -> ModelRow:
    """Return the index row of model `number`; with `key`, of another series than its own."""
    one = model(number)
    device_id, metric_name = key or (one.device_id, one.metric_name)
    return ModelRow(
        id=one.id,
        device_id=device_id,
        metric_name=metric_name,
        version=one.version,
        status=status,
        model_path="",
        trained_at=NOW + number,
        training_samples=400,
        threshold=one.threshold,
        parameters={},
        figures={},
        sha256="",
    )


def models(count: int) -> MemoryModels:
    """Return an index of the first `count` models, none of them active."""
    shelf = MemoryModels()
    for number in range(count):
        shelf.put(model_row(number), _scorer(number))
    return shelf


def swap(number: int, key: SeriesKey | None = None) -> Swap:
    """Return the swap by which model `number` takes over its series, or that of `key`."""
    one = model(number)
    return Swap(*(key or (one.device_id, one.metric_name)), one.id)


# ----------------------------------------------------------------------------- streams
@dataclass(frozen=True)
class Stream:
    """Messages in order of arrival, and the swaps by the message that they precede."""

    messages: list[Message]
    swaps: dict[int, list[Swap]]

    def log(self, cuts: set[int]) -> MemoryLog:
        """Write the stream to a log, with a new entry at each cut and each swap."""
        log = MemoryLog()
        bounds = sorted(
            {0, len(self.messages), *(cut for cut in cuts if cut < len(self.messages)), *self.swaps}
        )
        for begin, end in pairwise(bounds):
            log.append(self.messages[begin:end], self.swaps.get(begin, []), NOW)
        return log

    def entries(self, cuts: set[int]) -> list[Entry]:
        """Return the entries of such a log."""
        return self.log(cuts).read(0, len(self.messages) + 1)


@cache
def stream(seed: int, length: int) -> Stream:
    """Build a stream: 70 ordinary readings of every series, then `length` mixed messages."""
    random = np.random.default_rng(seed)
    messages = [
        message(device, i - 70, {metric: _ordinary(random)})
        for i in range(70)
        for device, metric in SERIES
    ]
    swaps = {0: [swap(0), swap(1)], 105: [swap(2)]}
    messages += [_one(random, i) for i in range(length)]
    for place in (210 + random.integers(length, size=3)).tolist() if length else []:
        number = int(random.integers(6))
        threshold = float(random.choice([0.1, 0.7])) if number % 2 else None
        taken = Swap(*SERIES[number % len(SERIES)], model(number).id, threshold)
        swaps.setdefault(place, []).append(taken if random.random() < 0.7 else removal(number))
    return Stream(messages, swaps)


def removal(number: int) -> Swap:
    """Return the swap after which the series of model `number` has no model."""
    return Swap(*SERIES[number % len(SERIES)], None)


def _one(random: np.random.Generator, i: int) -> Message:
    """Build the message at second i.

    The message is ordinary, strange, late, repeated, of a new series, of bad quality, too far
    ahead, unstamped, or holds no reading.
    """
    device, metric = SERIES[int(random.integers(len(SERIES)))]
    kind = random.random()
    strange = (i // 12) % 3 == 1  # faults last
    value = _ordinary(random) + (
        random.choice([6.0, 12.0, 40.0]) if strange and metric == "a" else 0.0
    )
    if kind < 0.75:
        return message(device, i, {metric: value})
    if kind < 0.80:
        return message(device, i - 30, {metric: value})
    if kind < 0.85:
        return message(device, i // 5 * 5, {metric: value}, '"id": "7", ')
    if kind < 0.88:
        return message("new", i, {f"m{i % 3}": value})
    if kind < 0.91:
        return message(device, i, {metric: value}, '"quality": "bad", ')
    if kind < 0.93:
        return message(device, i + 1000, {metric: value})
    if kind < 0.96:
        return topic(device), f'{{"{metric}": {float(value)!r}}}'.encode()
    return topic(device), GARBAGE[i % len(GARBAGE)]


def _ordinary(random: np.random.Generator) -> float:
    return float(10 + random.normal())
