"""Labels of a recording: a file of events that lie in time.

Two forms are read: JSON as in the Numenta Anomaly Benchmark (`combined_windows.json`: for every
recording a list of [start, end]), and CSV with the columns `start`, `end` and, for several
recordings, `file`. Both ends belong to the event. Recordings are found by the end of their path, so
their folder and packing do not matter.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from insa_anomaly.core.units import Bools, Ints
from insa_anomaly.errors import FileFormatError
from insa_anomaly.workbench.recordings.recording import EXPECTED_TIME, time_of, wrong

Event = tuple[int, int]  # first and last time, microseconds


@dataclass(frozen=True)
class Labels:
    """Events by recording; `complete` means that a recording without a name here has none.

    Events under None belong to any recording.
    """

    path: Path
    events: Mapping[str | None, Sequence[Event]]
    complete: bool

    def of(self, recording: Path) -> Sequence[Event]:
        """Return the events of a recording. Raises FileFormatError where the name is ambiguous."""
        if None in self.events:
            return self.events[None]
        shared = {name: _shared(name, recording) for name in self.events if name is not None}
        most = max(shared.values(), default=0)
        best = [name for name, parts in shared.items() if parts == most]
        if most and len(best) == 1:
            return self.events[best[0]]
        if most:
            raise FileFormatError(
                f"{self.path}: {recording} could be any of {', '.join(map(repr, best[:3]))}"
            )
        if self.complete:
            return ()
        raise FileFormatError(
            f"{self.path}: says nothing of {recording}; it speaks of "
            f"{', '.join(map(repr, list(self.events)[:3]))}, ..."
        )


def read_labels(path: Path) -> Labels:
    """Read a file of labels. Raises FileFormatError."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    return _from_json(path, text) if text.lstrip().startswith("{") else _from_csv(path, text)


def inside(times: Ints, events: Sequence[Event]) -> Bools:
    """Return which of the times [n] (microseconds) lie in an event."""
    within = np.zeros(len(times), np.bool_)
    for start, end in events:
        within |= (times >= start) & (times <= end)
    return within


def _from_json(path: Path, text: str) -> Labels:
    try:
        said = msgspec.json.decode(text.encode(), type=dict[str, list[Any]])
    except msgspec.DecodeError as error:
        raise FileFormatError(
            f"{path}: {error}; expected for every recording a list of [start, end]"
        ) from error
    events: dict[str | None, Sequence[Event]] = {
        name: [_window(path, name, window) for window in windows] for name, windows in said.items()
    }
    return Labels(path, events, complete=False)


def _window(path: Path, name: str, window: object) -> Event:
    if not isinstance(window, list) or len(window) != 2:
        expected = (
            "[start, end]; single times say nothing of how long it was wrong "
            "(combined_windows.json does)"
        )
        wrong(path, name, f"{window!r:.60}", expected)
    return _event(path, name, *map(str, window))


def _from_csv(path: Path, text: str) -> Labels:
    rows = csv.DictReader(text.splitlines(), restkey="", restval="")
    names = [(name or "").strip().lower() for name in rows.fieldnames or ()]
    if not {"start", "end"} <= set(names):
        found = f"the columns {', '.join(names) or 'of nothing'}"
        wrong(path, 1, found, "start,end or start,end,file; or JSON as NAB has it")
    rows.fieldnames = names
    events: dict[str | None, list[Event]] = {} if "file" in names else {None: []}
    for row in rows:
        event = _event(path, rows.line_num, row["start"], row["end"])
        events.setdefault(row["file"].strip() if "file" in names else None, []).append(event)
    return Labels(path, events, complete=True)


def _event(path: Path, place: str | int, start: str, end: str) -> Event:
    first, last = time_of(start), time_of(end)
    if first is None or last is None:
        cell = start if first is None else end
        wrong(path, place, f"time {cell.strip()[:40]!r}", EXPECTED_TIME)
    if last < first:
        wrong(path, place, f"an end before its start, {start} to {end}", "the start first")
    return first, last


def _shared(name: str, recording: Path) -> int:
    """Return the number of parts at the end of two paths that are the same."""
    pairs = zip(reversed(Path(name).parts), reversed(recording.absolute().parts), strict=False)
    same = (own.removesuffix(".gz") == other.removesuffix(".gz") for own, other in pairs)
    return sum(takewhile(bool, same))
