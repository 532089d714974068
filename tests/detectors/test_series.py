"""The metric detector: readings alone or together, saved and loaded, by any timestamps."""

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insa_anomaly import AnomalyDetector
from insa_anomaly.core.units import Floats
from insa_anomaly.detectors.device import DeviceDetector
from insa_anomaly.errors import ModelFileError, NotEnoughData, ParameterError, TrainingError

QUICK = {"n_estimators": 12, "max_samples": 64}
START = 1_700_000_000.0


def signal(n: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Return seconds and values, a reading a minute."""
    at = np.arange(n, dtype=np.float64)
    return START + at * 60.0, 20 + 3 * np.sin(2 * np.pi * at / 1440) + np.random.default_rng(
        seed
    ).normal(0, 0.3, n)


def ready(seed: int = 0) -> AnomalyDetector:
    """Return a detector that has learnt 400 readings."""
    times, values = signal(400, seed)
    detector = AnomalyDetector("PUMP-1", "pressure", **QUICK)
    detector.train({"timestamp": times, "value": values})
    return detector


def later(n: int) -> tuple[Floats, Floats]:
    """Return the readings after the learnt ones, with a fault and a missing value."""
    times, values = signal(400 + max(n, 80), 7)
    values[450:460] += 9
    values[470] = np.nan
    return times[400 : 400 + n], values[400 : 400 + n]


def test_law_observe_many_is_repeated_observe() -> None:
    """Single readings, many, and pieces lead to the same columns, to the bit."""
    times, values = later(120)
    many = ready().observe_many(values, times)
    pieces, single = ready(), ready()
    halves = [
        pieces.observe_many(values[part], times[part])
        for part in (slice(50), slice(50, 50), slice(50, None))
    ]
    each = [
        single.observe(value, time)
        for value, time in zip(values.tolist(), times.tolist(), strict=True)
    ]
    for name, column in many.items():
        assert column.tobytes() == np.concatenate([half[name] for half in halves]).tobytes()
        assert column.tobytes() == np.array([said[name] for said in each], column.dtype).tobytes()
    assert many["is_anomaly"][50]
    assert many["status"][70] == "bad_quality"
    assert "opened" in many["transition"]


def test_law_predict_changes_nothing() -> None:
    """`predict` between any two readings foretells `observe` and changes no later result."""
    times, values = later(80)
    asked, plain = ready(), ready()
    for value, time in zip(values, times, strict=True):
        foretold = asked.predict(value, time)
        asked.predict(1e6)
        said = plain.observe(value, time)
        np.testing.assert_equal(asked.observe(value, time), said)
        np.testing.assert_equal(foretold, said)


def test_law_saving_and_loading_in_mid_stream_changes_nothing(tmp_path: Path) -> None:
    """Another process continues from the saved detector."""
    times, values = later(120)
    plain, saved, loaded = ready(), ready(), AnomalyDetector("PUMP-1", "pressure", **QUICK)
    whole = plain.observe_many(values, times)
    head = saved.observe_many(values[:55], times[:55])
    assert saved.save_model(tmp_path / "model.npz")
    assert loaded.load_model(tmp_path / "model.npz")
    tail = loaded.observe_many(values[55:], times[55:])
    for name, column in whole.items():
        assert column.tobytes() == np.concatenate([head[name], tail[name]]).tobytes()
    assert loaded.get_model_info() == saved.get_model_info()
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


def test_law_it_learns_on_the_same_however_it_is_fed(tmp_path: Path) -> None:
    """Refits fall between the same two readings: singly, in pieces, or saved and loaded."""
    often = {
        **QUICK,
        "refit_readings_least": 60,
        "refit_readings_most": 60,
        "mature_days": 0.01,
        "mature_readings": 450,
    }
    times, values = signal(900, 3)
    values[600:640] += 9
    fed = [AnomalyDetector("PUMP-1", "pressure", **often) for _ in range(3)]
    for one in fed:
        one.train({"timestamp": times[:400], "value": values[:400]})
    whole = fed[0].observe_many(values[400:], times[400:])
    pieces = [
        fed[1].observe_many(values[begin : begin + 37], times[begin : begin + 37])
        for begin in range(400, 637, 37)
    ]
    fed[1].save_model(tmp_path / "model.npz")
    loaded = AnomalyDetector("PUMP-1", "pressure", **often)
    loaded.load_model(tmp_path / "model.npz")
    pieces.append(loaded.observe_many(values[659:], times[659:]))
    each = [
        fed[2].observe(value, time) for value, time in zip(values[400:], times[400:], strict=True)
    ]
    for name, column in whole.items():
        assert column.tobytes() == np.concatenate([piece[name] for piece in pieces]).tobytes()
        np.testing.assert_array_equal(column, np.array([said[name] for said in each]))
    assert [said["model_version"] for said in each][:: len(each) - 1] == [1, 9]
    info = fed[0].get_model_info()
    assert info == loaded.get_model_info() == fed[2].get_model_info()
    assert (info["age"], info["readings_ever"]) == ("mature", 880)
    assert 20 < info["readings_quarantined"] < 150


def test_a_file_that_is_no_model_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """A missing, empty, damaged or foreign file is refused."""
    good, stranger = ready(), AnomalyDetector("PUMP-2", "pressure", **QUICK)
    good.save_model(tmp_path / "good")
    data = (tmp_path / "good").read_bytes()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"hello")
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    (tmp_path / "hole").write_bytes(data[:4000] + bytes(200) + data[4200:])
    before = good.get_model_info()
    for name in ("missing", "empty", "text", "half", "hole"):
        with pytest.raises(ModelFileError, match=name):
            good.load_model(tmp_path / name)
    with pytest.raises(ModelFileError, match="PUMP-1/pressure"):
        stranger.load_model(tmp_path / "good")
    with pytest.raises(ModelFileError, match="cannot be written"):
        good.save_model(tmp_path / "no" / "folder")
    assert good.get_model_info() == before


def test_an_untrained_detector_collects(tmp_path: Path) -> None:
    """An untrained detector says so, scores 0, and can be saved."""
    detector = AnomalyDetector("PUMP-1", "pressure")
    assert detector.predict(1.0)["status"] == "collecting"
    said = detector.observe(4.2, START)
    assert (said["status"], said["score"], said["is_anomaly"], said["confidence"]) == (
        "collecting",
        0.0,
        False,
        0.0,
    )
    detector.save_model(tmp_path / "model")
    again = AnomalyDetector("PUMP-1", "pressure")
    assert again.load_model(tmp_path / "model")
    assert again.observe(4.2, START)["status"] == "duplicate"
    assert not again.get_model_info()["trained"]


def test_training_answers_what_is_known() -> None:
    """Figures that cannot be known are None, with the reason beside them."""
    info = ready().get_model_info()
    assert (info["version"], info["training_samples"], info["trained"]) == (1, 400, True)
    assert info["accuracy"] is None
    assert info["basis"].startswith("not assessed")
    assert 0 <= info["threshold"] <= 0.9
    assert info["parameters"]["n_estimators"] == 12


def test_the_first_reading_after_training_is_scored() -> None:
    """The newest training data fills the window; older data leaves the window as it was."""
    detector = ready()
    times, values = later(10)
    assert detector.observe(values[0], times[0])["status"] == "scored"
    old = signal(300)
    detector.train({"timestamp": old[0] - 86400, "value": old[1]})
    assert detector.observe(values[0], times[0])["status"] == "duplicate"
    assert detector.observe(values[1], times[1])["status"] == "scored"


def test_retraining_is_the_next_version() -> None:
    """A retraining keeps an open episode."""
    detector, (times, values) = ready(), signal(600)
    assert detector.observe(90.0, times[400])["transition"] == "opened"
    answer = detector.retrain({"timestamp": times[:500], "value": values[:500]})
    assert answer["version"] == 2
    closing = [
        detector.observe(value, time)["transition"]
        for value, time in zip(values[500:], times[500:], strict=True)
    ]
    assert closing.count("closed") == 1
    assert "opened" not in closing[: closing.index("closed")]


def same_times(n: int) -> dict[str, Any]:
    """Return the same timestamps, a minute apart, in another form."""
    moments = [datetime(2024, 3, 1, tzinfo=UTC) + timedelta(minutes=i) for i in range(n)]
    seconds = [moment.timestamp() for moment in moments]
    return {
        "seconds": seconds,
        "numbers": np.array(seconds, np.int64),
        "datetimes": moments,
        "zoned": [
            moment.astimezone(timezone(timedelta(hours=5, minutes=30))) for moment in moments
        ],
        "naive": [moment.replace(tzinfo=None) for moment in moments],
        "texts": [moment.isoformat() for moment in moments],
        "numpy": np.array([moment.replace(tzinfo=None) for moment in moments], "datetime64[ns]"),
        "iterator": iter(seconds),
    }


@pytest.mark.parametrize("kind", same_times(0))
def test_any_kind_of_timestamp_is_the_same_time(kind: str) -> None:
    """Seconds, datetimes, texts and numpy times mean the same."""
    _, values = signal(130)
    detector, plain = (AnomalyDetector("P", "m", **QUICK) for _ in range(2))
    detector.train({"timestamp": same_times(130)[kind], "value": values})
    plain.train({"timestamp": same_times(130)["seconds"], "value": values})
    assert detector.get_model_info() == plain.get_model_info()
    np.testing.assert_equal(
        detector.observe_many(values, same_times(130)[kind]),
        plain.observe_many(values, same_times(130)["seconds"]),
    )


@pytest.mark.parametrize("wrong", [[float("nan")], [np.datetime64("NaT")], ["yesterday"]])
def test_a_timestamp_that_is_none_is_refused(wrong: list[Any]) -> None:
    """A value that is no timestamp is refused before anything changes."""
    with pytest.raises(ValueError, match=r".+"):
        ready().observe_many([1.0], wrong)


def test_shapes_must_agree() -> None:
    """Timestamps and values must be equal in number."""
    with pytest.raises(ValueError, match=r"shape \(2,\) for values of shape \(3,\)"):
        ready().observe_many([1.0, 2.0, 3.0], [START, START + 1])
    with pytest.raises(TrainingError, match="must be"):
        ready().train({"timestamp": [START], "value": [1.0, 2.0]})
    with pytest.raises(NotEnoughData):
        ready().train({"timestamp": [START], "value": [1.0]})


def test_parameters_are_named_and_checked() -> None:
    """An unknown name is a TypeError; a value of the wrong kind names its bounds."""
    with pytest.raises(
        TypeError, match="unknown parameter contamnation; known: alpha, contamination"
    ):
        AnomalyDetector("P", "m", contamnation=0.1)
    with pytest.raises(ParameterError, match="alpha is 'high'; it must be a number greater than 0"):
        AnomalyDetector("P", "m", alpha="high")


@pytest.mark.parametrize(
    ("parameter", "value", "allowed"),
    [
        ("gap_factor", -1.0, "a number greater than 1"),
        ("worsen_step", -5.0, "a number greater than 0 and at most 1"),
        ("alpha", -3.0, "a number greater than 0 and at most 0.1"),
        ("contamination", 7.0, "'auto', or a number from 1e-06 to 0.5"),
        ("max_samples", 1000, "'auto', or a number from 2 to 256"),
        ("n_estimators", 2.5, "a whole number at least 1 and at most 1000"),
        ("history_days", float("nan"), "a number greater than 0"),
    ],
)
@pytest.mark.parametrize("build", [AnomalyDetector, DeviceDetector])
def test_a_parameter_out_of_bounds_is_refused_in_words(
    build: Callable[..., object], parameter: str, value: float, allowed: str
) -> None:
    """The error names the parameter, its value and the allowed values, for both detectors."""
    second: Any = "m" if build is AnomalyDetector else ["a", "b"]
    with pytest.raises(ParameterError) as refused:
        build("P", second, **{parameter: value})
    assert str(refused.value) == f"{parameter} is {value}; it must be {allowed}"


def test_a_reading_that_stands_out_has_reasons() -> None:
    """An anomaly names its rule and the features' shares; an ordinary reading has no reasons."""
    detector, (times, values) = ready(), later(5)
    assert detector.observe(values[0], times[0])["reasons"] == []
    named, reasons = [], detector.observe(90.0, times[1])["reasons"]
    while reasons[0]["share"] == 1:
        named.append(reasons.pop(0)["feature"])
    assert named == ["new_extreme", "impossible_rate"]
    assert reasons[0]["share"] >= reasons[-1]["share"] > 0
    assert sum(reason["share"] for reason in reasons) <= 1
    assert any("+" in reason["text"] for reason in reasons)


def test_scoring_loads_no_scikit_learn() -> None:
    """Importing the package loads neither scikit-learn nor numpy."""
    code = """
import sys
import insa_anomaly
assert "numpy" not in sys.modules
from insa_anomaly import AnomalyDetector, DeviceDetector
AnomalyDetector("P", "m").observe(1.0, 0.0)
DeviceDetector("P", ["m", "n"]).observe({"m": 1.0}, 0.0)
assert "sklearn" not in sys.modules and "joblib" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
