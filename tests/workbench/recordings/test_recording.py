"""Recorded files: the same rows in any packing, and a clear error for every fault."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insa_anomaly.errors import FileFormatError
from insa_anomaly.workbench.recordings.recording import Row, inspect, inspect_all, survey

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SECOND = 1_000_000
START = 1_583_000_000 * SECOND
HEADER = ("datetime", "Pressure", "Volume Flow RateRMS", "anomaly")

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
cells = st.lists(
    st.tuples(st.one_of(st.none(), numbers), st.one_of(st.none(), numbers)), min_size=1, max_size=20
)


def stamp(timestamp: int, style: str) -> str:
    """Return the time in a style that a file may have."""
    moment = datetime.fromtimestamp(timestamp / SECOND, UTC)
    ways = {
        "rfc3339": moment.isoformat().replace("+00:00", "Z"),
        "naive": moment.strftime("%Y-%m-%d %H:%M:%S"),
        "offset": moment.isoformat(),
        "s": str(timestamp // SECOND),
        "ms": str(timestamp // 1000),
        "us": str(timestamp),
        "ns": str(timestamp * 1000),
        "float": f"{timestamp / SECOND:.3f}",
    }
    return ways[style]


def write(path: Path, text: str) -> Path:
    """Write the text to a file, packed where the name has `.gz`."""
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    table=cells,
    separator=st.sampled_from([",", ";", "\t"]),
    suffix=st.sampled_from([".csv", ".csv.gz", ".txt"]),
    end=st.sampled_from(["\n", "\r\n"]),
    style=st.sampled_from(["rfc3339", "naive", "offset", "s", "ms", "us", "ns", "float"]),
    blank=st.sampled_from(["", "NaN", "null", " "]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_packing_changes_nothing(
    tmp_path: Path,
    *,
    table: list[tuple[float | None, float | None]],
    separator: str,
    suffix: str,
    end: str,
    style: str,
    blank: str,
    mark: str,
) -> None:
    """The rows do not depend on separator, compression, line ends or byte-order mark.

    Nor do they depend on the style of times and of empty cells.
    """
    lines = [separator.join(HEADER)]
    expected = []
    for i, pair in enumerate(table):
        timestamp = START + i * SECOND
        lines.append(
            separator.join(
                [stamp(timestamp, style), *(blank if v is None else repr(v) for v in pair), "0.0"]
            )
        )
        values = {name: v for name, v in zip(HEADER[1:3], pair, strict=True) if v is not None}
        if values:
            expected.append(Row("pump_1", timestamp, values, f"pump 1:{i + 2}"))
    recording = inspect(write(tmp_path / f"pump 1{suffix}", mark + end.join(lines) + end))
    assert list(recording.rows()) == expected
    assert recording.excluded == ("anomaly",)
    assert recording.naive == (style == "naive")


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    """A recording can be read again, and its span describes its rows."""
    recording = inspect(
        write(
            tmp_path / "a.csv",
            "timestamp,value\n2020-01-01 00:00:02,1\n2020-01-01 00:00:01,\n2020-01-01 00:00:00,2\n",
        )
    )
    assert list(recording.rows()) == list(recording.rows())
    span = survey(recording)
    assert (span.rows, span.readings, span.last - span.first) == (2, 2, 2 * SECOND)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1583000000,2.5\n1583000001,3\n", [{"value": 2.5}, {"value": 3.0}]),
        ("2020-01-01T00:00:00Z;2,5\n2020-01-01T00:00:01Z;-3\n", [{"value": 2.5}, {"value": -3.0}]),
        ("time,temperature\n2020-01-01,7e1\n", [{"temperature": 70.0}]),
        (",a,b\n2020-01-01,1,2\n", [{"a": 1.0, "b": 2.0}]),
        ("n;timestamp;a;\n1;2020-01-01;1;\n", [{"n": 1.0, "a": 1.0}]),
        ('timestamp,"flow, l/min"\n\n2020-01-01,1\n\n', [{"flow, l_min": 1.0}]),
        ("timestamp,label,Label\n2020-01-01,x,1\n", [{"Label": 1.0}]),
    ],
)
def test_plain_and_odd_files(tmp_path: Path, text: str, values: list[dict[str, float]]) -> None:
    """Odd files are read: no header, decimal commas, a nameless index, an empty last column.

    Quotes and blank lines are read too; label columns go by exact name only.
    """
    assert values == [row.values for row in inspect(write(tmp_path / "a.csv", text)).rows()]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("timestamp,value\n", "one line only"),
        ("hello\nworld\n", "expected timestamp,value"),
        ("when,value\nyesterday,1\n", "line 2.*RFC 3339"),
        ("timestamp,value\n20200101,1\n", "line 2.*since 1970"),
        ("1583000000,1,2\n", "no header"),
        ("timestamp,anomaly\n2020-01-01,1\n", "no column with a metric"),
        ("timestamp,a,a\n2020-01-01,1,2\n", "two columns named 'a'"),
        ("timestamp,value\n2020-01-01,1\n2020-01-02,high\n", "line 3: 'high' in column 'value'"),
        ("timestamp,value\n2020-01-01,1\n2020-01-02,inf\n", "line 3.*finite"),
        ("timestamp,value\n2020-01-01,1\n\nnot a day,2\n", "line 4: time 'not a day'"),
        ("timestamp,value\n2020-01-01,1\n2020-01-02,1,2\n", "line 3: 3 cells; expected 2"),
        ("timestamp,value\n2020-01-01,1\n" + "x" * 2_000_000, "line 3.*end of line"),
        ("timestamp,value\n2020-01-01,\n", "no row has a value"),
        ('timestamp,value\n2020-01-01,"' + "1\n" * 100_000, "line .*field larger"),
    ],
)
def test_wrong_files_say_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    """The error names the file, the line and the expected text."""
    path = write(tmp_path / "wrong.csv", text)
    with pytest.raises(FileFormatError, match=f"wrong.csv.*{says}"):
        survey(inspect(path))


def test_what_is_no_text(tmp_path: Path) -> None:
    """A damaged, binary or missing file, another encoding or a folder is refused by name."""
    whole = gzip.compress(b"timestamp,value\n" + b"2020-01-01,1\n" * 20_000)
    utf16 = "time,°C\n2020-01-01,1".encode("utf-16")
    wrong = {
        "short.gz": whole[:-30],
        "bad.gz": whole[:50] + b"?" * 40,
        "b.csv": bytes(range(256)) * 9,
        "u.csv": utf16,
    }
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileFormatError, match=name):
            survey(inspect(tmp_path / name))
    (tmp_path / "latin.csv").write_bytes("time,°C\n2020-01-01,1\n".encode("latin-1"))
    with pytest.raises(FileFormatError, match="UTF-8"):
        inspect(tmp_path / "latin.csv")
    for missing in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(FileFormatError, match="cannot be read"):
            inspect(missing)


def test_names_of_devices_and_metrics(tmp_path: Path) -> None:
    """A device is named after its file, and files of equal names after their folders too.

    An operator may name device and metric.
    """
    (tmp_path / "valve1").mkdir()
    (tmp_path / "valve2").mkdir()
    text = "timestamp,value\n2020-01-01,1\n"
    same = [write(tmp_path / folder / "1.csv.gz", text) for folder in ("valve1", "valve2")]
    other = write(tmp_path / "Öl pump#3.csv", text)
    assert [r.device_id for r in inspect_all([*same, other])] == [
        "valve1-1",
        "valve2-1",
        "Öl_pump_3",
    ]
    named = inspect(other, "PUMP-3", "pressure")
    assert (named.device_id, named.metrics) == ("PUMP-3", ((1, "pressure"),))
    with pytest.raises(FileFormatError, match="rename them"):
        inspect_all([same[0], same[0]])


def test_columns_left_out(tmp_path: Path) -> None:
    """Named columns replace the usual list of excluded columns; an unknown name is an error."""
    path = write(tmp_path / "a.csv", "timestamp,a,note,anomaly\n2020-01-01,1,x,0\n")
    (recording,) = inspect_all([path], exclude=("note",))
    assert [row.values for row in recording.rows()] == [{"a": 1.0, "anomaly": 0.0}]
    assert recording.notes() == ["left out: note", "times carry no zone: taken as UTC"]
    with pytest.raises(FileFormatError, match="no file has a column named nope"):
        inspect_all([path], exclude=("nope", "note"))


@pytest.mark.skipif(
    not DATA.exists(),
    reason="the recorded data sets are not beside the repository (../shared/data)",
)
@pytest.mark.parametrize(
    ("folder", "files", "rows", "metrics"), [("NAB", 58, 365_558, 1), ("SKAB", 35, 46_806, 8)]
)
def test_recorded_sets_read_as_they_are(folder: str, files: int, rows: int, metrics: int) -> None:
    """Every file of both sets is read, row for row, without its label columns."""
    recordings = inspect_all(sorted((DATA / folder / "data").rglob("*.csv.gz")))
    spans = [survey(recording) for recording in recordings]
    assert (files, rows, rows * metrics) == (
        len(recordings),
        sum(s.rows for s in spans),
        sum(s.readings for s in spans),
    )
    assert {metrics} == {len(recording.metrics) for recording in recordings}
