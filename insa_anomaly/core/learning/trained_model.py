"""A trained model with its estimators and figures, and what a refit knows of the time before it."""

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
        """What it has behind it."""


M = TypeVar("M", bound=LearntModel)


@dataclass(frozen=True)
class Past(Generic[M]):
    """What a refit is told of the time before it."""

    model: M  # that served since the last refit
    anomalous: Ints  # times of the readings that it, or one before it, called anomalous, but for what an operator dismissed


@dataclass(frozen=True)
class TrainedModel(Generic[M]):
    """A model, what scikit-learn made it from, and what is known about it."""

    model: M
    forest: IsolationForest
    scaler: StandardScaler | None  # the scales of a device are the scorer's own
    parameters: Parameters
    samples: int
    figures: Figures
    made_with: dict[str, str]

    @property
    def estimators(self) -> dict[str, object]:
        """What scikit-learn made, by what it is."""
        return {"model": self.forest} | ({"scaler": self.scaler} if self.scaler else {})


Grown = TypeVar("Grown", IsolationForest, Trees)
Grow = Callable[[units.Features, Parameters], Grown]
