"""A recording in memory: columns of readings over time, and the rows labelled as anomalous."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from insa_anomaly.core.units import Bools, Floats, Ints
from insa_anomaly.errors import FileFormatError
from insa_anomaly.workbench.recordings.labels import Labels, inside
from insa_anomaly.workbench.recordings.recording import LABELS, Recording, Row, inspect, inspect_all

MARKS = tuple(
    name for name in LABELS if name != "changepoint"
)  # columns that mark anomalous rows; a change point marks a moment


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
        return [self._only(column) for column in range(len(self.metrics))]

    def _only(self, column: int) -> "Table":
        has = np.isfinite(self.values[:, column])
        truth = None if self.truth is None else self.truth[has]
        return replace(
            self,
            metrics=(self.metrics[column],),
            times=self.times[has],
            values=self.values[has, column : column + 1],
            truth=truth,
        )


def recordings(paths: Sequence[Path], *, labelled: bool) -> list[tuple[Recording, str | None]]:
    """Return how every file is read, and its column of labels. Raises FileFormatError.

    With `labelled` the labels come from elsewhere, so no column is taken.
    """
    found = inspect_all(paths)
    return [(one, None) if labelled else _with_marks(one) for one in found]


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
    truth = (
        inside(at, labels.of(recording.path))
        if labels
        else np.array(marks, np.bool_)
        if mark is not None
        else None
    )
    return Table(
        path=recording.path,
        device_id=recording.device_id,
        metrics=tuple(names),
        times=at,
        values=values,
        truth=truth,
    )


def _with_marks(recording: Recording) -> tuple[Recording, str | None]:
    mark = next((name for name in MARKS if name in recording.excluded), None)
    if mark is None:
        return recording, None
    return inspect(
        recording.path, recording.device_id, exclude=[name for name in LABELS if name != mark]
    ), mark


def _mark(path: Path, row: Row, name: str) -> int:
    value = row.values.get(name, 0.0)
    if value not in {0.0, 1.0}:
        line = row.id.rpartition(":")[2]
        raise FileFormatError(
            f"{path}, line {line}: {value:g} in the column of labels {name!r}; expected 0 or 1"
        )
    return int(value)


def _in_order(path: Path, times: Ints) -> None:
    if not len(times):
        raise FileFormatError(f"{path}: no row has a value")
    if len(times) > 1 and (np.diff(times) < 0).mean() > 0.5:
        raise FileFormatError(
            f"{path}: time runs backwards; sort the rows by time, the oldest first"
        )
