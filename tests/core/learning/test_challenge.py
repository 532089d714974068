"""Champion and challenger of a series: figures from a holdout, and a gate against worse models."""

from dataclasses import replace

import numpy as np
import pytest

from insa_anomaly.core.learning.challenge import refit, train
from insa_anomaly.core.learning.trained_model import Past
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series import detector
from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.series.training import SeriesLearner
from insa_anomaly.core.units import Floats, Ints
from tests.core.streams import SMALL, daily

LEARNER = SeriesLearner(
    key=SeriesKey("D", "m"), id="id", version=1, parameters=SMALL, policy=Policy()
)
NOBODY = np.zeros(0, np.int64)


def test_the_figures_come_from_a_holdout() -> None:
    """Figures carry an interval, the numbers of readings and faults, and their basis."""
    figures = train(LEARNER, *daily(3000)).trained.figures
    low, rate, high = (figures[f"false_positive_rate{end}"] for end in ("_low", "", "_high"))
    assert isinstance(low, float) and isinstance(rate, float) and isinstance(high, float)  # noqa: PT018 - for the types
    assert 0 <= low <= rate <= high < 0.05
    assert 0.3 < float(str(figures["true_positive_rate"])) <= 1
    assert figures["accuracy"] == pytest.approx(
        (float(str(figures["true_positive_rate"])) + 1 - rate) / 2
    )
    assert figures["holdout_readings"] == 3000 - 2100 - 60
    assert figures["holdout_faults"] == 21
    assert str(figures["basis"]).startswith("injected")


def test_too_little_is_not_assessed_and_says_so() -> None:
    """Fewer than 2000 readings lead to a model without figures, and the basis says so."""
    found = train(LEARNER, *daily(1999))
    assert found.promoted
    assert found.trained.figures["accuracy"] is None
    assert "at least 2000" in str(found.trained.figures["basis"])


def test_the_same_data_make_the_same_challenge() -> None:
    """The same data lead to the same model and the same figures."""
    first, second = (train(LEARNER, *daily(2500)) for _ in range(2))
    assert first.trained.model.to_bytes() == second.trained.model.to_bytes()
    assert first.trained.figures == second.trained.figures


def past(n: int) -> Past[Model]:
    """Return a champion of the first `n` readings of the same signal."""
    return Past(train(LEARNER, *daily(n)).trained.model, NOBODY)


def test_a_retrained_model_is_held_against_the_one_that_serves() -> None:
    """A challenger is compared with the champion on readings that neither has learnt.

    A challenger of the same signal is promoted, and its improvement is reported.
    """
    found = train(LEARNER, *daily(4000), past(2000))
    assert found.promoted
    assert found.improvement_percentage is not None
    assert abs(found.improvement_percentage) < 20
    assert not found.unknown


def test_a_champion_that_has_learnt_all_cannot_be_compared() -> None:
    """A champion that has learnt the holdout leaves the improvement unknown, with the reason."""
    found = train(LEARNER, *daily(3000), past(2900))
    assert found.promoted
    assert found.improvement_percentage is None
    assert "all but 100" in found.unknown


def spoilt(values: Floats) -> Floats:
    """Return the values with noise a hundred times as large, for a useless model."""
    return values + np.random.default_rng(3).normal(0, 30, len(values))


def test_a_worse_one_is_refused() -> None:
    """A worse challenger is refused by the gate of a retraining and by that of a daily refit."""
    times, values = daily(4000)
    worse = values.copy()
    worse[:2800] = spoilt(values[:2800])
    found = train(LEARNER, times, worse, past(2000))
    assert not found.promoted
    assert "balanced accuracy" in found.refusal
    assert found.improvement_percentage is not None
    assert found.improvement_percentage < 0
    worse[:3600] = spoilt(values[:3600])
    assert "balanced accuracy" in refit(LEARNER, times, worse, past(3600)).refusal


def test_a_daily_refit_goes_on() -> None:
    """A daily refit learns the readings that have come since, and serves."""
    found = refit(LEARNER, *daily(3000), past(2700))
    assert found.promoted
    assert found.trained.model.learnt[detector.KNOWN] == 3000
    assert found.trained.figures["accuracy"] is None


def test_its_age_decides_how_it_is_assessed() -> None:
    """The assessed model is as mature as the trained model, though it has learnt fewer readings."""
    seen: list[Model] = []

    class Watched(SeriesLearner):
        """A learner that records the models assessed."""

        def scores(self, model: Model, times: Ints, values: Floats) -> Floats:
            seen.append(model)
            return super().scores(model, times, values)

    watched = Watched(
        key=SeriesKey("D", "m"),
        id="id",
        version=1,
        parameters=replace(SMALL, mature_days=1.0, mature_readings=2500),
        policy=Policy(),
    )
    trained = train(watched, *daily(3000)).trained
    assert trained.model.learnt[detector.MATURE] == seen[0].learnt[detector.MATURE] == 1
