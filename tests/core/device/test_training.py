"""Training of a device model, and refusals whose text helps."""

from dataclasses import replace

import numpy as np
import pytest

from insa_anomaly.core.device import detector, window
from insa_anomaly.core.device.detector import DeviceParameters
from insa_anomaly.core.device.training import DeviceLearner, TrainedDevice
from insa_anomaly.core.scoring import daily
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.units import DAY
from insa_anomaly.errors import NotEnoughData, TrainingError
from tests.core.device_rows import METRICS, POLICY, SMALL, Rows, wave
from tests.core.streams import MINUTE

ID = "00000000-0000-0000-0000-000000000009"


def learnt(rows: Rows, parameters: DeviceParameters = SMALL) -> TrainedDevice:
    """Return a model of the rows."""
    return DeviceLearner(
        device_id="D", metrics=METRICS, id=ID, version=1, parameters=parameters, policy=POLICY
    ).fit(rows.times, rows.values)


def seen_by(one: TrainedDevice, rows: Rows) -> detector.DeviceResults:
    """Return the model's results for rows, starting with an empty window."""
    width = len(one.model.metrics)
    return detector.advance(
        state=window.empty(width),
        served=detector.Served(one.model),
        times=rows.times,
        values=rows.values[:, :width],
        policy=POLICY,
        parameters=SMALL,
    )[1]


def test_law_the_same_seed_makes_the_same_model() -> None:
    """The same seed leads to the same bytes; another seed leads to another forest."""
    rows = wave(300)
    assert learnt(rows).model.to_bytes() == learnt(rows).model.to_bytes()
    other = learnt(rows, replace(SMALL, random_state=7)).model
    assert other.forest.thresholds.tobytes() != learnt(rows).model.forest.thresholds.tobytes()


def test_law_order_and_repetitions_change_nothing() -> None:
    """The order of rows, repeated rows and empty rows do not change the model."""
    rows = wave(300)
    at = np.random.default_rng(3).permutation(
        np.concatenate((np.arange(300), np.arange(0, 300, 7)))
    )
    times = np.concatenate((rows.times[at], rows.times[:5] + 1))
    values = np.concatenate((rows.values[at], np.full((5, 3), np.nan)))
    assert learnt(Rows(times, values)).model.to_bytes() == learnt(rows).model.to_bytes()


@pytest.mark.parametrize("factor", [2.0**-20, 1024.0])
def test_law_units_change_nothing(factor: float) -> None:
    """A metric scaled by a power of two leads to the same scores and shares."""
    rows, later = wave(300), wave(500)
    scaled, scaled_later = wave(300), wave(500)
    scaled.values[:, 1] *= factor
    scaled_later.values[:, 1] *= factor
    later.values[400:] += 2.0
    scaled_later.values[400:] += np.array([2.0, 2.0 * factor, 2.0])
    plain, other = seen_by(learnt(rows), later), seen_by(learnt(scaled), scaled_later)
    np.testing.assert_allclose(other.score, plain.score, atol=1e-6)
    np.testing.assert_allclose(other.shares, plain.shares, atol=1e-6)


@pytest.mark.parametrize("constant", [-1000.25, 64.0, 1e6])
def test_law_where_the_zero_of_a_scale_lies_changes_no_verdict(constant: float) -> None:
    """A metric plus a constant leads to the same verdict on every row not within 1e-6 of 0."""
    rows = wave(500)
    rows.values[400:] += 2.0
    moved = rows.values + np.array([0.0, constant, 0.0])
    plain, other = (
        seen_by(learnt(Rows(rows.times[:300], one[:300])), Rows(rows.times, one))
        for one in (rows.values, moved)
    )
    clear = np.abs(plain.score) > 1e-6
    assert (plain.score < 0).sum() > 20
    np.testing.assert_array_equal((other.score < 0)[clear], (plain.score < 0)[clear])


def test_a_calm_device_stays_calm_and_a_faulty_one_is_noticed() -> None:
    """Calm rows after the training stay calm, and a faulty metric is detected and named."""
    later = wave(1400)
    later.values[1200:1260, 2] += 10
    said = seen_by(learnt(wave(400)), later)
    assert (said.status[:59] == Status.WARMING).all()
    assert (said.score[400:1200] < 0).mean() < 0.03
    assert (said.score[1203:1260] < 0).all()
    assert (said.metric[1201:1260] == 2).all()


def test_constant_metrics_neither_alarm_nor_hinder() -> None:
    """Constant metrics do not alarm; a constant metric that moves is detected and named."""
    rows = wave(600)
    for constant in ((0,), (0, 1), (0, 1, 2)):
        values = rows.values.copy()
        values[:, constant] = 50.0
        one = learnt(Rows(rows.times[:400], values[:400]))
        said = seen_by(one, Rows(rows.times, values))
        assert (said.score[60:] < 0).mean() < 0.02
        values[500:, constant[-1]] = 51.0
        said = seen_by(one, Rows(rows.times, values))
        assert (said.score[505:512] < 0).all()
        assert (said.metric[502:512] == constant[-1]).all()


