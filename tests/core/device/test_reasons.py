"""Reasons of a device model: the metric with the planted fault ranks first in a simulated pump."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from insa_anomaly.core.device import detector, window
from insa_anomaly.core.device.detector import DeviceParameters, Served
from insa_anomaly.core.device.training import DeviceLearner
from insa_anomaly.core.scoring.episodes import Policy, Transition
from insa_anomaly.core.units import Floats, Ints
from tests.pumps import KINDS, METRICS, Fault, faulty, pump

LEARNT, FOLLOWING, BEFORE, AFTER = 5000, 4000, 100, 12
SIZES = (12.0, 24.0)  # of a fault, in units of the sensor's noise
PARAMETERS, POLICY = DeviceParameters(n_estimators=50), Policy()


class Plant(NamedTuple):
    """A pump's rows, and its model."""

    times: Ints
    values: Floats
    served: Served


@pytest.fixture(scope="module")
def plant() -> Plant:
    """Return a pump learnt for three and a half days, with three more days of rows."""
    seconds, values = pump(LEARNT + FOLLOWING, seed=0)
    times = (seconds * 1e6).astype(np.int64)
    model_id = "00000000-0000-0000-0000-000000000001"
    trained = DeviceLearner(
        device_id="PUMP-1",
        metrics=METRICS,
        id=model_id,
        version=1,
        parameters=PARAMETERS,
        policy=POLICY,
    ).fit(times[:LEARNT], values[:LEARNT])
    return Plant(times, values, Served(trained.model))


def ranked_first(plant: Plant, fault: Fault, seed: int) -> str | None:
    """Return the metric with the largest share in the row that opens an episode.

    The result is None where the fault opens no episode.
    """
    rows = slice(fault.begin - BEFORE, fault.end + AFTER)
    values = faulty(plant.values, fault, seed)[rows]
    said = detector.advance(
        state=window.empty(len(METRICS)),
        served=plant.served,
        times=plant.times[rows],
        values=values,
        policy=POLICY,
        parameters=PARAMETERS,
    )[1]
    opened = np.flatnonzero(said.transition == Transition.OPENED)
    opened = opened[opened >= BEFORE]
    if not len(opened):
        return None
    at = int(opened[0])
    named = detector.reasons(said, at, values[at], plant.served.model)
    assert [reason.share for reason in named] == sorted(
        (reason.share for reason in named), reverse=True
    )
    assert METRICS[said.metric[at]] == named[0].feature
    return named[0].feature


def test_the_planted_metric_is_ranked_first(plant: Plant) -> None:
    """The planted metric ranks first in at least 80 % of the episodes.

    At least 60 % of the shifts and drifts open an episode.
    """
    random = np.random.default_rng(1)
    episodes, first, planted = Counter[str](), Counter[str](), Counter[str]()
    for seed, (kind, metric, size) in enumerate(
        (k, m, s) for k in KINDS for m in range(len(METRICS)) for s in SIZES
    ):
        fault = Fault(
            kind, metric, LEARNT + int(random.integers(BEFORE, FOLLOWING - 300)), size=size
        )
        name = ranked_first(plant, fault, seed)
        planted[kind] += 1
        episodes[kind] += name is not None
        first[kind] += name == METRICS[metric]
    for kind in KINDS:
        print(  # noqa: T201 - figures
            f"{kind}: {planted[kind]} planted, {episodes[kind]} episodes,"
            f" planted metric first in {first[kind]}"
        )
    print(f"all: planted metric first in {first.total()} of {episodes.total()} episodes")  # noqa: T201
    assert first.total() >= 0.8 * episodes.total()
    assert sum(episodes[kind] for kind in ("shift", "drift")) >= 0.6 * sum(
        planted[kind] for kind in ("shift", "drift")
    )


def test_a_calm_pump_opens_next_to_no_episodes(plant: Plant) -> None:
    """A calm pump opens at most a single episode in three days."""
    rows = slice(LEARNT - 560, None)
    state = window.empty(len(METRICS))
    said = detector.advance(
        state=state,
        served=plant.served,
        times=plant.times[rows],
        values=plant.values[rows],
        policy=POLICY,
        parameters=PARAMETERS,
    )[1]
    assert (said.transition[560:] == Transition.OPENED).sum() <= 1
    assert (said.score[560:] < 0).mean() < 0.03
