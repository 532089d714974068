"""Evaluation of the daemon's own detector over recorded data, faster than real time.

The detector learns from the first part of a recording and then observes the rest, reading by
reading. It continues to learn as in the daemon, but a refit takes effect at once,
where the daemon scores with the model before until the new model is ready, a second or so later.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from rich.console import Console

from insa_anomaly import AnomalyDetector, DeviceDetector
from insa_anomaly.core.units import DAY, Bools, Floats, Ints
from insa_anomaly.errors import FileFormatError, InsaError
from insa_anomaly.workbench.progress import Advance, progress
from insa_anomaly.workbench.recordings import accuracy
from insa_anomaly.workbench.recordings.accuracy import Alarms, ConfusionCounts
from insa_anomaly.workbench.recordings.table import Table

_CHUNK = 1024  # readings between two movements of the bar
BAND = ("expected", "lower", "upper")
_COLUMNS = ("score", *BAND, "transition")

Said = dict[str, npt.NDArray[Any]]


class Detector(Protocol):
    """A detector of rows: times [n] (microseconds), values [n, d]."""

    def train(self, times: Ints, values: Floats) -> Mapping[str, Any]:
        """Learn the rows; return the figures of the model. Raises TrainingError."""

    def observe_many(self, times: Ints, values: Floats) -> Said:
        """Take the next rows; return a column for each result."""

    def observe(self, time: int, row: Floats) -> Mapping[str, Any]:
        """Take the next row; return the same results with reasons."""


class MetricDetector:
    """Detector of a single metric."""

    def __init__(self, table: Table, parameters: Mapping[str, float | str]) -> None:
        self._detector = AnomalyDetector(table.device_id, table.metrics[0], **parameters)

    def train(self, times: Ints, values: Floats) -> Mapping[str, Any]:
        """Learn the rows; see `Detector`."""
        return self._detector.train({"timestamp": moments(times), "value": values[:, 0]})

    def observe_many(self, times: Ints, values: Floats) -> Said:
        """Take the next rows; see `Detector`."""
        return self._detector.observe_many(values[:, 0], moments(times))

    def observe(self, time: int, row: Floats) -> Mapping[str, Any]:
        """Take the next row; see `Detector`."""
        return self._detector.observe(float(row[0]), np.datetime64(time, "us"))


class WholeDevice:
    """Detector of all metrics of a device together."""

    def __init__(self, table: Table, parameters: Mapping[str, float | str]) -> None:
        self._metrics = table.metrics
        self._detector = DeviceDetector(table.device_id, table.metrics, **parameters)

    def train(self, times: Ints, values: Floats) -> Mapping[str, Any]:
        """Learn the rows; see `Detector`."""
        return self._detector.train(self._data(times, values))

    def observe_many(self, times: Ints, values: Floats) -> Said:
        """Take the next rows; see `Detector`."""
        return self._detector.observe_many(self._data(times, values))

    def observe(self, time: int, row: Floats) -> Mapping[str, Any]:
        """Take the next row; see `Detector`."""
        return self._detector.observe(self._named(row.tolist()), np.datetime64(time, "us"))

    def _data(self, times: Ints, values: Floats) -> dict[str, Any]:
        return {"timestamp": moments(times), **self._named(values.T)}

    def _named(self, columns: Iterable[Any]) -> dict[str, Any]:
        return dict(zip(self._metrics, columns, strict=True))


@dataclass(frozen=True)
class Split:
    """The part of a recording that is learnt.

    A share of it, at most so many rows; None: no limit.
    """

    share: float | None = None
    rows: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Split":
        """Read `0.3`, `400` or `0.15,750`. Raises ValueError."""
        split = cls()
        for number in map(float, text.split(",")):
            split = cls(number, split.rows) if 0 < number < 1 else cls(split.share, _whole(number))
        return split

    def of(self, rows: int) -> int:
        """Return the number of rows to learn of so many `rows`."""
        limits = [rows] if self.rows is None else [rows, self.rows]
        return min([*limits, int(self.share * rows)] if self.share is not None else limits)


@dataclass(frozen=True)
class ReportedEpisode:
    """An episode as an operator sees it, from `first` to the `last` anomalous row.

    Values are of the row that opened it.
    """

    first: int
    last: int
    metric: str
    value: float
    expected: float
    lower: float
    upper: float
    peak: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """The detector's results for the rows that it had not learnt.

    Columns [m] are beside the rows of `table`.
    """

    table: Table
    trained: int
    said: Said
    episodes: tuple[ReportedEpisode, ...]
    threshold: float | None
    known_before: int  # labelled events that lie wholly in what it learnt from

    @property
    def days(self) -> float:
        """Time from the first row to the last."""
        return float(self.table.times[-1] - self.table.times[0]) / DAY

    @property
    def episodes_per_day(self) -> float | None:
        """Rate of episodes, None where no time passes."""
        return len(self.episodes) / self.days if self.days else None

    @property
    def flags(self) -> Bools:
        """Rows with a score below 0."""
        return np.asarray(self.said["score"] < 0)

    @property
    def spans(self) -> list[accuracy.Span]:
        """First and last row of every episode."""
        return [(episode.first, episode.last) for episode in self.episodes]

    def counts(self, gap: int, recovery: int) -> ConfusionCounts | None:
        """Return the counts against the labels, None without labels.

        `gap`, `recovery`: readings.
        """
        if self.table.truth is None:
            return None
        told = np.zeros(len(self.flags), np.bool_)
        for first, last in self.spans:
            told[first : last + 1] = True
        alarms, scores = Alarms(told & self.flags, self.spans), self.said["score"]
        truth = self.table.truth
        return accuracy.count(self.table.times, scores, truth, alarms, gap=gap, recovery=recovery)


def run(detector: Detector, table: Table, split: Split, advance: Advance) -> Run:
    """Train on the first part, observe the rest.

    `advance` takes the number of rows observed since the last call. Raises TrainingError, or
    FileFormatError where no row is left to observe.
    """
    trained = split.of(len(table.times))
    if trained >= len(table.times):
        raise FileFormatError(
            f"all {len(table.times):,} readings would be learnt, none is left to judge by; see "
            "--train"
        )
    information = detector.train(table.times[:trained], table.values[:trained])
    rest, threshold = table.part(slice(trained, None)), information.get("threshold")
    said, reasons = _observed(detector, rest, advance)
    episodes = tuple(_episodes(rest, said, reasons))
    return Run(rest, trained, said, episodes, threshold, known_before=_known(table, trained))


def _known(table: Table, trained: int) -> int:
    """Return the number of events that lie wholly in the first `trained` rows."""
    if table.truth is None:
        return 0
    return sum(not table.truth[last + 1] for _, last in accuracy.runs(table.truth[:trained]))


def _observed(
    detector: Detector, table: Table, advance: Advance
) -> tuple[Said, dict[int, tuple[str, ...]]]:
    """Return the results of every row, and the reasons of the rows that opened an episode."""
    parts: list[Said] = []
    reasons: dict[int, tuple[str, ...]] = {}
    for begin in range(0, len(table.times), _CHUNK):
        part = table.part(slice(begin, begin + _CHUNK))
        before = deepcopy(detector)  # a twin explains openings: reasons cost time
        parts.append(detector.observe_many(part.times, part.values))
        opened = np.flatnonzero(parts[-1]["transition"] == "opened")
        reasons |= {begin + i: why for i, why in _explained(before, part, opened.tolist())}
        advance(len(part.times))
    names = [*_COLUMNS, *(["metric_name"] if "metric_name" in parts[0] else [])]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}, reasons


def _explained(
    twin: Detector, table: Table, rows: Sequence[int]
) -> Iterator[tuple[int, tuple[str, ...]]]:
    begin = 0
    for i in rows:
        if i > begin:
            twin.observe_many(table.times[begin:i], table.values[begin:i])
        said = twin.observe(int(table.times[i]), table.values[i])
        yield i, tuple(reason["text"] for reason in said.get("reasons", []))
        begin = i + 1


def _episodes(
    table: Table, said: Said, reasons: Mapping[int, tuple[str, ...]]
) -> Iterator[ReportedEpisode]:
    flagged = np.flatnonzero(said["score"] < 0)
    closings = np.append(np.flatnonzero(said["transition"] == "closed"), len(table.times))
    for first in np.flatnonzero(said["transition"] == "opened").tolist():
        end = int(closings[np.searchsorted(closings, first)])
        last = int(flagged[np.searchsorted(flagged, end) - 1])
        metric = str(said["metric_name"][first]) if "metric_name" in said else table.metrics[0]
        values = dict(zip(table.metrics, table.values[first].tolist(), strict=True))
        value, why = values.get(metric, np.nan), reasons.get(first, ())
        band = {name: float(said[name][first]) for name in BAND}
        peak = -float(said["score"][first : last + 1].min())
        yield ReportedEpisode(first, last, metric, value, peak=peak, reasons=why, **band)


def moments(times: Ints) -> npt.NDArray[np.datetime64]:
    return times.astype("datetime64[us]")


def _whole(number: float) -> int:
    if not number.is_integer() or number < 1:
        raise ValueError("a share lies between 0 and 1, a number of rows is whole")
    return int(number)


@dataclass(frozen=True)
class EvaluationOutcome:
    """Runs of several series.

    `refused` holds the reason for each series without a run, by its name.
    """

    runs: tuple[Run, ...]
    refused: Mapping[str, str]


def evaluate(
    tables: Sequence[Table], make: Callable[[Table], Detector], split: Split, console: Console
) -> EvaluationOutcome:
    """Run a new detector over each table.

    A table that cannot be learnt does not keep the others from it.
    """
    runs, refused = list[Run](), dict[str, str]()
    readings = sum(len(table.times) - split.of(len(table.times)) for table in tables)
    with progress(console, "readings evaluated", readings) as advance:
        for table in tables:
            try:
                runs.append(run(make(table), table, split, advance))
            except InsaError as error:
                refused[table.name] = str(error)
    return EvaluationOutcome(tuple(runs), refused)
