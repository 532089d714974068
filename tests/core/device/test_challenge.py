"""Champion and challenger of a device: figures from a holdout, a gate, refits without alarms."""

from dataclasses import replace
from functools import cache

import numpy as np

from insa_anomaly.core.device.detector import DeviceModel
from insa_anomaly.core.device.training import DeviceLearner
from insa_anomaly.core.learning.challenge import Challenge, refit, train
from insa_anomaly.core.learning.trained_model import Past
from insa_anomaly.core.scoring.episodes import Policy
from tests.core.device_rows import METRICS, SMALL, wave
from tests.core.streams import MINUTE, START

LEARNER = DeviceLearner(
    device_id="D",
    metrics=METRICS,
    id="00000000-0000-0000-0000-000000000009",
    version=1,
    parameters=SMALL,
    policy=Policy(),
)
NOBODY = np.zeros(0, np.int64)


@cache
def champion(n: int = 2000) -> DeviceModel:
    """Return a model of the first `n` rows."""
    rows = wave(n)
    return train(LEARNER, rows.times, rows.values).trained.model


@cache
def retrained() -> Challenge[DeviceModel]:
    """Return the challenge of a model of 4000 rows against the champion."""
    rows = wave(4000)
    return train(LEARNER, rows.times, rows.values, Past(champion(), NOBODY))


def test_the_figures_of_a_device_come_from_a_holdout() -> None:
    """Holdout faults are planted in a single metric each, in turn, and most are caught."""
    figures = retrained().trained.figures
    assert 0 <= float(str(figures["false_positive_rate"])) < 0.1
    assert 0.4 < float(str(figures["true_positive_rate"])) <= 1
    assert (figures["holdout_readings"], figures["holdout_faults"]) == (4000 - 2800 - 60, 21)
    assert str(figures["basis"]).startswith("injected")


def test_a_retrained_model_is_held_against_the_one_that_serves() -> None:
    """A challenger that learnt the same device is promoted, and its improvement is reported."""
    assert retrained().promoted
    assert retrained().improvement_percentage is not None


def test_a_worse_one_is_refused() -> None:
    """A challenger learnt from noise is refused at a retraining and at a daily refit."""
    rows = wave(4000)
    rows.values[:2800] += np.random.default_rng(3).normal(0, 30, (2800, 3))
    found = train(LEARNER, rows.times, rows.values, Past(champion(), NOBODY))
    assert not found.promoted
    assert "balanced accuracy" in found.refusal
    rows = wave(3000)
    rows.values[:2600] += np.random.default_rng(3).normal(0, 30, (2600, 3))
    assert (
        "balanced accuracy"
        in refit(LEARNER, rows.times, rows.values, Past(champion(2600), NOBODY)).refusal
    )


def test_metrics_that_come_and_go_are_no_hindrance() -> None:
    """A champion of other metrics is assessed by the metrics that remain."""
    rows = wave(4000)
    other = replace(LEARNER, metrics=("b", "new"))
    values = np.column_stack((rows.values[:, 1], rows.values[:, 2]))
    found = train(other, rows.times, values, Past(champion(), NOBODY))
    assert found.trained.model.metrics == ("b", "new")
    assert found.improvement_percentage is not None


def test_a_mature_device_leaves_out_what_alarmed() -> None:
    """A mature device does not learn rows that alarmed; a young device learns all rows.

    The model knows how many rows were ever learnt, and up to when all are released.
    """
    rows = wave(3000)
    told = START + np.arange(2500, 2560) * MINUTE
    young = refit(LEARNER, rows.times, rows.values, Past(champion(), told)).trained
    old = replace(champion(), life=replace(champion().life, mature=True), refit_step=300.0)
    mature = refit(LEARNER, rows.times, rows.values, Past(old, told)).trained
    assert (young.samples, mature.samples) == (3000, 2940)
    assert (young.model.life.released, mature.model.life.released) == (
        rows.times[-1],
        rows.times[1999],
    )
    assert (young.model.life.known, mature.model.life.known, mature.model.life.mature) == (
        3000,
        3000,
        True,
    )
