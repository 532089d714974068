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
from insa_anomaly.core.units import Ints

Figures = dict[str, float | int | str | dict[str, float] | None]


class LearntModel(Protocol):
    """A model of a series or a device."""

    @property
    def life(self) -> Maturity:
        """Age of the model, and the span of its past."""


M = TypeVar("M", bound=LearntModel)


@dataclass(frozen=True)
class Past(Generic[M]):
    """The past of a refit."""

    model: M  # that served since the last refit
    # Times of the readings that it, or a model before it, called anomalous, without dismissed ones.
    anomalous: Ints


@dataclass(frozen=True, kw_only=True)
class TrainedModel(Generic[M]):
    """A model, the estimators of scikit-learn behind it, and its figures."""

    model: M
    forest: IsolationForest
    scaler: StandardScaler | None  # the scales of a device are the scorer's own
    parameters: Parameters
    samples: int
    figures: Figures
    made_with: dict[str, str]

    @property
    def estimators(self) -> dict[str, object]:
        """Objects of scikit-learn, by kind."""
        return {"model": self.forest} | ({"scaler": self.scaler} if self.scaler else {})


Grown = TypeVar("Grown", IsolationForest, Trees)
Grow = Callable[[units.Features, Parameters], Grown]
