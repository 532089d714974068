"""The table of readings: its columns as binary arrays, its series ids, its weekly partitions."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

from insa_anomaly.adapters.postgres.connection import Session
from insa_anomaly.adapters.postgres.text import storable
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.recorder import Telemetry

EPOCH = 946_684_800_000_000  # PostgreSQL counts microseconds from 2000-01-01

# The columns of a reading: name, format on the wire, and type in PostgreSQL.
_NAMES = ["series_id", "ts", "disc", "value", "quality", "flags"]
_WIRES = [">i4", ">i8", ">i8", ">f8", ">i2", ">i2"]
_TYPE_IDS = (23, 1184, 20, 701, 21, 21)
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"
_COPY_FIELDS = [
    field
    for name, wire in zip(_NAMES, _WIRES, strict=True)
    for field in ((f"{name}_length", ">i4"), (name, wire))
]
_COPY_ROW = np.dtype([("columns", ">i2"), *_COPY_FIELDS])
_WEEK = timedelta(weeks=1)


class BinaryArray(bytes):
    """A one-dimensional array in PostgreSQL's binary format, ready to be sent as it is."""

    __slots__ = ()


class BinaryArrayDumper(Dumper):
    """Sends a BinaryArray as it is; the statement casts it to its type."""

    format = Format.BINARY

    def dump(self, obj: Buffer) -> Buffer:
        """Return the bytes as they are."""
        return obj


def _binary_array(values: npt.NDArray[np.generic], wire: str, type_id: int) -> BinaryArray:
    """Return values as an array: each element is four bytes of length and the value."""
    elements = np.empty(len(values), [("length", ">i4"), ("value", wire)])
    elements["length"] = np.dtype(wire).itemsize
    elements["value"] = values
    head = np.array([1, 0, type_id, len(values), 1], ">i4")
    return BinaryArray(head.tobytes() + elements.tobytes())


def columns(telemetry: Telemetry, series_ids: npt.NDArray[np.int32]) -> tuple[object, ...]:
    """Return the parameters of the query `add_telemetry`.

    `series_ids[i]` belongs to `telemetry.keys[i]`.
    """
    arrays = map(_binary_array, _values(telemetry, series_ids), _WIRES, _TYPE_IDS)
    return (*arrays, _originals(telemetry.original))


def copy_stream(telemetry: Telemetry, series_ids: npt.NDArray[np.int32]) -> bytes:
    """Return all columns but `original` for the query `copy_telemetry`.

    Each row is its number of columns, then each value preceded by its length.
    """
    rows = np.empty(len(telemetry.key), _COPY_ROW)
    rows["columns"] = len(_NAMES)
    for name, values in zip(_NAMES, _values(telemetry, series_ids), strict=True):
        rows[f"{name}_length"] = rows[name].itemsize
        rows[name] = values
    return b"".join((_COPY_HEADER, rows.tobytes(), _COPY_END))


def _values(
    telemetry: Telemetry, series_ids: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.generic], ...]:
    measured = (telemetry.value, telemetry.quality, telemetry.flags)
    times = telemetry.timestamp - EPOCH
    return (series_ids[telemetry.key], times, telemetry.discriminator, *measured)


def _originals(original: Mapping[int, str]) -> list[str | None]:
    return [
        storable(original[row]) if row in original else None
        for row in range(max(original, default=-1) + 1)
    ]


class SeriesIds:
    """Ids by name, remembered once they are committed; new names are added as they come."""

    def __init__(self, statements: Mapping[str, bytes]) -> None:
        self._statements = statements
        self._known: dict[SeriesKey, int] = {}

    def of(self, telemetry: Telemetry, session: Session) -> npt.NDArray[np.int32]:
        """Return the id of each of `telemetry.keys`, 0 for a key without a reading.

        New names are committed at once, outside the page.
        """
        # Only the keys present at this moment count: another thread adds keys.
        used = np.zeros(len(telemetry.keys), bool)
        used[telemetry.key] = True
        wanted = [telemetry.keys[place] for place in np.flatnonzero(used).tolist()]
        self._learn([key for key in wanted if key not in self._known], session)
        ids = np.zeros(len(used), np.int32)
        ids[used] = [self._known[key] for key in wanted]
        return ids

    def _learn(self, keys: Sequence[SeriesKey], session: Session) -> None:
        if not keys:
            return
        names = {
            "devices": [key.device_id for key in keys],
            "metrics": [key.metric_name for key in keys],
        }
        found = self._found(names, session)
        if len(found) < len(set(keys)):
            session.execute(self._statements["add_series"], names)
            found = self._found(names, session)
        self._known.update(found)

    def _found(self, names: Mapping[str, list[str]], session: Session) -> dict[SeriesKey, int]:
        rows = session.execute(self._statements["series_ids"], names).fetchall()
        return {SeriesKey(device, metric): number for device, metric, number in rows}


def ensure_partitions(session: Session, statements: Mapping[str, bytes], today: date) -> list[str]:
    """Create the missing weekly partitions around `today` and return their names.

    Readings of such a week move there from the default partition. Five weeks back cover all
    readings that intake accepts by default; four weeks ahead outlast a pause of this upkeep.
    """
    if not _missing(session, statements, today):
        return []
    with session.transaction():
        session.execute(statements["one_at_a_time_here"])
        missing = _missing(session, statements, today)
        for monday in missing.values():
            session.execute(statements["add_week"], (monday,))
    return list(missing)


def _missing(session: Session, statements: Mapping[str, bytes], today: date) -> dict[str, date]:
    there = {name for (name,) in session.execute(statements["partitions"])}
    return {name: monday for name, monday in _weeks(today) if name not in there}


def _weeks(today: date) -> Iterator[tuple[str, date]]:
    monday = today - timedelta(days=today.weekday())
    for number in range(-5, 5):
        start = monday + number * _WEEK
        yield f"telemetry_{start:%Y%m%d}", start
