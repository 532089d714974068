"""Reasons compared with SHAP, an independent and much slower attribution for the same forests."""

import warnings
from functools import cache
from types import ModuleType

import numpy as np
import pytest

from insa_anomaly.core.learning import assessment
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series import features
from insa_anomaly.core.series.detector import ModelTable, SeriesBatch, advance
from insa_anomaly.core.series.training import SeriesLearner, Trained
from insa_anomaly.core.units import Features, Floats
from tests.core.streams import MINUTE, START

LEARNT, SEEN = 1500, 1500
MOST = 100  # rows per signal
PARAMETERS = Parameters(n_estimators=50)


@pytest.fixture(scope="module")
def shap() -> ModuleType:
    """Return the module SHAP, without the warnings of its imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap  # noqa: PLC0415 - the import takes seconds
    module: ModuleType = shap
    return module


def signal(kind: str) -> Floats:
    """Return a reading a minute of a sensor of a kind."""
    random, at = np.random.default_rng(3), np.arange(LEARNT + SEEN)
    if kind == "walk":
        walk = random.normal(0, 0.2, len(at))
        for i in range(1, len(at)):
            walk[i] += 0.98 * walk[i - 1]
        return np.asarray(walk, np.float64)
    return 20 + (5.0 * (at // 40 % 2) if kind == "square" else 0.0) + random.normal(0, 0.3, len(at))


@cache
def anomalous(kind: str) -> tuple[Trained, Features]:
    """Return a model of the signal, and the features of anomalous readings in planted faults."""
    values, times, at = (
        signal(kind),
        START + np.arange(LEARNT + SEEN) * MINUTE,
        np.zeros(LEARNT + SEEN, np.int64),
    )
    one = SeriesLearner(
        key=SeriesKey("D", kind), id="id", version=1, parameters=PARAMETERS, policy=Policy()
    ).fit(times[:LEARNT], values[:LEARNT])
    models = ModelTable(1, 50)
    models.put(0, one.model)
    rows = []
    for plan in assessment.plans(SEEN):
        faulty = np.concatenate(
            (
                values[:LEARNT],
                assessment.plant(values[LEARNT:], plan, assessment.local_noise(values[LEARNT:])),
            )
        )
        said = advance(
            features.empty(1),
            SeriesBatch(
                series=at,
                models=at,
                values=faulty,
                times=times,
                discriminators=np.arange(len(at)),
                qualities=at,
            ),
            models,
            Policy(),
            PARAMETERS,
        )[1]
        rows.append(said.features[LEARNT:][said.score[LEARNT:] < 0])
    found = np.unique(np.concatenate(rows), axis=0)
    return one, found[:: max(len(found) // MOST, 1)][:MOST]


def test_the_first_feature_is_shaps(shap: ModuleType) -> None:
    """The first feature equals SHAP's in at least nine of ten anomalous readings.

    The readings are of three kinds of sensors with every kind of fault.
    """
    agreed = []
    for kind in ("noise", "walk", "square"):
        one, rows = anomalous(kind)
        assert len(rows) == MOST
        models = ModelTable(1, 50)
        models.put(0, one.model)
        ours = np.array([models.arena.shares(0, row) for row in rows])
        # SHAP explains the path length: a shorter path is more anomalous.
        shortened = -shap.TreeExplainer(one.forest).shap_values(rows.astype(np.float64))
        agreed.append(ours.argmax(axis=1) == shortened.argmax(axis=1))
    assert np.concatenate(agreed).mean() >= 0.9
