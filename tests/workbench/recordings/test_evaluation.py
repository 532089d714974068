"""Evaluation: the same detector as in the stream, and its results for people and programs."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from insa_anomaly import AnomalyDetector
from insa_anomaly.cli import cli
from insa_anomaly.core.units import Floats, Ints
from insa_anomaly.errors import FileFormatError, InsaError, PlotUnavailable
from insa_anomaly.workbench.recordings import evaluation, plot
from insa_anomaly.workbench.recordings.evaluation import MetricDetector, Run, Split, run
from insa_anomaly.workbench.recordings.table import load, recordings

NAB = Path(__file__).resolve().parents[3] / "shared" / "data" / "NAB"
QUICK: dict[str, float | str] = {"n_estimators": 8, "max_samples": 64}
Command = Callable[..., tuple[int, str, str]]
START = 1_760_000_000
FAULT = slice(900, 960)


def signal(n: int = 1200, seed: int = 0) -> Floats:
    """Return a reading a minute, with a level shift in `FAULT`."""
    values = 20 + np.sin(np.arange(n) / 40) + np.random.default_rng(seed).normal(0, 0.2, n)
    values[FAULT] += 9
    return np.round(values, 3)


def recorded(path: Path, columns: Mapping[str, Floats | Ints]) -> Path:
    """Write the columns to a file, a row a minute."""
    rows = zip(*columns.values(), strict=True)
    lines = [
        ",".join(["timestamp", *columns]),
        *(",".join(map(str, (START + 60 * i, *row))) for i, row in enumerate(rows)),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Write a recording with its fault labelled."""
    mark = np.zeros(1200, np.int64)
    mark[FAULT] = 1
    return recorded(tmp_path / "pump.csv", {"pressure": signal(), "anomaly": mark})


def evaluated(path: Path, split: Split) -> Run:
    """Evaluate the first metric of the file."""
    ((recording, mark),) = recordings([path], labelled=False)
    table = load(recording, mark, None).series()[0]
    return run(MetricDetector(table, QUICK), table, split, lambda _: None)


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return the command with small forests; it returns status, output and standard error."""
    for name, value in QUICK.items():
        monkeypatch.setenv(f"INSA_DETECTION__{name.upper()}", str(value))

    def call(*arguments: object) -> tuple[int, str, str]:
        done = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(
            cli, ["evaluate", *map(str, arguments)]
        )
        if isinstance(done.exception, InsaError):
            raise done.exception
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return call


# ------------------------------------------------------------------------- the same detector
def test_it_says_what_the_public_detector_says(labelled: Path) -> None:
    """Each score equals the public detector's to the bit.

    Every episode is explained as `observe` explains the reading that opened it.
    """
    found = evaluated(labelled, Split(0.3))
    values, times = signal(), START + 60.0 * np.arange(1200)
    detector = AnomalyDetector("pump", "pressure", **QUICK)
    info = detector.train({"timestamp": times[:360], "value": values[:360]})
    said = [
        detector.observe(value, time)
        for value, time in zip(values[360:].tolist(), times[360:].tolist(), strict=True)
    ]
    assert found.said["score"].tobytes() == np.array([one["score"] for one in said]).tobytes()
    assert found.threshold == info["threshold"]
    opened = [i for i, one in enumerate(said) if one["transition"] == "opened"]
    assert [episode.first for episode in found.episodes] == opened
    assert opened
    for episode in found.episodes:
        one = said[episode.first]
        assert (episode.value, episode.expected) == (values[360 + episode.first], one["expected"])
        assert episode.reasons == tuple(reason["text"] for reason in one["reasons"])
        assert said[episode.last]["is_anomaly"]


def test_the_pieces_in_which_it_goes_change_nothing(
    labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of the pieces changes no score, episode or reason.

    Explaining an episode disturbs no later reading.
    """
    whole = evaluated(labelled, Split(0.3))
    monkeypatch.setattr(evaluation, "_CHUNK", 23)
    pieces = evaluated(labelled, Split(0.3))
    assert pieces.said["score"].tobytes() == whole.said["score"].tobytes()
    assert pieces.episodes == whole.episodes


