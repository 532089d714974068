"""A recording in memory: columns of readings over time, and the rows labelled as anomalous."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from insa_anomaly.core.units import Bools, Floats, Ints
from insa_anomaly.errors import FileFormatError
from insa_anomaly.workbench.recordings.labels import Labels, inside
from insa_anomaly.workbench.recordings.recording import (
    LABELS,
    Recording,
    Row,
    inspect,
    inspect_all,
    wrong,
)

# Columns that mark anomalous rows; a change point marks a moment.
MARKS = tuple(name for name in LABELS if name != "changepoint")


@dataclass(frozen=True)
class Table:
    """Rows of a device: times [n], values [n, d], truth [n].

    Times are microseconds as recorded, a missing value is NaN, truth is None without labels.
    """

    path: Path
    device_id: str
    metrics: tuple[str, ...]
    times: Ints
    values: Floats
    truth: Bools | None

    @property
    def name(self) -> str:
        """Name of the device, with its metric if there is a single metric."""
        return f"{self.device_id}/{self.metrics[0]}" if len(self.metrics) == 1 else self.device_id

    def series(self) -> list["Table"]:
        """Each metric as a table of its own, of the rows that have it."""
        return [
            replace(self, metrics=(name,), values=values[:, np.newaxis]).part(np.isfinite(values))
            for name, values in zip(self.metrics, self.values.T, strict=True)
        ]

    def part(self, rows: slice | Bools) -> "Table":
        """Return these rows as a table."""
        truth = None if self.truth is None else self.truth[rows]
        return replace(self, times=self.times[rows], values=self.values[rows], truth=truth)


def recordings(paths: Sequence[Path], *, labelled: bool) -> list[tuple[Recording, str | None]]:
    """Return how every file is read, and its column of labels. Raises FileFormatError.

    With `labelled` the labels come from elsewhere, so no column is taken.
    """
    return [(one, None) if labelled else _with_marks(one) for one in inspect_all(paths)]


def load(recording: Recording, mark: str | None, labels: Labels | None) -> Table:
    """Read the whole file; `mark` is its column of labels. Raises FileFormatError."""
    names = [name for _, name in recording.metrics if name != mark]
    if not names:
        raise FileFormatError(f"{recording.path}: no column with a metric beside {mark!r}")
    times, cells, marks = array("q"), array("d"), array("b")
    for row in recording.rows():
        if mark is not None:
            marks.append(_mark(recording.path, row, mark))
        times.append(row.timestamp)
        cells.extend(row.values.get(name, np.nan) for name in names)
    at, values = np.array(times, np.int64), np.array(cells, np.float64).reshape(-1, len(names))
    _in_order(recording.path, at)
    truth = None if mark is None else np.array(marks, np.bool_)
    if labels:
        truth = inside(at, labels.of(recording.path))
    return Table(recording.path, recording.device_id, tuple(names), at, values, truth=truth)


def _with_marks(recording: Recording) -> tuple[Recording, str | None]:
    mark = next((name for name in MARKS if name in recording.excluded), None)
    if mark is None:
        return recording, None
    others = [name for name in LABELS if name != mark]
    return inspect(recording.path, recording.device_id, exclude=others), mark


def _mark(path: Path, row: Row, name: str) -> int:
    value = row.values.get(name, 0.0)
    if value not in {0.0, 1.0}:
        line = row.id.rpartition(":")[2]
        wrong(path, int(line), f"{value:g} in the column of labels {name!r}", "0 or 1")
    return int(value)


def _in_order(path: Path, times: Ints) -> None:
    if not len(times):
        raise FileFormatError(f"{path}: no row has a value")
    if len(times) > 1 and (np.diff(times) < 0).mean() > 0.5:
        raise FileFormatError(
            f"{path}: time runs backwards; sort the rows by time, the oldest first"
        )
