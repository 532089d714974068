"""Labels: found for their recording in each form, and a clear line for a file in no known form."""

import json
from pathlib import Path

import numpy as np
import pytest

from insa_anomaly.errors import FileFormatError
from insa_anomaly.workbench.recordings.labels import inside, read_labels
from insa_anomaly.workbench.recordings.recording import time_of
from insa_anomaly.workbench.recordings.table import load, recordings

WINDOW = ["2014-02-10 10:00:00.000000", "2014-02-10 12:00:00.000000"]


def written(path: Path, text: str) -> Path:
    """Write the text to a file."""
    path.write_text(text)
    return path


def test_windows_are_found_by_the_end_of_the_path(tmp_path: Path) -> None:
    """Windows are found for a packed or plain recording in any folder; the longer match wins."""
    labels = read_labels(
        written(
            tmp_path / "w.json",
            json.dumps({"known/a.csv": [WINDOW], "other/a.csv": [], "known/b.csv": []}),
        )
    )
    assert len(labels.of(Path("/somewhere/known/a.csv.gz"))) == 1
    assert labels.of(Path("/somewhere/other/a.csv")) == []
    assert labels.of(Path("b.csv")) == []
    with pytest.raises(FileFormatError, match=r"could be any of 'known/a.csv', 'other/a.csv'"):
        labels.of(Path("/elsewhere/a.csv"))
    with pytest.raises(FileFormatError, match=r"says nothing of /elsewhere/c.csv"):
        labels.of(Path("/elsewhere/c.csv"))


def test_a_csv_of_events(tmp_path: Path) -> None:
    """Events hold for any recording, or with `file` for the named recordings alone.

    Both ends belong to an event.
    """
    for_all = read_labels(
        written(tmp_path / "all.csv", "start,end\n2014-02-10 10:00:00,2014-02-10 12:00:00\n")
    )
    ((start, end),) = for_all.of(Path("x.csv"))
    assert (start, end) == (time_of(WINDOW[0]), time_of(WINDOW[1]))
    assert inside(np.array([start - 1, start, end, end + 1]), [(start, end)]).tolist() == [
        False,
        True,
        True,
        False,
    ]
    named = read_labels(
        written(
            tmp_path / "some.csv",
            "File,Start,End\na.csv,2014-02-10T10:00:00Z,2014-02-10T12:00:00Z\n",
        )
    )
    assert named.of(Path("/data/a.csv.gz")) == [(start, end)]
    assert list(named.of(Path("/data/b.csv"))) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "the columns of nothing; expected start,end"),
        ("from,to\n1,2\n", "the columns from, to; expected start,end"),
        ("start,end\nsoon,later\n", "line 2: time 'soon'; expected RFC 3339"),
        ("start,end\n2014-02-10T10:00:00Z\n", "line 2: time ''; expected RFC 3339"),
        ("start,end\n2014-02-10T10:00:00Z,2014-02-09T10:00:00Z\n", "an end before its start"),
        (
            '{"a.csv": ["2014-02-10 10:00:00"]}',
            "a.csv: '2014-02-10 10:00:00'; expected [start, end]",
        ),
        ('{"a.csv": 3}', "expected for every recording a list"),
        ('{"a.csv": [', "expected for every recording a list"),
    ],
)
def test_what_is_no_file_of_labels_is_told_in_a_line(tmp_path: Path, text: str, word: str) -> None:
    """The line states the file, the place, the text found and the text expected."""
    with pytest.raises(FileFormatError) as raised:
        read_labels(written(tmp_path / "labels", text))
    assert word in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_of_labels_that_is_not_there(tmp_path: Path) -> None:
    """A missing file of labels is reported in a line, too."""
    with pytest.raises(FileFormatError, match="labels.json: cannot be read: No such file"):
        read_labels(tmp_path / "labels.json")


def test_a_column_of_labels_is_no_metric(tmp_path: Path) -> None:
    """A column `anomaly` marks rows; `changepoint` is neither a metric nor a mark.

    Labels from a file beat the column.
    """
    rows = "time;a;b;anomaly;changepoint\n" + "".join(
        f"2014-02-10 10:0{i}:00;{i};{'' if i == 2 else i};{i // 4}.0;1.0\n" for i in range(6)
    )
    path = written(tmp_path / "skab.csv", rows)
    ((recording, mark),) = recordings([path], labelled=False)
    table = load(recording, mark, None)
    assert (table.metrics, table.truth is not None and table.truth.tolist()) == (
        ("a", "b"),
        [False] * 4 + [True] * 2,
    )
    first, second = table.series()
    assert (first.name, second.name, len(first.times), len(second.times)) == (
        "skab/a",
        "skab/b",
        6,
        5,
    )
    assert second.truth is not None
    assert second.truth.tolist() == [False] * 3 + [True] * 2
    ((recording, mark),) = recordings([path], labelled=True)
    assert mark is None
    assert load(recording, mark, None).truth is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (
            "time,a,anomaly\n2014-02-10 10:00:00,1,0\n2014-02-10 10:01:00,1,2\n",
            "line 3: 2 in the column of labels 'anomaly'; expected 0 or 1",
        ),
        ("time,anomaly\n2014-02-10 10:00:00,1\n", "no column with a metric"),
        (
            "time,a\n2014-02-10 10:02:00,1\n2014-02-10 10:01:00,1\n2014-02-10 10:00:00,1\n",
            "time runs backwards",
        ),
        ("time,a\n2014-02-10 10:02:00,\n", "no row has a value"),
    ],
)
def test_what_cannot_be_evaluated_is_told_in_a_line(tmp_path: Path, text: str, word: str) -> None:
    """The line states the file and its fault."""
    path = written(tmp_path / "x.csv", text)
    with pytest.raises(FileFormatError) as raised:
        [load(recording, mark, None) for recording, mark in recordings([path], labelled=False)]
    assert word in str(raised.value)
