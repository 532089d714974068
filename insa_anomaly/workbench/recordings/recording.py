"""Files of recorded readings, as a stream of rows.

A recording is a text file with a row for each time: `timestamp,value`, or a header and a column for
each metric, separated by comma, semicolon or tab, plain or gzip. `inspect` looks at the head of a
file and returns a `Recording`, which states how the file is read. `Recording.rows` then reads it,
however long it is, in the memory of a line.
"""

import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from io import TextIOWrapper
from itertools import islice
from math import inf, isfinite, isnan
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import msgspec

from insa_anomaly.core.reading.parser import microseconds
from insa_anomaly.errors import FileFormatError

# Columns that say what was found, not what was measured.
LABELS = ("anomaly", "changepoint", "label", "is_anomaly")
TIME_NAMES = frozenset({"timestamp", "datetime", "date_time", "time", "date", "ts"})
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})
EXPECTED_TIME = "RFC 3339, YYYY-MM-DD hh:mm:ss, or seconds (ms, us, ns) since 1970"
_SEPARATORS = (";", "\t", ",")
_LONGEST_LINE = 1_000_000
# Years 1973 to 2200, microseconds: a number outside is no time since 1970.
_EPOCH_SPAN = (10**14, 7_258_118_400_000_000)

Columns = tuple[tuple[int, str], ...]  # number and metric


class Row(msgspec.Struct, frozen=True, gc=False):
    """Values of a device at a time (microseconds since the epoch).

    `id` is the same at each reading.
    """

    device_id: str
    timestamp: int
    values: dict[str, float]
    id: str


@dataclass(frozen=True)
class Recording:
    """Layout of a file.

    `time` and the first of each pair in `metrics` are column numbers of `width`.
    """

    path: Path
    device_id: str
    separator: str
    headed: bool
    time: int
    metrics: Columns
    excluded: tuple[str, ...]
    width: int
    naive: bool

    def rows(self) -> Iterator[Row]:
        """Yield every row that has a value, in the order of the file; missing cells are left out.

        Raises FileFormatError.
        """
        stem = _stem(self.path)
        for line, cells in _cells(self.path, self.separator, self.headed):
            if len(cells) != self.width:
                expected = f"{self.width}, as in the first line"
                wrong(self.path, line, f"{len(cells)} cells", expected)
            if values := self._values(line, cells):
                timestamp = self._timestamp(line, cells[self.time])
                yield Row(self.device_id, timestamp, values, f"{stem}:{line}")

    def notes(self) -> list[str]:
        """Return notes for a person on how the file is read."""
        notes = [f"left out: {', '.join(self.excluded)}"] if self.excluded else []
        return [*notes, "times carry no zone: taken as UTC"] if self.naive else notes

    def _values(self, line: int, cells: list[str]) -> dict[str, float]:
        values = {}
        for column, metric in self.metrics:
            value = _value(cells[column])
            if value is None:
                continue
            if not isfinite(value):
                found = f"{cells[column].strip()[:40]!r} in column {metric!r}"
                expected = "a finite number, or nothing (a text column can be excluded)"
                wrong(self.path, line, found, expected)
            values[metric] = value
        return values

    def _timestamp(self, line: int, cell: str) -> int:
        timestamp = time_of(cell)
        if timestamp is None:
            wrong(self.path, line, f"time {cell.strip()[:40]!r}", EXPECTED_TIME)
        return timestamp


class Span(NamedTuple):
    """Extent of a recording: rows, readings, and the times (microseconds) of its ends."""

    rows: int
    readings: int
    first: int
    last: int


def inspect(
    path: Path,
    device_id: str | None = None,
    metric: str | None = None,
    exclude: Sequence[str] = LABELS,
) -> Recording:
    """Find out how a file is read, from its first two lines. Raises FileFormatError.

    `device_id`: default the name of the file without its suffixes, made safe. `metric`: the name of
    the only metric; default its column's name, or `value` without a header. `exclude`: names of
    columns to leave out.
    """
    rows, layout = _shape(path, _head(path))
    _, headed, time = layout
    names = [name.strip() for name in rows[0]] if headed else _unnamed(path, rows[0], metric)
    metrics, excluded = _columns(path, names, time, exclude)
    if metric is not None:
        metrics = _renamed(path, metrics, metric)
    device, naive = device_id or safe(_stem(path)), _is_naive(rows[headed][time].strip())
    return Recording(path, device, *layout, metrics, excluded, width=len(names), naive=naive)


