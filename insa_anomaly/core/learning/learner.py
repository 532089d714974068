"""Frame of learning a model, for a series and a device alike. The module needs scikit-learn."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Generic

import numpy as np
import sklearn

from insa_anomaly.core.learning.isolation import grow, grow_passing
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.learning.trained_model import Fit, Grow, Grown, M, Past, TrainedModel
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.units import Floats, Ints


@dataclass(frozen=True, kw_only=True)
class Learner(ABC, Generic[M]):
    """Way to learn a series or a device: id and version of the model, and the parameters."""

    id: str
    version: int
    parameters: Parameters
    policy: Policy

    def fit(self, times: Ints, values: Floats, past: Past[M] | None = None) -> TrainedModel[M]:
        """Learn from times [n] in microseconds and values [n], or rows [n, metrics]; any order.

        Values that are not finite are left out. With a `past`, this is a refit: a reading that
        alarmed in mature age is not learnt, unless alarms have become the rule. Without, all is
        learnt. Raises NotEnoughData below 100 readings or 32 full windows, TrainingError for data
        from which no model can be learnt.
        """
        fit = self.fitted(times, values, past, grow)
        made_with = {"scikit-learn": sklearn.__version__, "numpy": np.__version__}
        return TrainedModel(**vars(fit), parameters=self.parameters, made_with=made_with)

    def twin(self, times: Ints, values: Floats, parameters: Parameters, past: Past[M] | None) -> M:
        """Return the model of `fit`, to be discarded: its `raw_score` has no offset."""
        learner = replace(self, parameters=parameters)
        return learner.fitted(times, values, past, grow_passing).model

    @abstractmethod
    def usable(self, times: Ints, values: Floats) -> tuple[Ints, Floats]:
        """Return the readings that a model is learnt from, alarmed ones included, in time order."""

    @abstractmethod
    def scores(self, model: M, times: Ints, values: Floats) -> Floats:
        """Score a stream [n] from an empty window on; 1 for a reading that cannot be scored."""

    @abstractmethod
    def fitted(
        self, times: Ints, values: Floats, past: Past[M] | None, grow: Grow[Grown]
    ) -> Fit[M, Grown]:
        """Learn as `fit` does, with the forests that `grow` makes."""
