"""A small plant with many faults: readings of the past that are equal in every run."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.notification.event import rfc3339

BEGIN = 1_700_000_000_000_000  # microseconds
STEP = 10_000_000
TRAINING_ROWS = 600
DEVICES = ("press-1", "press-2")
METRICS = ("temperature", "pressure", "current")
_FAULT_EVERY, _FAULT_ROWS = 150, 4
_SIZE = np.array([25.0, 3.0, 12.0])  # of a fault

Message = tuple[str, bytes]


@dataclass(frozen=True)
class Machine:
    """A device: `values` [rows, metrics], of which the first `TRAINING_ROWS` are ordinary."""

    device_id: str
    values: npt.NDArray[np.float64]

    def messages(self) -> Iterator[Message]:
        """Yield the messages of the rows after the training.

        A row with an even number is a message with all its metrics, a row with an odd number a
        message for each metric.
        """
        topic = f"insa/iiot/telemetry/{self.device_id}"
        for row in range(TRAINING_ROWS, len(self.values)):
            common = {"id": f"{self.device_id}:{row}", "timestamp": self.time(row)}
            metrics = dict(zip(METRICS, self.values[row].tolist(), strict=True))
            if row % 2:
                for name, value in metrics.items():
                    yield (
                        topic,
                        json.dumps({**common, "metric_name": name, "value": value}).encode(),
                    )
            else:
                yield topic, json.dumps({**common, "metrics": metrics}).encode()

    def time(self, row: int) -> str:
        """Return the time of the row."""
        return rfc3339(BEGIN + row * STEP)

    def write_training(self, folder: Path) -> Path:
        """Write the ordinary rows to a file to train from; return its path."""
        lines = [
            f"{self.time(row)},{','.join(map(str, self.values[row].tolist()))}\n"
            for row in range(TRAINING_ROWS)
        ]
        path = folder / f"{self.device_id}.csv"
        path.write_text(f"timestamp,{','.join(METRICS)}\n{''.join(lines)}", encoding="utf-8")
        return path


def machines(rows: int) -> list[Machine]:
    """Return the plant, with `rows` rows of each machine after the training."""
    return [
        Machine(name, _values(number, TRAINING_ROWS + rows)) for number, name in enumerate(DEVICES)
    ]


def _values(seed: int, rows: int) -> npt.NDArray[np.float64]:
    """Return slow waves and noise, with faults at regular times, one metric after the other."""
    random = np.random.default_rng(seed)
    at = np.arange(rows)[:, None]
    values: npt.NDArray[np.float64] = np.array([60.0, 5.0, 20.0]) + np.sin(
        at / np.array([90.0, 35.0, 50.0])
    ) * np.array([4.0, 0.3, 2.0])
    values += random.normal(0, 1, (rows, len(METRICS))) * np.array([0.5, 0.05, 0.3])
    for number, start in enumerate(range(TRAINING_ROWS + 60, rows - _FAULT_ROWS, _FAULT_EVERY)):
        metric = number % len(METRICS)
        values[start : start + _FAULT_ROWS, metric] += _SIZE[metric]
    return np.round(values, 4)


def stream(plant: Iterable[Machine]) -> list[Message]:
    """Return the messages of the devices in turn; each device keeps its order."""
    queues = [list(machine.messages()) for machine in plant]
    assert len({len(queue) for queue in queues}) == 1
    return [message for together in zip(*queues, strict=True) for message in together]
