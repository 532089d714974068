"""A new model of a series or a device against the one that serves: trained, assessed, and promoted only where it is not worse.

The figures of a model come from a holdout: the newest 30 % of its history, seen by a model of the oldest 70 % with a gap of one long
window between them. The model that serves is then learnt from all of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np

from insa_anomaly.core import units
from insa_anomaly.core.learning import assessment
from insa_anomaly.core.learning.assessment import (
    CONTEXT,
    FEWEST_READINGS,
    HOLDOUT_SHARE,
    PLAINLY_WORSE_BY,
    Assessment,
    Holdout,
)
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.learning.trained_model import Figures, LearntModel, Past, TrainedModel
from insa_anomaly.core.units import Floats, Ints

FEWEST_TO_COMPARE = 250  # readings that neither model has learnt

M = TypeVar("M", bound=LearntModel)


class Learner(Protocol[M]):
    """How a series, or a device, is learnt: `training.SeriesLearner`, `device_training.DeviceLearner`."""

    @property
    def parameters(self) -> Parameters:
        """By which it is learnt."""

    def fit(
        self, times: Ints, values: Floats, parameters: Parameters, past: Past[M] | None
    ) -> TrainedModel[M]:
        """Learn; with a past, what alarmed in mature age is left out. Raises NotEnoughData, TrainingError."""

    def twin(self, times: Ints, values: Floats, parameters: Parameters, past: Past[M] | None) -> M:
        """The model of `fit`, to be asked alone, by parameters with which `fit` has learnt before."""

    def usable(self, times: Ints, values: Floats) -> tuple[Ints, Floats]:
        """What a model is learnt from, alarmed ones among it, in time order."""

    def scores(self, model: M, times: Ints, values: Floats) -> Floats:
        """Scores of a stream [n] from an empty window on; 1 where it could not be scored."""


@dataclass(frozen=True)
class Challenge(Generic[M]):
    """A challenger, and what became of it."""

    trained: TrainedModel[M]
    improvement_percentage: float | None = None  # of balanced accuracy over the champion's
    unknown: str = ""  # why there is no improvement to tell, where there is a champion
    refusal: str = ""  # why it is not promoted
    champion: Assessment | None = None  # how the one before did on what it had not learnt

    @property
    def promoted(self) -> bool:
        """Whether it is to serve."""
        return not self.refusal

    @property
    def outcome(self) -> dict[str, float | bool | str | None]:
        """Percentage of improvement, None where it is not known; whether it is promoted; the reason of a refusal, or of the None."""
        reason = self.refusal or self.unknown
        return {
            "improvement_percentage": self.improvement_percentage,
            "promoted": self.promoted,
            "reason": reason,
        }


def train(
    learner: Learner[M], times: Ints, values: Floats, past: Past[M] | None = None
) -> Challenge[M]:
    """Learn, and say what the model is worth; where one served before, say whether the new one is to take its place.

    times [n] in microseconds since the epoch, values [n], or [n, d] of a device; any order. Raises as the learner's `fit` does.
    """
    trained = learner.fit(times, values, learner.parameters, past)
    when, what = learner.usable(times, values)
    if len(when) < FEWEST_READINGS:
        return _unknown(
            trained, f"{len(when)} readings; at least {FEWEST_READINGS} are needed to hold any out"
        )
    cut = int((1 - HOLDOUT_SHARE) * len(when))
    twin = learner.twin(when[:cut], what[:cut], _as_old(trained, learner.parameters), past)
    first = cut + units.LONG
    assess = _assessor(learner)
    holdout = held_out(when, what, first)
    found = assess(twin, holdout)
    trained = replace(trained, figures=trained.figures | _figures(found, holdout))
    if past is None:
        return Challenge(trained)
    unseen = held_out(
        when, what, max(first, int(np.searchsorted(when, past.model.life.through, "right")))
    )
    if len(unseen) < FEWEST_TO_COMPARE:
        return _unknown(
            trained,
            f"the serving model has learnt all but {len(unseen)} of these readings; {FEWEST_TO_COMPARE} are needed to compare",
        )
    # The twin stands for the new model: neither it nor the champion has learnt the holdout.
    champion = assess(past.model, unseen)
    comparison = assessment.compare(champion, assess(twin, unseen))
    return Challenge(
        trained,
        comparison.improvement_percentage,
        refusal=comparison.objection(),
        champion=champion,
    )


def refit(learner: Learner[M], times: Ints, values: Floats, past: Past[M]) -> Challenge[M]:
    """Learn on from where the serving model stands. Cheap, so the gate is wide: only what is plainly worse is refused.

    Both are held against what came since; the new one has learnt it, so its figures are not those of a holdout and are not given.
    """
    trained = learner.fit(times, values, learner.parameters, past)
    when, what = learner.usable(times, values)
    since = held_out(when, what, int(np.searchsorted(when, past.model.life.through, "right")))
    if len(since) < FEWEST_TO_COMPARE:
        return Challenge(trained, unknown=f"{len(since)} readings since the model before it")
    assess = _assessor(learner)
    champion = assess(past.model, since)
    worse = champion.accuracy - assess(trained.model, since).accuracy
    refused = (
        f"balanced accuracy lower by {100 * worse:.1f} points on what came since"
        if worse > PLAINLY_WORSE_BY
        else ""
    )
    return Challenge(
        trained, unknown="learnt on from the version before it", refusal=refused, champion=champion
    )


def _assessor(learner: Learner[M]) -> Callable[[M, Holdout], Assessment]:
    return lambda model, holdout: assessment.assess(partial(learner.scores, model), holdout)


def _as_old(trained: TrainedModel[M], parameters: Parameters) -> Parameters:
    """Parameters by which less history makes a model of the same age: young or mature, it decides by other members."""
    return (
        replace(parameters, mature_days=0.0, mature_readings=0)
        if trained.model.life.mature
        else parameters
    )


def _unknown(trained: TrainedModel[M], reason: str) -> Challenge[M]:
    basis: Figures = (
        {} if trained.figures["accuracy"] is not None else {"basis": f"not assessed: {reason}"}
    )
    return Challenge(replace(trained, figures=trained.figures | basis), unknown=reason)


def held_out(when: Ints, what: Floats, first: int) -> Holdout:
    """The readings from `first` on, and those before them that fill the window."""
    begin = max(first - CONTEXT, 0)
    return Holdout(when[begin:], what[begin:], first - begin)


def _figures(found: Assessment, holdout: Holdout) -> Figures:
    low, high = assessment.interval(found.alarmed)
    span = float(holdout.times[-1] - holdout.times[holdout.context]) / units.DAY
    return {
        "accuracy": found.accuracy,
        "false_positive_rate": found.false_positive_rate,
        "false_positive_rate_low": low,
        "false_positive_rate_high": high,
        "true_positive_rate": found.true_positive_rate,
        "caught": found.caught_by_kind(),
        "holdout_readings": len(found.alarmed),
        "holdout_days": round(span, 6),
        "holdout_faults": len(found.caught),
        "basis": "injected: the newest 30 % held out by time, taken as ordinary, with planted faults",
    }