def test_a_metric_that_is_seldom_there_is_left_out() -> None:
    """A metric present in fewer than half of the rows is left out, and the figures report it."""
    rows = wave(400)
    rows.values[::3, 0] = np.nan
    rows.values[np.arange(400) % 5 > 0, 2] = np.nan
    one = learnt(rows)
    assert one.model.metrics == ("a", "b")
    assert one.figures["left_out"] == "c has a reading in 20% of the rows"


def test_one_metric_alone_is_a_device_too() -> None:
    """A device of a single metric is learnt, without other metrics to forecast it."""
    rows = wave(500)
    one = DeviceLearner(
        device_id="D", metrics=("b",), id=ID, version=1, parameters=SMALL, policy=POLICY
    ).fit(rows.times[:400], rows.values[:400, 1:2])
    values = rows.values[:, 1:2].copy()
    values[450:460] += 12
    said = detector.advance(
        state=window.empty(1),
        served=detector.Served(one.model),
        times=rows.times,
        values=values,
        policy=POLICY,
        parameters=SMALL,
    )[1]
    assert (said.score[453:460] < 0).all()
    assert (said.score[100:450] >= 0).mean() > 0.95


def test_too_little_is_refused() -> None:
    """Insufficient rows are refused with the counts that are present and needed."""
    rows = wave(400)
    nothing, same_time, far = rows.values * np.nan, rows.times * 0, rows.values.copy()
    far[::2, 0], far[1::2, 0] = 1e308, -1e308
    with pytest.raises(
        NotEnoughData, match="99 different rows with finite values; at least 100 are needed"
    ):
        learnt(rows[:99])
    with pytest.raises(NotEnoughData, match="0 different rows"):
        learnt(rows[:0])
    with pytest.raises(TrainingError, match="none of the 1200 values is a finite number"):
        learnt(Rows(rows.times, nothing))
    with pytest.raises(TrainingError, match="all readings carry the same timestamp"):
        learnt(Rows(same_time, rows.values))
    with pytest.raises(TrainingError, match="too far apart"):
        learnt(Rows(rows.times, far))
    with pytest.raises(TrainingError, match="they do not report together"):
        learnt(
            Rows(
                rows.times,
                np.where(np.arange(400)[:, None] % 3 == np.arange(3), rows.values, np.nan),
            )
        )
    with pytest.raises(TrainingError, match=r"shape \(400, 2\)"):
        learnt(Rows(rows.times, rows.values[:, :2]))


def test_a_device_that_reports_in_bursts_is_learnt() -> None:
    """A device that reports in bursts has no gap limit, so pauses void no window."""
    rows = wave(400)
    rows.times[:] += np.arange(400) // 20 * 7200 * 1_000_000
    assert learnt(rows).model.gap == np.inf


def test_a_long_pause_is_no_step() -> None:
    """Rows after a long pause begin a window of their own, in training as in the stream."""
    rows = wave(400)
    rows.times[200:] += DAY
    one = learnt(rows)
    assert one.model.gap == 20 * MINUTE
    assert one.figures["held_out"] == 2 * (200 - 59)


def test_how_much_is_learnt_is_bounded() -> None:
    """The history learnt is bounded by days and by rows."""
    rows = wave(900)
    few = replace(SMALL, history_days=0.25, history_readings_least=200, history_readings_most=500)
    assert learnt(rows, few).samples == 361
    assert learnt(rows, replace(few, history_readings_least=450)).samples == 450
    assert learnt(rows, replace(few, history_days=9.0)).samples == 500


def test_what_is_usual_at_a_time_of_day_is_learnt() -> None:
    """Daily patterns are learnt from three days on, for the metrics that have such a pattern.

    A value that is ordinary at noon is anomalous at midnight.
    """
    at = np.arange(5 * 1440)
    random = np.random.default_rng(4)
    warm = 10 * np.sin(2 * np.pi * at / 1440) + random.normal(0, 0.5, len(at))
    rows = Rows(
        at * MINUTE,
        np.column_stack(
            (warm, random.normal(0, 1, len(at)), warm + random.normal(0, 0.5, len(at)))
        ),
    )
    one = learnt(rows[: 4 * 1440])
    assert (one.model.known.profile[:, daily.BINS] > 0).tolist() == [True, False, True]
    said = seen_by(one, rows[3 * 1440 :])
    assert (said.score[1500:] < 0).mean() < 0.03
    rows.values[4 * 1440 + 1080 :, [0, 2]] += 15.0
    said = seen_by(one, rows[3 * 1440 :])
    assert (said.score[1440 + 1085 : 1440 + 1200] < 0).all()
