"""The attribution of the reasons against SHAP's, an independent and much slower judge of the same forests."""

import warnings
from functools import cache
from types import ModuleType

import numpy as np
import pytest

from insa_anomaly.core import assessment, features
from insa_anomaly.core.detector import Models, Parameters, advance
from insa_anomaly.core.features import Features, Floats
from insa_anomaly.core.training import Trained, fit
from insa_anomaly.core.verdict import Policy
from tests.core.streams import MINUTE, START

LEARNT, SEEN = 1500, 1500
MOST = 100  # rows a signal
PARAMETERS = Parameters(n_estimators=50)


@pytest.fixture(scope="module")
def shap() -> ModuleType:
    """SHAP itself; what its imports warn of is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap  # noqa: PLC0415 - takes seconds: only where it is asked for
    module: ModuleType = shap
    return module


def signal(kind: str) -> Floats:
    """A reading a minute of a sensor of one kind."""
    random, at = np.random.default_rng(3), np.arange(LEARNT + SEEN)
    if kind == "walk":
        walk = random.normal(0, 0.2, len(at))
        for i in range(1, len(at)):
            walk[i] += 0.98 * walk[i - 1]
        return np.asarray(walk, np.float64)
    return 20 + (5.0 * (at // 40 % 2) if kind == "square" else 0.0) + random.normal(0, 0.3, len(at))


@cache
def anomalous(kind: str) -> tuple[Trained, Features]:
    """A model of the signal, and the features of readings in planted faults that it called anomalous."""
    values, times, at = (
        signal(kind),
        START + np.arange(LEARNT + SEEN) * MINUTE,
        np.zeros(LEARNT + SEEN, np.int64),
    )
    one = fit(
        times=times[:LEARNT],
        values=values[:LEARNT],
        key=("D", kind),
        model_id="id",
        version=1,
        parameters=PARAMETERS,
        policy=Policy(),
    )
    models = Models(1, 50)
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
            states=features.empty(1),
            which=at,
            models=models,
            rows=at,
            values=faulty,
            times=times,
            discriminators=np.arange(len(at)),
            qualities=at,
            policy=Policy(),
            parameters=PARAMETERS,
        )[1]
        rows.append(said.features[LEARNT:][said.score[LEARNT:] < 0])
    found = np.unique(np.concatenate(rows), axis=0)
    return one, found[:: max(len(found) // MOST, 1)][:MOST]


def test_the_first_feature_is_shaps(shap: ModuleType) -> None:
    """In at least nine of ten anomalous readings, over sensors of three kinds with every kind of fault in them."""
    agreed = []
    for kind in ("noise", "walk", "square"):
        one, rows = anomalous(kind)
        assert len(rows) == MOST
        models = Models(1, 50)
        models.put(0, one.model)
        ours = np.array([models.arena.shares(0, row) for row in rows])
        shortened = -shap.TreeExplainer(one.forest).shap_values(
            rows.astype(np.float64)
        )  # of the path length: less is stranger
        agreed.append(ours.argmax(axis=1) == shortened.argmax(axis=1))
    assert np.concatenate(agreed).mean() >= 0.9
