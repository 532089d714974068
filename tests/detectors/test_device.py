"""The device detector: rows alone or together, saved and loaded, metrics that come and go."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insa_anomaly import DeviceDetector
from insa_anomaly.core.units import Floats
from insa_anomaly.errors import ModelFileError, NotEnoughData, TrainingError
from tests.pumps import METRICS, Fault, faulty, pump

QUICK = {"n_estimators": 12, "max_samples": 64}
LEARNT = 400


def columns(times: Floats, values: Floats) -> dict[str, Any]:
    """Return rows as the detector takes them."""
    return {"timestamp": times, **dict(zip(METRICS, values.T, strict=True))}


def ready(**parameters: float) -> DeviceDetector:
    """Return a detector that has learnt 400 rows."""
    times, values = pump(LEARNT, 1)
    detector = DeviceDetector("PUMP-1", METRICS, **(QUICK | parameters))
    detector.train(columns(times, values))
    return detector


def later(n: int) -> tuple[Floats, Floats]:
    """Return the rows after the learnt ones, with a fault, missing values and a long pause."""
    times, values = pump(LEARNT + max(n, 150), 1)
    values = faulty(values, Fault("shift", 1, LEARNT + 40, rows=12), 0)
    values[LEARNT + 70, 2] = np.nan
    values[LEARNT + 75] = np.nan
    values[LEARNT + 80 : LEARNT + 95, 0] = np.nan
    times[LEARNT + 110 :] += 86_400
    return times[LEARNT : LEARNT + n], values[LEARNT : LEARNT + n]


def one_by_one(detector: DeviceDetector, times: Floats, values: Floats) -> list[dict[str, Any]]:
    """Return the results of repeated `observe`."""
    return [
        detector.observe(dict(zip(METRICS, row, strict=True)), time)
        for row, time in zip(values.tolist(), times.tolist(), strict=True)
    ]


def assert_same(many: dict[str, Any], each: list[dict[str, Any]]) -> None:
    """Assert that two results are equal to the bit in every column."""
    for name, column in many.items():
        single = [list(said[name].values()) if name == "shares" else said[name] for said in each]
        assert np.array(single, column.dtype).tobytes() == column.tobytes(), name


def test_law_observe_many_is_repeated_observe() -> None:
    """Rows in pieces lead to the same results, with refits on the way."""
    times, values = later(150)
    parameters = {"refit_readings_least": 60, "refit_readings_most": 60}
    many = ready(**parameters).observe_many(columns(times, values))
    pieces, single = ready(**parameters), ready(**parameters)
    parts = [
        pieces.observe_many(columns(times[part], values[part]))
        for part in (slice(50), slice(50, 50), slice(50, None))
    ]
    assert_same(many, one_by_one(single, times, values))
    for name, column in many.items():
        assert column.tobytes() == np.concatenate([part[name] for part in parts]).tobytes()
    assert single.get_model_info() == pieces.get_model_info()
    assert single.get_model_info()["version"] == 3
    assert many["status"][75] == "bad_quality"
    assert many["status"][111] == "warming"


def test_law_predict_changes_nothing() -> None:
    """`predict` between any two rows foretells `observe` and changes no later result."""
    times, values = later(80)
    asked, plain = ready(), ready()
    for row, time in zip(values.tolist(), times.tolist(), strict=True):
        named = dict(zip(METRICS, row, strict=True))
        foretold = asked.predict(named, time)
        asked.predict({"flow": 1e6})
        said = plain.observe(named, time)
        np.testing.assert_equal(asked.observe(named, time), said)
        np.testing.assert_equal(foretold, said)


def test_law_saving_and_loading_in_mid_stream_changes_nothing(tmp_path: Path) -> None:
    """Another process continues from the saved detector, with the same refits."""
    times, values = later(150)
    parameters = {"refit_readings_least": 60, "refit_readings_most": 60}
    plain, saved = ready(**parameters), ready(**parameters)
    loaded = DeviceDetector("PUMP-1", METRICS, **(QUICK | parameters))
    whole = plain.observe_many(columns(times, values))
    head = saved.observe_many(columns(times[:45], values[:45]))
    assert saved.save_model(tmp_path / "model.npz")
    assert loaded.load_model(tmp_path / "model.npz")
    tail = loaded.observe_many(columns(times[45:], values[45:]))
    for name, column in whole.items():
        assert column.tobytes() == np.concatenate([head[name], tail[name]]).tobytes()
    np.testing.assert_equal(loaded.get_model_info(), plain.get_model_info())
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


def test_a_file_that_is_no_model_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """A missing, empty, damaged or foreign file is refused."""
    good = ready()
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
    for stranger in (DeviceDetector("PUMP-2", METRICS), DeviceDetector("PUMP-1", METRICS[:3])):
        with pytest.raises(ModelFileError, match="PUMP-1 with the metrics pressure"):
            stranger.load_model(tmp_path / "good")
    with pytest.raises(ModelFileError, match="cannot be written"):
        good.save_model(tmp_path / "no" / "folder")
    assert good.get_model_info() == before


def test_an_untrained_detector_collects_and_then_learns_by_itself(tmp_path: Path) -> None:
    """An untrained detector says so, can be saved, and has a model after its first rows."""
    times, values = pump(700, 2)
    detector = DeviceDetector("PUMP-1", METRICS, **QUICK)
    assert detector.predict({"flow": 1.0})["status"] == "collecting"
    said = detector.observe_many(columns(times[:300], values[:300]))
    assert set(said["status"]) == {"collecting"}
    assert not said["score"].any()
    detector.save_model(tmp_path / "model")
    again = DeviceDetector("PUMP-1", METRICS, **QUICK)
    assert again.load_model(tmp_path / "model")
    assert not again.get_model_info()["trained"]
    said = again.observe_many(columns(times[300:], values[300:]))
    assert said["status"].tolist() == ["collecting"] * 200 + ["scored"] * 200
    assert (again.get_model_info()["version"], again.get_model_info()["training_samples"]) == (
        1,
        500,
    )


def test_training_answers_what_is_known() -> None:
    """Figures that cannot be known are None, with the reason beside them."""
    info = ready().get_model_info()
    assert (info["version"], info["training_samples"], info["trained"]) == (1, LEARNT, True)
    assert info["accuracy"] is info["false_positive_rate"] is info["true_positive_rate"] is None
    assert info["basis"].startswith("not assessed")
    assert 0 <= info["threshold"] <= 0.9
    assert info["parameters"]["n_estimators"] == 12


def test_a_row_that_stands_out_names_its_metric() -> None:
    """An anomalous row's reason names the metric by its share; an ordinary row has no reasons."""
    detector, (times, values) = ready(), later(5)
    assert detector.observe(dict(zip(METRICS, values[0], strict=True)), times[0])["reasons"] == []
    for row, time in zip(
        values[1:], times[1:], strict=True
    ):  # a device is judged by its last ten rows
        said = detector.observe(dict(zip(METRICS, row, strict=True)) | {"current": 40.0}, time)
    assert said["is_anomaly"]
    assert said["metric_name"] == said["reasons"][0]["feature"] == "current"
    assert said["shares"]["current"] == max(said["shares"].values()) == said["reasons"][0]["share"]
    assert sum(said["shares"].values()) == pytest.approx(1)
    assert said["upper"] < 40.0
    assert said["reasons"][0]["text"].startswith("40 for an expected ")


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf")])
def test_a_missing_reading_is_a_missing_reading(nothing: float | None) -> None:
    """A value that is absent, None, NaN or infinite is missing; the other metrics decide."""
    times, values = later(30)
    left_out, given = ready(), ready()
    for row, time in zip(values, times, strict=True):
        named = dict(zip(METRICS, row.tolist(), strict=True)) | {"current": 40.0}
        given_row: dict[str, float | None] = named | {"flow": nothing}
        said = given.observe(given_row, time)
        np.testing.assert_equal(
            said,
            left_out.observe(
                {name: value for name, value in named.items() if name != "flow"}, time
            ),
        )
        assert said["shares"]["flow"] == 0
    assert said["is_anomaly"]
    assert said["metric_name"] == "current"