def inspect_all(
    paths: Sequence[Path],
    device_id: str | None = None,
    metric: str | None = None,
    exclude: Sequence[str] = LABELS,
) -> list[Recording]:
    """Inspect several files. Raises FileFormatError.

    Files of the same name get their folder as a part of the device's name.
    """
    named = [device_id] * len(paths) if device_id else _devices(paths)
    recordings = [
        inspect(path, name, metric, exclude) for path, name in zip(paths, named, strict=True)
    ]
    unknown = set(exclude).difference(LABELS, *(recording.excluded for recording in recordings))
    if unknown:
        raise FileFormatError(
            f"no file has a column named {', '.join(sorted(unknown))}, which was to be left out"
        )
    return recordings


def _devices(paths: Sequence[Path]) -> list[str]:
    stems = [_stem(path) for path in paths]
    named = [
        safe(stem if stems.count(stem) == 1 else f"{path.absolute().parent.name}-{stem}")
        for path, stem in zip(paths, stems, strict=True)
    ]
    if twice := _twice(named):
        raise FileFormatError(
            f"several files would be the device {twice!r}: rename them, or name the device"
        )
    return named


def _twice(names: Iterable[str]) -> str | None:
    """Return the first name that comes more than once."""
    return next((name for name, times in Counter(names).items() if times > 1), None)


def survey(recording: Recording) -> Span:
    """Read the whole file once. Raises FileFormatError for an unreadable row or an empty file."""
    rows = readings = 0
    first, last = _EPOCH_SPAN[1], -_EPOCH_SPAN[1]
    for row in recording.rows():
        rows += 1
        readings += len(row.values)
        first, last = min(first, row.timestamp), max(last, row.timestamp)
    if not rows:
        raise FileFormatError(f"{recording.path}: no row has a value")
    return Span(rows, readings, first, last)