def test_labels_change_nothing(labelled: Path, tmp_path: Path) -> None:
    """Labels serve for counting, never for learning."""
    blind = evaluated(recorded(tmp_path / "blind.csv", {"pressure": signal()}), Split(0.3))
    assert blind.said["score"].tobytes() == evaluated(labelled, Split(0.3)).said["score"].tobytes()


@pytest.mark.parametrize(
    ("text", "learnt"),
    [("0.3", 300), ("400", 400), ("0.15,750", 150), ("0.9,750", 750), ("5000", 1000)],
)
def test_how_much_is_learnt(text: str, learnt: int) -> None:
    """The learnt part is a share, a number of rows, or the smaller of both."""
    assert Split.parse(text).of(1000) == learnt


@pytest.mark.parametrize("text", ["", "some", "0", "-5", "1.5", "0.3,0", "nan", "inf"])
def test_how_much_is_learnt_must_be_said_clearly(text: str) -> None:
    """A learnt part that is empty or unclear is refused."""
    with pytest.raises(ValueError, match=r".+"):
        Split.parse(text)


def test_something_must_be_left_to_judge_by(labelled: Path) -> None:
    """A recording that would be learnt as a whole is refused."""
    with pytest.raises(FileFormatError, match="none is left"):
        evaluated(labelled, Split(rows=5000))


# ----------------------------------------------------------------------------- the command
def test_a_labelled_recording_gives_a_table_and_one_object(
    evaluate: Command, labelled: Path
) -> None:
    """A table has a row for each series and a total.

    Programs get the same figures as the last and only object on standard output.
    """
    status, text, _ = evaluate(labelled)
    assert status == 0
    assert re.search(r"pump/pressure +1/1 ", text)
    assert re.search(r"total of 1 series +1/1 ", text)
    assert "without labels" in text
    status, out, err = evaluate(labelled, "--json")
    said = json.loads(out)
    assert (status, said["refused"]) == (0, {})
    assert "pump/pressure" in err
    told = said["total"]["told"]
    assert (told["events"], told["caught"]) == (1, 1)
    assert said["series"][0]["figures"] == said["total"]
    assert 0 < said["total"]["tpr"] <= 1
    assert said["series"][0]["learnt_readings"] == 360


def test_without_labels_every_episode_is_told(evaluate: Command, tmp_path: Path) -> None:
    """Every episode is listed with its value, the expected value and the reasons."""
    _, text, _ = evaluate(recorded(tmp_path / "pump.csv", {"flow [bold]": signal()}))
    assert re.search(r"pump/flow \[bold\] +360 +840 ", text)
    assert re.search(
        r"2025-10-\d\d \d\d:\d\d:\d\d  pump/flow \[bold\]  \S+  expected .* confidence 0?\.?\d+.* "
        r"lasted ",
        text,
    )


def test_labels_from_a_file(evaluate: Command, tmp_path: Path) -> None:
    """Windows may have NAB's form; an event in the learnt part is reported and not counted."""
    path = recorded(tmp_path / "pump.csv", {"pressure": signal()})
    windows = [
        [START + 60 * first, START + 60 * last]
        for first, last in ((100, 120), (FAULT.start, FAULT.stop - 1))
    ]
    (tmp_path / "windows.json").write_text(
        json.dumps({"plant/pump.csv": [[str(start), str(end)] for start, end in windows]})
    )
    _, text, _ = evaluate(path, "--labels", tmp_path / "windows.json")
    assert re.search(r"total of 1 series +1/1 ", text)
    assert "Not counted: 1 event" in text


def test_a_device_is_judged_as_one(evaluate: Command, tmp_path: Path) -> None:
    """All columns together are a single row of the table; each episode names a metric."""
    mark = np.zeros(1200, np.int64)
    mark[FAULT] = 1
    columns: dict[str, Floats | Ints] = {
        "pressure": signal(),
        "flow": signal(seed=1),
        "anomaly": mark,
    }
    status, out, _ = evaluate(recorded(tmp_path / "pump.csv", columns), "--device", "--json")
    (series,) = json.loads(out)["series"]
    assert (status, series["series"], series["figures"]["told"]["events"]) == (0, "pump", 1)
    assert {episode["metric"] for episode in series["episodes"]} <= {"pressure", "flow"}


