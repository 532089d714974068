"""Assessment of models: planted faults are as described, and figures equal the counts."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.layout import LearntRows
from insa_anomaly.core.learning import assessment
from insa_anomaly.core.learning.assessment import (
    Assessment,
    Holdout,
    InjectedFault,
    Scorer,
    assess,
    compare,
    interval,
    local_noise,
    plant,
)
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series import detector
from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.series.training import SeriesLearner
from tests.core.streams import MINUTE, SMALL, START, daily, trained

KINDS = ["spike", "level_shift", "drift", "stuck", "noise", "dropout", "oscillation"]


def scorer(model: Model) -> Scorer:
    """Return the scoring function that a challenge uses for the model."""
    learner = SeriesLearner(
        key=SeriesKey("D", "m"), id="id", version=1, parameters=SMALL, policy=Policy()
    )
    return partial(learner.scores, model)


def holdout(n: int, seed: int = 9) -> Holdout:
    """Return `n` readings of the signal that the small models know, after enough context."""
    times, values = daily(n + assessment.CONTEXT, seed)
    return Holdout(times, values, assessment.CONTEXT)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    size=st.sampled_from([3.0, 6.0, 12.0]),
    first=st.integers(0, 300),
    length=st.integers(1, 100),
)
def test_law_a_fault_is_where_it_is_said_to_be(
    kind: str, size: float, first: int, length: int
) -> None:
    """A fault changes values inside its span alone, by its size in units of the noise.

    The given values are not modified.
    """
    _, values = daily(400)
    before, noise = values.copy(), 0.3
    out = plant(values, [InjectedFault(kind, size, first, first + length)], noise)
    inside = np.zeros(400, np.bool_)
    inside[first : first + length] = True
    assert np.array_equal(out[~inside], values[~inside])
    assert np.array_equal(values, before)
    off = np.abs(out - values)[inside]
    if kind in {"spike", "level_shift"}:
        assert off == pytest.approx(size * noise)
    if kind in {"drift", "oscillation"}:
        assert off.max() <= 1.5 * size * noise + 1e-9
    if kind == "stuck":
        assert len(set(out[inside].tolist())) == 1
    if kind == "dropout":
        assert not out[inside].any()


def test_every_kind_is_planted_in_every_size_apart_and_found_again() -> None:
    """Every kind of fault is planted in every size, 21 in all.

    The same model on the same holdout leads to the same assessment.
    """
    first, second = (assess(scorer(trained(0).model), holdout(1500)) for _ in range(2))
    assert sorted((fault.kind, fault.size) for fault in first.faults) == sorted(
        (kind, size) for kind in KINDS for size in (3.0, 6.0, 12.0)
    )
    assert all(0 <= fault.first < fault.end <= 1500 for fault in first.faults)
    assert len(first.alarmed) == 1500
    assert np.array_equal(first.caught, second.caught)
    assert np.array_equal(first.alarmed, second.alarmed)
    assert set(first.caught_by_kind()) == set(KINDS)
    assert first.accuracy == (first.true_positive_rate + 1 - first.false_positive_rate) / 2


def test_a_blind_model_catches_nothing() -> None:
    """A model with an unreachable alpha has no false alarm, no caught fault, and accuracy 0.5."""
    one = trained(0).model
    blind = replace(one, learnt=LearntRows(one.learnt.copy()))
    blind.learnt[detector.ALPHA] = 1e-300
    found = assess(scorer(blind), holdout(700))
    assert (found.true_positive_rate, found.false_positive_rate, found.accuracy) == (0, 0, 0.5)


def made(alarmed: float, caught: int, seed: int = 0) -> Assessment:
    """Return an assessment that caught `caught` of 21 faults.

    A share `alarmed` of its 2000 readings alarmed.
    """
    flags = np.random.default_rng(seed).random(2000) < alarmed
    return Assessment(
        flags,
        np.arange(21) < caught,
        tuple(InjectedFault(KINDS[i % 7], 3.0, 0, 1) for i in range(21)),
    )


def test_a_challenger_as_good_may_serve_and_a_worse_one_may_not() -> None:
    """An equal challenger meets no objection; a worse challenger does.

    Fewer caught faults or too many false alarms lead to an objection in words.
    """
    champion = made(0.001, 18)
    same = compare(champion, champion)
    assert (same.improvement_percentage, same.lower_bound, same.objection()) == (0, 0, "")
    assert "lower by" in compare(champion, made(0.001, 12)).objection()
    assert compare(champion, made(0.001, 12)).improvement_percentage < 0
    better = compare(made(0.001, 10), made(0.001, 20))
    assert better.improvement_percentage > 0
    assert not better.objection()
    assert "ordinary readings" in compare(made(0.2, 0), made(0.06, 21)).objection()


def test_intervals_hold_what_was_counted() -> None:
    """The interval contains the counted rate, and is empty where the flags do not vary."""
    low, high = interval(made(0.05, 0).alarmed)
    assert 0 < low < made(0.05, 0).false_positive_rate < high < 0.1
    assert interval(np.zeros(100, np.bool_)) == (0, 0)


@settings(max_examples=20, deadline=None)
@given(noise=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_local_noise_is_that_around_the_signal(noise: float, seed: int) -> None:
    """Local noise is the noise around the signal without the signal's own movement, and never 0."""
    times, values = daily(3000, seed, noise=1e-9)
    random = np.random.default_rng(seed)
    assert local_noise(values * 50 * noise + random.normal(0, noise, 3000)) == pytest.approx(
        noise, rel=0.15
    )
    assert local_noise(np.full(100, 3.0)) > 0
    assert times[1] - times[0] == MINUTE
    assert times[0] == START
