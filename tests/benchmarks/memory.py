"""Memory of a model: in the daemon's form, and as scikit-learn's object.

Each is measured in a process of its own.
"""

import io
import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import joblib
from sklearn.ensemble import IsolationForest

from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.series.detector import Model, ModelTable
from insa_anomaly.core.series.training import Trained
from tests.benchmarks.process import resident_bytes

_MODELS = 1000
_FORESTS = 50  # unpickled, and scaled up
Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Sizes:
    """Sizes in bytes."""

    model: float  # resident, in the arena and beside it
    pickled: float  # a forest as joblib writes it
    unpickled_fleet: float  # resident: a process with 1000 forests of scikit-learn


def measured(trained: list[Trained]) -> Sizes:
    """Measure all three sizes."""
    pickles = [_pickled(one.forest) for one in trained]
    base, fifty = _apart(_unpickled, [pickles[i % len(pickles)] for i in range(_FORESTS)])
    model = _apart(_resident, [one.model for one in trained])
    return Sizes(model, sum(map(len, pickles)) / len(pickles), base + fifty / _FORESTS * _MODELS)


def _pickled(forest: IsolationForest) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(forest, buffer)
    return buffer.getvalue()


def _apart(measure: Callable[[Given], Found], given: Given) -> Found:
    """Measure in a fresh process, whose memory holds no other objects."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, given).result()


def _resident(models: list[Model]) -> float:
    fleet = ModelTable(_MODELS, Parameters().n_estimators)
    before = resident_bytes(os.getpid())
    for row in range(_MODELS):
        fleet.put(row, models[row % len(models)])
    return (resident_bytes(os.getpid()) - before) / _MODELS


def _unpickled(pickles: list[bytes]) -> tuple[float, float]:
    """Return the bytes of the process with a single forest, and the bytes that all others added."""
    first = joblib.load(io.BytesIO(pickles[0]))
    before = resident_bytes(os.getpid())
    forests = [joblib.load(io.BytesIO(one)) for one in pickles]
    assert len(forests) == len(pickles)
    assert pickle.dumps(first)  # so that the first forest is still in memory
    return before, resident_bytes(os.getpid()) - before