def safe(name: str) -> str:
    """Return the name as a topic level: letters, digits, dot, dash and underscore."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "recording"


# ------------------------------------------------------------------------------ the head of a file
def _shape(path: Path, head: list[str]) -> tuple[list[list[str]], tuple[str, bool, int]]:
    """Return the head rows; and separator, whether there is a header, and the column of the time.

    The reading under which a column holds a time is right.
    """
    for separator in _SEPARATORS:
        rows = list(csv.reader(head, delimiter=separator))
        if len(rows[0]) < 2:
            continue
        if time_of(rows[0][0]) is not None:
            return rows, (separator, False, 0)
        time = _time_column(rows[0])
        if len(rows) > 1 and len(rows[1]) > time and time_of(rows[1][time]) is not None:
            return rows, (separator, True, time)
    return _shapeless(path, head)


def _shapeless(path: Path, head: list[str]) -> NoReturn:
    if len(head) == 1:
        expected = "a header and rows, or rows of timestamp,value"
        wrong(path, 1, f"one line only: {_shown(head[0])}", expected)
    expected = (
        "timestamp,value or one column per metric, separated by comma, semicolon or "
        f"tab; times as {EXPECTED_TIME}"
    )
    wrong(path, 2, f"{_shown(head[1])} under {_shown(head[0])}", expected)


def _time_column(names: list[str]) -> int:
    return next((i for i, name in enumerate(names) if name.strip().lower() in TIME_NAMES), 0)


def _unnamed(path: Path, cells: list[str], metric: str | None) -> list[str]:
    if len(cells) != 2:
        expected = "a header that names the metrics, or just timestamp,value"
        wrong(path, 1, f"{len(cells)} columns and no header", expected)
    return ["timestamp", metric or "value"]


def _columns(
    path: Path, names: list[str], time: int, exclude: Sequence[str]
) -> tuple[Columns, tuple[str, ...]]:
    """Return the columns of metrics, and the names of columns that are left out."""
    columns = [
        (column, _metric_name(path, name))
        for column, name in enumerate(names)
        if column != time and name and name not in exclude
    ]
    if twice := _twice(name for _, name in columns):
        wrong(path, 1, f"two columns named {twice!r}", "a name of its own for each column")
    if not columns:
        expected = "at least one beside the time and what is excluded"
        wrong(path, 1, "no column with a metric", expected)
    return tuple(columns), tuple(name for name in names if name and name in exclude)


def _metric_name(path: Path, name: str) -> str:
    if not name.isprintable() or any("\ud800" <= char <= "\udfff" for char in name):
        wrong(path, 1, f"column {name[:40]!a}", "text in UTF-8")
    return re.sub(r"[/+#]", "_", name)  # what would split or match a topic


def _renamed(path: Path, metrics: Columns, metric: str) -> Columns:
    if len(metrics) != 1:
        wrong(path, 1, f"{len(metrics)} columns of metrics", f"one, to be named {metric!r}")
    return ((metrics[0][0], metric),)


def _is_naive(stamp: str) -> bool:
    try:
        return not _is_number(stamp) and datetime.fromisoformat(stamp).tzinfo is None
    except ValueError:
        return False


# -------------------------------------------------------------------------------- the cells
def _value(cell: str) -> float | None:
    """Return the number in a cell, None if it is missing, infinity if it is neither.

    A decimal comma is understood.
    """
    try:
        value = float(cell)
    except ValueError:
        text = cell.strip().lower()
        if text in MISSING:
            return None
        return float(text.replace(",", ".")) if re.fullmatch(r"[+-]?\d+,\d+", text) else inf
    return None if isnan(value) else value


def time_of(cell: str) -> int | None:
    """Return the time in a cell, microseconds since the epoch; None where it is no time."""
    text = cell.strip()
    if not _is_number(text):
        return microseconds(text)
    timestamp = microseconds(int(text) if text.isdigit() else float(text)) or 0
    return timestamp if _EPOCH_SPAN[0] <= timestamp <= _EPOCH_SPAN[1] else None


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


# -------------------------------------------------------------------------------- the file
def _head(path: Path) -> list[str]:
    """Return the first two lines that are not blank."""
    with _opened(path) as file:
        head = list(islice(filter(str.strip, _lines(path, file)), 2))
    if not head:
        raise FileFormatError(
            f"{path}: the file is empty; expected a header and rows, or rows of timestamp,value"
        )
    return head


def _cells(path: Path, separator: str, headed: bool) -> Iterator[tuple[int, list[str]]]:  # noqa: FBT001 - a fact of the file
    """Yield line number and cells of every row that is not blank, without the header."""
    with _opened(path) as file:
        reader = csv.reader(_lines(path, file), delimiter=separator)
        try:
            rows = (cells for cells in reader if cells and (len(cells) > 1 or cells[0].strip()))
            if headed:
                next(rows, None)
            for cells in rows:
                yield reader.line_num, cells
        except csv.Error as error:
            raise FileFormatError(f"{path}, line {reader.line_num}: {error}") from error


def _lines(path: Path, file: IO[str]) -> Iterator[str]:
    for number, line in enumerate(iter(partial(file.readline, _LONGEST_LINE), ""), 1):
        if len(line) == _LONGEST_LINE:
            found = f"{_LONGEST_LINE:,} characters without an end of line"
            wrong(path, number, found, "text, a row a line")
        yield line


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """Open a file as text, unpacked.

    Undecodable bytes pass: only a header must be text.
    """
    try:
        with path.open("rb") as raw:
            data = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
            with TextIOWrapper(data, "utf-8-sig", "surrogateescape", newline="") as text:
                yield text
    except EOFError as error:
        raise FileFormatError(f"{path}: the gzip file ends too early; is it complete?") from error
    except (OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileFormatError(f"{path}: cannot be read: {reason}") from error


def _stem(path: Path) -> str:
    return re.sub(r"(\.(csv|tsv|txt))?(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _shown(line: str) -> str:
    return ascii(line.strip()[:60])


def wrong(path: Path, place: int | str, found: str, expected: str) -> NoReturn:
    """Raise FileFormatError for a place of a file: the number of a line, or a name."""
    named = f"line {place}" if isinstance(place, int) else place
    raise FileFormatError(f"{path}, {named}: {found}; expected {expected}")
