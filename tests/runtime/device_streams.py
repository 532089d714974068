"""A plant whose pump has a model of all its metrics: streams of its messages, and the models."""

from functools import cache
from uuid import UUID

import numpy as np

from insa_anomaly.core.device.detector import DeviceModel, DeviceParameters
from insa_anomaly.core.device.training import DeviceLearner
from insa_anomaly.core.reading.series_key import DEVICE_METRIC, SeriesKey
from insa_anomaly.ports.log import Swap
from insa_anomaly.ports.models import ModelRow
from insa_anomaly.testing.models import MemoryModels
from tests.runtime.streams import (
    GARBAGE,
    NOW,
    POLICY,
    SECOND,
    Message,
    Stream,
    message,
    model,
    model_row,
    swap,
    topic,
)

PARAMETERS = DeviceParameters(
    n_estimators=8, max_samples=64, refit_readings_least=40, refit_readings_most=40
)
METRICS = (("a", "b"), ("a", "b", "c"), ("b", "c"))  # of the models
PUMP = SeriesKey.of_device("pump")


@cache
def device_model(number: int) -> DeviceModel:
    """Fit model `number` of the pump on noise around 10."""
    random, metrics = np.random.default_rng(50 + number), METRICS[number]
    times, values = SECOND * np.arange(400), 10 + random.normal(size=(400, len(metrics)))
    return (
        DeviceLearner(
            device_id="pump",
            metrics=metrics,
            id=str(UUID(int=100 + number)),
            version=number + 1,
            parameters=PARAMETERS,
            policy=POLICY,
        )
        .fit(times, values)
        .model
    )


@cache
def _scorer(number: int) -> bytes:
    return device_model(number).to_bytes()


def device_row(number: int) -> ModelRow:
    """Return the index row of model `number` of the pump."""
    one = device_model(number)
    return ModelRow(
        id=one.id,
        device_id=one.device_id,
        metric_name=DEVICE_METRIC,
        version=one.version,
        status="archived",
        model_path="",
        trained_at=NOW + number,
        training_samples=400,
        threshold=one.threshold,
        parameters={},
        figures={},
        sha256="",
    )


def device_swap(number: int) -> Swap:
    """Return the swap by which model `number` takes over the pump."""
    return Swap(*PUMP, device_model(number).id)


@cache
def shelf() -> MemoryModels:
    """Return an index of the models of metrics a and b, and three models of the pump itself."""
    models = MemoryModels()
    for number in (0, 1):
        models.put(model_row(number), model(number).to_bytes())
    for number in range(len(METRICS)):
        models.put(device_row(number), _scorer(number))
    return models


@cache
def device_stream(seed: int, length: int) -> Stream:
    """Build a stream in which the pump warms up, then sends mixed messages between swaps."""
    random = np.random.default_rng(seed)
    messages = [
        message("pump", i - 80, {name: 10 + float(random.normal()) for name in "abc"})
        for i in range(80)
    ]
    swaps = {0: [swap(0), swap(1)], 5: [device_swap(0)]}
    for i in range(length):
        messages += _some(random, i)
    for place in (100 + random.integers(length, size=3)).tolist():
        number = int(random.integers(4))
        swaps.setdefault(place, []).append(
            Swap(*PUMP, None) if number == 3 else device_swap(number)
        )
    return Stream(messages, swaps)


def _some(random: np.random.Generator, i: int) -> list[Message]:
    """Build the messages of second i.

    All metrics come in a single message or separately; some are missing, late or repeated, or there
    is no reading.
    """
    values = {name: 10 + float(random.normal()) for name in "abc"}
    if (i // 25) % 3 == 1:  # faults last
        values["a"] += 9.0
    kind = random.random()
    if kind < 0.5:
        return [message("pump", i, values)]
    if kind < 0.65:
        return [
            message("pump", i + 0.1 * place, {name: value})
            for place, (name, value) in enumerate(values.items())
        ]
    if kind < 0.75:
        return [
            message(
                "pump",
                i,
                {name: value for name, value in values.items() if random.random() < 0.6}
                or {"a": values["a"]},
            )
        ]
    if kind < 0.80:
        return [message("pump", i, values), message("pump", i - 5, values)]
    if kind < 0.85:
        return [message("pump", i, values)] * 2
    if kind < 0.90:
        return [message("fan", i, {"a": 10.0}), message("pump", i, values, '"quality": "bad", ')]
    if kind < 0.95:
        return [
            message("pump", i + 0.4, {"c": values["c"]}),
            message("pump", i, {"a": values["a"], "b": values["b"]}),
        ]
    return [(topic("pump"), GARBAGE[i % len(GARBAGE)])]
