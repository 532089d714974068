"""A trained model with its estimators and figures, and the past that a refit continues from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler

from insa_anomaly.core import units
from insa_anomaly.core.learning.isolation import Trees
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.scoring.maturity import Maturity
from insa_anomaly.core.units import Floats, Ints

Figures = dict[str, float | int | str | dict[str, float] | None]


class LearntModel(Protocol):
    """A model of a series or a device."""

    @property
    def life(self) -> Maturity:
        """Age of the model, and the span of its past."""

    @property
    def interval(self) -> float:
        """Typical pause between readings, microseconds."""


M = TypeVar("M", bound=LearntModel)


@dataclass(frozen=True)
class Past(Generic[M]):
    """The past of a refit."""

    model: M  # that served since the last refit
    # Times of the readings that it, or a model before it, called anomalous, without dismissed ones.
    anomalous: Ints


Grown = TypeVar("Grown", IsolationForest, Trees)
Grow = Callable[[units.Features, Parameters], Grown]


@dataclass(frozen=True, kw_only=True)
class Fit(Generic[M, Grown]):
    """A model, and the estimators behind it."""

    model: M
    forest: Grown
    scaler: StandardScaler | None = None  # the scales of a device are the scorer's own
    samples: int
    figures: Figures


@dataclass(frozen=True, kw_only=True)
class TrainedModel(Fit[M, IsolationForest]):
    """A model, the estimators of scikit-learn behind it, and its figures."""

    parameters: Parameters
    made_with: dict[str, str]

    @property
    def estimators(self) -> dict[str, object]:
        """Objects of scikit-learn, by kind."""
        return {"model": self.forest} | ({"scaler": self.scaler} if self.scaler else {})


def figures(model: LearntModel, when: Floats, scores: Floats) -> Figures:
    """Return the figures of a model of readings at `when` [n], with its held-out scores."""
    return {
        "age": "mature" if model.life.mature else "young",
        "span_days": round(float(when[-1] - when[0]) / units.DAY, 6),
        "interval_seconds": model.interval / units.SECOND,
        "held_out": len(scores),
        "held_out_anomalous": int((scores < 0).sum()),
        "accuracy": None,
        "false_positive_rate": None,
        "true_positive_rate": None,
        "basis": "not assessed: learnt on from the version before it",
    }
