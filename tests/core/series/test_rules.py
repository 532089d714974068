"""Rules: every named way a sensor fails is detected, and training data breaks no rule."""

import numpy as np
import pytest

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.series import features
from insa_anomaly.core.series.detector import ModelTable, Results, SeriesBatch, advance
from insa_anomaly.core.series.rules import Rule
from insa_anomaly.core.series.training import SeriesLearner
from insa_anomaly.core.units import Floats
from tests.core.streams import MINUTE, SMALL, START

LEARNT = 3000


def noisy(n: int = LEARNT) -> Floats:
    """Return a pressure around 20 with two decimals."""
    return np.round(20 + np.random.default_rng(5).normal(0, 0.5, n), 2)


def switched(n: int = LEARNT) -> Floats:
    """Return a tag of three levels that stays at each level for a while."""
    return np.repeat(np.random.default_rng(6).choice([20.0, 35.0, 50.0], n // 25 + 1), 25)[:n]


def after(learnt: Floats, values: list[float]) -> tuple[Results, slice]:
    """Return results for `learnt` and then `values`, and the slice of the latter.

    The model is learnt from `learnt`.
    """
    n = len(learnt)
    times = START + np.arange(n + len(values)) * MINUTE
    one = SeriesLearner(
        key=SeriesKey("D", "m"), id="id", version=1, parameters=SMALL, policy=Policy()
    ).fit(times[:n], learnt)
    models = ModelTable(1, SMALL.n_estimators)
    models.put(0, one.model)
    row = np.zeros(len(times), np.int64)
    said = advance(
        features.empty(1),
        SeriesBatch(
            series=row,
            models=row,
            values=np.r_[learnt, values],
            times=times,
            discriminators=np.arange(len(times)),
            qualities=row,
        ),
        models,
        Policy(),
        SMALL,
    )[1]
    return said, slice(n, None)


FAULTS = {
    Rule.NEW_EXTREME: [26.0],
    Rule.STUCK: [20.5] * 45,
    Rule.DROPOUT: [0.0],
    Rule.SATURATED: [float(noisy().max())] * 8,
    Rule.IMPOSSIBLE_RATE: [32.0],
}


@pytest.mark.parametrize("rule", FAULTS)
def test_a_fault_is_named(rule: Rule) -> None:
    """A fault breaks its rule, and is anomalous where the rule decides by itself."""
    said, there = after(noisy(), FAULTS[rule])
    assert said.rules[there][-1] & rule
    if rule not in {Rule.SATURATED, Rule.IMPOSSIBLE_RATE}:
        assert said.score[there][-1] == -1


def test_what_was_learnt_breaks_no_rule() -> None:
    """Readings that were learnt break no rule when repeated."""
    for learnt in (noisy(), switched(), np.full(LEARNT, 7.0)):
        said, _ = after(learnt, learnt[:200].tolist())
        scored = said.status == Status.SCORED
        assert not (said.rules[scored] & ~np.uint8(Rule.SATURATED)).any()


def test_a_constant_is_quiet_until_it_moves() -> None:
    """A constant is anomalous as soon as its value moves at all."""
    said, there = after(np.full(LEARNT, 7.0), [7.0] * 100 + [7.001])
    assert (said.score[there][:-1] > 0).all()
    assert said.rules[there][-1] & Rule.MOVED
    assert said.score[there][-1] == -1


def test_a_switch_is_quiet_at_its_levels() -> None:
    """A step between known levels never alarms; an unknown level is stranger."""
    said, there = after(switched(), [*switched(500).tolist(), 42.0])
    assert (said.score[there][:-1] > 0).all()
    assert said.score[there][-1] < said.score[there][:-1].min()