def test_one_series_that_cannot_be_learnt_stops_no_other(
    evaluate: Command, labelled: Path, tmp_path: Path
) -> None:
    """A series that cannot be learnt is named with the reason, and stops no other series.

    The status reports the failure.
    """
    short = recorded(tmp_path / "short.csv", {"level": signal()[:60]})
    status, out, err = evaluate(labelled, short, "--json")
    said = json.loads(out)
    assert status == 1
    assert list(said["refused"]) == ["short/level"]
    assert "not evaluated: short/level: " in err
    assert [series["series"] for series in said["series"]] == ["pump/pressure"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("nowhere.csv",), "nowhere.csv: cannot be read"),
        (("pump.csv", "--labels", "nowhere.json"), "nowhere.json: cannot be read"),
        (("pump.csv", "--plot", "nowhere/out.html"), "there is no folder"),
    ],
)
def test_bad_input_is_one_clear_line(
    evaluate: Command,
    labelled: Path,
    arguments: tuple[str, ...],
    word: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bad input is reported in a line before anything is learnt."""
    monkeypatch.chdir(labelled.parent)
    with pytest.raises(FileFormatError) as raised:
        evaluate(*arguments)
    assert word in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_share_that_is_none(evaluate: Command, labelled: Path) -> None:
    """An invalid share is reported like any other wrong argument."""
    assert evaluate(labelled, "--train", "half")[0] == 2


# ----------------------------------------------------------------------------- the picture
def test_the_picture_opens_without_a_network(
    evaluate: Command, labelled: Path, tmp_path: Path
) -> None:
    """The picture is a single file with plotly.js inside, and shows series and episodes."""
    evaluate(labelled, "--plot", tmp_path / "out.html")
    html = (tmp_path / "out.html").read_text()
    assert len(html) > 1_000_000
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", html)
    assert html.count("Plotly.newPlot(") >= 1
    assert "labelled event" in html


def test_the_picture_shows_what_was_said(labelled: Path) -> None:
    """The picture shows series, band, anomalies and scores, and a shade for each event and episode.

    No other reading is marked as anomalous.
    """
    found = evaluated(labelled, Split(0.3))
    drawn = plot.picture(found).to_dict()
    traces = {trace.get("name"): trace for trace in drawn["data"]}
    assert {
        "band",
        "expected",
        "pressure",
        "anomalous",
        "score",
        "labelled event",
        "episode",
    } <= set(traces)
    assert len(traces["anomalous"]["x"]) == int(found.flags.sum())
    assert len(traces["pressure"]["x"]) == len(found.flags)
    shades = [shape for shape in drawn["layout"]["shapes"] if shape["type"] == "rect"]
    assert len(shades) == 1 + len(found.episodes)


def test_a_long_series_keeps_its_outline(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thinned picture keeps the extreme readings, the strangest score, and every alarm."""
    monkeypatch.setattr(plot, "_STRETCHES", 20)
    found = evaluated(labelled, Split(0.3))
    shown = plot.drawn(found)
    values, scores = found.table.values[:, 0], found.said["score"]
    assert len(shown) < len(values)
    assert set(np.flatnonzero(found.flags)) <= set(shown)
    assert {int(values.argmin()), int(values.argmax()), int(scores.argmin())} <= set(shown.tolist())


def test_without_plotly_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing plotly is reported before hours of work, not after."""
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    with pytest.raises(PlotUnavailable, match="extra `plot`"):
        plot.check_plots(tmp_path / "out.html")


# ----------------------------------------------------------------------- a public recording
@pytest.mark.skipif(
    not NAB.is_dir(), reason="the Numenta Anomaly Benchmark is not beside the repository"
)
def test_a_recording_of_nab_and_its_windows(evaluate: Command) -> None:
    """Labels of NAB are found for a packed or plain recording, and its event is judged."""
    path = NAB / "data" / "realAdExchange" / "exchange-2_cpm_results.csv.gz"
    labels = NAB / "labels" / "combined_windows.json"
    _, out, _ = evaluate(path, "--labels", labels, *["--train", "0.15,750", "--json"])
    (series,) = json.loads(out)["series"]
    assert (series["learnt_readings"], series["figures"]["told"]["events"]) == (243, 2)
    assert 0 <= series["figures"]["fpr"] < 0.1