def test_a_metric_without_a_column_has_no_readings() -> None:
    """A metric without a column is left out of the model until a refit finds readings."""
    times, values = pump(900, 3)
    detector = DeviceDetector(
        "PUMP-1", METRICS, **QUICK, refit_readings_least=400, refit_readings_most=400
    )
    given = columns(times[:400], values[:400])
    del given["vibration"]
    info = detector.train(given)
    assert info["left_out"] == "vibration has a reading in 0% of the rows"
    said = detector.observe_many(columns(times[400:], values[400:]))
    assert (said["status"] == "scored").all()
    assert not said["shares"][:400, METRICS.index("vibration")].any()
    assert said["shares"][400:, METRICS.index("vibration")].any()
    assert detector.get_model_info()["left_out"] is None


def test_too_little_is_said_clearly() -> None:
    """Too little data names the rows that are there and that are needed."""
    times, values = pump(90, 1)
    detector = DeviceDetector("PUMP-1", METRICS, **QUICK)
    with pytest.raises(
        NotEnoughData, match="90 different rows with finite values; at least 100 are needed"
    ):
        detector.train(columns(times, values))
    with pytest.raises(TrainingError, match="none of the 540 values is a finite number"):
        detector.train(columns(times, values * np.nan))
    with pytest.raises(TrainingError, match="none of the metrics pressure, flow"):
        detector.train({"timestamp": times, "other": values[:, 0]})
    with pytest.raises(
        TrainingError, match=r"timestamps of shape \(89,\) for values of pressure of shape \(90,\)"
    ):
        detector.train(columns(times[:-1], values))
    with pytest.raises(ValueError, match="none of the metrics"):
        detector.observe_many({"timestamp": times})
    assert not detector.get_model_info()["trained"]


def test_names_must_differ() -> None:
    """A detector needs a metric, and no metric twice."""
    for names in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="different names"):
            DeviceDetector("PUMP-1", names)
    with pytest.raises(TypeError, match="unknown parameter alhpa"):
        DeviceDetector("PUMP-1", ["a"], alhpa=0.1)


def test_retraining_is_the_next_version() -> None:
    """A retraining keeps the window and an open episode."""
    detector, (times, values) = ready(), pump(LEARNT + 200, 1)
    for i in range(LEARNT, LEARNT + 12):
        said = detector.observe(
            dict(zip(METRICS, values[i], strict=True)) | {"current": 90.0}, times[i]
        )
    assert said["is_anomaly"]
    answer = detector.retrain(columns(times[: LEARNT + 100], values[: LEARNT + 100]))
    assert answer["version"] == 2
    closing = [
        one["transition"]
        for one in one_by_one(detector, times[LEARNT + 100 :], values[LEARNT + 100 :])
    ]
    assert closing.count("closed") == 1
    assert "opened" not in closing[: closing.index("closed")]
