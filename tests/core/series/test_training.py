"""Training of a series: reproducible models, sound models of difficult data, clear refusals."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core import units
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy, Transition
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.series import detector, features, rules
from insa_anomaly.core.series.detector import ModelTable, Results, SeriesBatch, advance
from insa_anomaly.core.series.training import SeriesLearner, Trained
from insa_anomaly.core.units import Floats, Ints
from insa_anomaly.errors import NotEnoughData, ParameterError, TrainingError
from tests.core.streams import MINUTE, SMALL, START, daily

POLICY = Policy()


def learn(times: Ints, values: Floats, parameters: Parameters = SMALL) -> Trained:
    """Return a model of series D/m, version 1."""
    return SeriesLearner(
        key=SeriesKey("D", "m"), id="id", version=1, parameters=parameters, policy=POLICY
    ).fit(times, values)


def minutes(n: int, first: int = 0) -> Ints:
    """Return the times of `n` readings, a minute apart."""
    return START + np.arange(first, first + n) * MINUTE


def follow(trained: Trained, times: Ints, values: npt.NDArray[np.floating]) -> Results:
    """Return the results of a whole stream, starting with an empty window."""
    n = len(times)
    held = ModelTable(1, len(trained.model.forest.thresholds))
    held.put(0, trained.model)
    row = np.zeros(n, np.int64)
    return advance(
        features.empty(1),
        SeriesBatch(
            series=row,
            models=row,
            values=values.astype(np.float64),
            times=times,
            discriminators=np.arange(n),
            qualities=row,
        ),
        held,
        POLICY,
        SMALL,
    )[1]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(100, 400))
def test_law_same_data_same_seed_same_model(seed: int, n: int) -> None:
    """The same data and seed lead to the same bytes.

    Order, repetitions and values that are not finite do not change the model.
    """
    times, values = daily(n, seed)
    model = learn(times, values).model
    order = np.random.default_rng(seed).permutation(np.r_[np.arange(n), 3, 3, 7])
    shuffled = np.r_[values[order], np.nan, np.inf]
    assert (
        learn(np.r_[times[order], START, START + 5], shuffled).model.to_bytes() == model.to_bytes()
    )


def test_another_seed_is_another_forest() -> None:
    """Another seed leads to another model."""
    assert (
        learn(*daily(200)).model.to_bytes()
        != learn(*daily(200), replace(SMALL, random_state=1)).model.to_bytes()
    )


@settings(max_examples=8, deadline=None)
@given(power=st.integers(-20, 20), seed=st.integers(0, 99))
def test_law_the_unit_of_measurement_changes_no_score(power: int, seed: int) -> None:
    """All values scaled by a power of two lead to the same scores."""
    times, values = daily(300, seed)
    later, stream = minutes(100, 300), daily(400, seed)[1][300:].copy()
    stream[80] += 4
    plain = follow(learn(times, values), np.r_[times, later], np.r_[values, stream])
    scale = 2.0**power
    scaled = follow(
        learn(times, values * scale), np.r_[times, later], np.r_[values, stream] * scale
    )
    np.testing.assert_allclose(scaled.score, plain.score, atol=1e-9)


@settings(max_examples=6, deadline=None)
@given(
    constant=st.sampled_from([-1000.25, -7.3, 64.0, 1e6]),
    power=st.integers(-20, 20),
    seed=st.integers(0, 99),
    old=st.booleans(),
)
def test_law_where_the_zero_of_a_scale_lies_changes_no_verdict(
    constant: float, power: int, seed: int, old: bool
) -> None:
    """A constant added to all values changes no verdict on readings not within 1e-6 of 0.

    The law holds in any unit, for young and mature models. Rules about zero itself are not tested:
    no value is 0 here.
    """
    parameters = replace(SMALL, mature_days=0.0, mature_readings=0) if old else SMALL
    times, values = daily(600, seed)
    values[380] += 4
    values[450:500] += 1.5
    plain = follow(learn(times[:300], values[:300], parameters), times, values)
    moved = (values + constant) * 2.0**power
    other = follow(learn(times[:300], moved[:300], parameters), times, moved)
    clear = np.abs(plain.score) > 1e-6
    assert (plain.score < 0).sum() > 2
    np.testing.assert_array_equal((other.score < 0)[clear], (plain.score < 0)[clear])
    np.testing.assert_allclose(
        other.expected[60:] / 2.0**power - constant, plain.expected[60:], atol=1e-6
    )


@pytest.mark.parametrize("n", [0, 1, 59, 99])
def test_too_few_readings_say_what_is_needed(n: int) -> None:
    """Fewer than 100 different readings are refused with the number needed."""
    with pytest.raises(NotEnoughData, match="at least 100 are needed"):
        learn(*daily(n))


def test_repeated_readings_count_once() -> None:
    """Copies of a reading count once."""
    with pytest.raises(NotEnoughData, match="1 different reading"):
        learn(np.full(200, START), np.ones(200))


def test_a_hundred_readings_are_enough() -> None:
    """A hundred readings suffice, and a shorter history leads to a higher threshold."""
    old = replace(SMALL, mature_days=0.0, mature_readings=0)
    short, long = learn(*daily(100), old), learn(*daily(3000), old)
    assert short.samples == 100
    assert short.model.threshold > long.model.threshold


@pytest.mark.parametrize("readings", [100, 400, 3000])
def test_a_threshold_lies_within_what_the_model_can_say(readings: int) -> None:
    """An extreme value reaches the threshold of a young model, if the value is anomalous at all.

    A young model is a forest alone, and a forest is flat far out.
    """
    trained = learn(*daily(readings))
    times, values = daily(readings)
    results = follow(trained, np.r_[times, times[-1] + MINUTE], np.r_[values, 1e9])
    assert results.confidence[-1] >= trained.model.threshold or results.score[-1] >= 0


@pytest.mark.parametrize(
    ("times", "values", "says"),
    [
        (minutes(200), np.full(200, np.nan), "none of the 200 values is a finite number"),
        (np.full(200, START), np.arange(200.0), "all readings carry the same timestamp"),
        (minutes(200), np.arange(199.0), "200 timestamps for 199 values"),
        (minutes(200), np.resize([1.7e308, -1.7e308], 200), "too far apart"),
    ],
)
def test_what_nothing_can_be_learnt_from_is_refused(times: Ints, values: Floats, says: str) -> None:
    """Data without any usable information is refused with the reason."""
    with pytest.raises(TrainingError, match=says):
        learn(times, values)


@pytest.mark.parametrize("samples", [1, 257, 1000])
def test_samples_beyond_the_compiled_trees_are_refused(samples: int) -> None:
    """A `max_samples` out of range is refused, because compiled trees are at most eight deep."""
    with pytest.raises(ParameterError, match="2 to 256"):
        replace(SMALL, max_samples=samples)


@pytest.mark.parametrize(
    "wrong",
    [{"n_estimators": 0}, {"contamination": 0.9}, {"contamination": "some"}, {"random_state": -1}],
)
def test_a_parameter_out_of_range_is_an_error_of_ours(wrong: dict[str, Any]) -> None:
    """A parameter out of range raises `ParameterError`, which names the parameter."""
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        replace(SMALL, **wrong)


@pytest.mark.parametrize("level", [0.0, 50.0, -3e6, 1e-9])
def test_a_constant_tag_is_quiet_and_speaks_when_it_moves(level: float) -> None:
    """A constant tag never alarms at its value, and alarms as soon as the value changes."""
    trained = learn(minutes(500), np.full(500, level))
    n = 3000
    values = np.full(n, level)
    values[2000:] = level + (abs(level) or 1) * 0.05
    results = follow(trained, minutes(n, 500), values)
    assert (results.score[60:2000] >= 0).all()
    assert results.transition[2000] == Transition.OPENED
    assert np.isfinite(results.expected[60:]).all()


def test_a_constant_tag_knows_that_it_knows_little() -> None:
    """A constant tag has its constant as expected value, and a band without width."""
    results = follow(learn(minutes(200), np.full(200, 7.0)), minutes(80, 200), np.full(80, 7.0))
    assert results.expected[-1] == results.lower[-1] == results.upper[-1] == 7.0


def test_a_step_tag_is_quiet_among_its_levels() -> None:
    """A setpoint that moves among three levels every two hours opens at most a single episode."""
    random = np.random.default_rng(3)
    values = np.repeat(random.choice([20.0, 35.0, 50.0], 84), 120)
    trained = learn(minutes(7200), values[:7200])
    results = follow(trained, minutes(2880, 7200), values[7200:])
    assert (results.transition == Transition.OPENED).sum() <= 1


@pytest.mark.parametrize("fault", ["spike", "level", "stuck", "noise", "dropout"])
def test_clear_faults_of_a_daily_signal_speak(fault: str) -> None:
    """A clear fault in a daily signal opens an episode, and no episode opens before.

    Clear is twenty times the noise, or stuck for an hour; the signal is learnt from four days.
    """
    times, values = daily(8000, 5)
    values = np.round(values, 2)
    trained = learn(
        times[:5760], values[:5760], replace(SMALL, n_estimators=50, max_samples="auto")
    )
    at = slice(7200, 7203 if fault == "spike" else 7260)
    stream = values.copy()
    if fault == "stuck":
        stream[at] = stream[7200]
    elif fault == "noise":
        stream[at] += np.random.default_rng(1).normal(0, 3, 60)
    elif fault == "dropout":
        stream[at] = 0
    else:
        stream[at] += 6
    results = follow(trained, times[5760:], stream[5760:])
    opened = np.flatnonzero(results.transition == Transition.OPENED) + 5760
    assert ((opened >= 7200) & (opened < at.stop)).any()
    assert (opened >= 7200).all()


def test_a_daily_profile_is_learnt_from_three_days() -> None:
    """A daily profile is learnt from four days, and the expected value follows it.

    Two days and a signal without a daily pattern lead to no profile.
    """
    days = 1440
    assert learn(*daily(4 * days)).figures["daily_profile_bins"] == 48
    assert learn(*daily(2 * days)).figures["daily_profile_bins"] == 0
    noise = np.random.default_rng(0).normal(size=4 * days)
    assert learn(minutes(4 * days), noise).figures["daily_profile_bins"] == 0
    times, values = daily(5 * days, noise=0.01)
    results = follow(learn(times, values), times, values)
    scored = results.status == Status.SCORED
    assert np.abs(results.expected - values)[scored].max() < 0.1


def test_bursts_are_a_rhythm_not_pauses() -> None:
    """A series that reports in bursts has no gap limit: most windows would stay unfilled."""
    times = START + np.array(
        [burst * 600 * 1_000_000 + i * 1_000_000 for burst in range(40) for i in range(10)]
    )
    trained = learn(times, np.random.default_rng(0).normal(size=400))
    assert trained.model.learnt[detector.GAP_US] == np.inf
    assert (
        follow(trained, times + 400 * 60 * MINUTE, np.zeros(400)).status[60:] == Status.SCORED
    ).all()


def test_only_the_newest_of_a_long_history_is_used() -> None:
    """Only the newest part of a long history is learnt.

    Older readings count only in range, age and number of readings.
    """
    few = replace(SMALL, history_days=0.2, history_readings_least=150, history_readings_most=250)
    times, values = daily(1000)
    trained = learn(times, values, few)
    assert trained.samples == 250
    alone = learn(times[750:], values[750:], few).model.learnt.copy()
    ever = [
        *(detector.RULES.start + column for column in (rules.LOW, rules.HIGH, rules.FROM)),
        detector.KNOWN,
    ]
    assert trained.model.learnt[detector.KNOWN] == 1000
    alone[ever] = trained.model.learnt[ever]
    assert alone.tobytes() == trained.model.learnt.tobytes()


def test_held_out_readings_alarm_as_often_as_promised() -> None:
    """Held-out readings score below 0 about 1 time in 1000."""
    trained = learn(*daily(6000, 2), replace(SMALL, n_estimators=50, max_samples="auto"))
    anomalous, held_out = trained.figures["held_out_anomalous"], trained.figures["held_out"]
    assert isinstance(anomalous, int)
    assert held_out == 6000 - units.LONG + 1
    assert 1 <= anomalous <= 15
