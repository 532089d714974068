"""A new model of a series or device against the one that serves: promoted only if it is not worse.

The figures of a model come from a holdout: the newest 30 % of its history, scored by a model of the
oldest 70 % with a gap of one long window between them. The model that serves is then learnt from
the whole history.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Generic

import numpy as np

from insa_anomaly.core import units
from insa_anomaly.core.learning import assessment
from insa_anomaly.core.learning.assessment import CONTEXT, FEWEST_READINGS, Assessment, Holdout
from insa_anomaly.core.learning.learner import Learner
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.learning.trained_model import Figures, M, Past, TrainedModel
from insa_anomaly.core.units import Floats, Ints

FEWEST_TO_COMPARE = 250  # readings that neither model has learnt


@dataclass(frozen=True, kw_only=True)
class Challenge(Generic[M]):
    """A challenger, and its result."""

    trained: TrainedModel[M]
    improvement_percentage: float | None = None  # of balanced accuracy over the champion's
    unknown: str = ""  # why the improvement over a champion is unknown
    refusal: str = ""  # why it is not promoted
    champion: Assessment | None = None  # of the model before, on readings it had not learnt

    @property
    def promoted(self) -> bool:
        """Whether it is to serve."""
        return not self.refusal

    @property
    def outcome(self) -> dict[str, float | bool | str | None]:
        """Improvement in percent, or None; promotion; reason of a refusal or of the None."""
        return {
            "improvement_percentage": self.improvement_percentage,
            "promoted": self.promoted,
            "reason": self.refusal or self.unknown,
        }


def train(
    learner: Learner[M], times: Ints, values: Floats, past: Past[M] | None = None
) -> Challenge[M]:
    """Learn and assess a model; with a past, decide whether it replaces the serving model.

    times [n] in microseconds since the epoch, values [n], or [n, d] of a device; any order. Raises
    as the learner's `fit` does.
    """
    trained = learner.fit(times, values, past)
    when, what = learner.usable(times, values)
    if len(when) < FEWEST_READINGS:
        few = f"{len(when)} readings; at least {FEWEST_READINGS} are needed to hold any out"
        return _unknown(trained, few)
    cut = int((1 - assessment.HOLDOUT_SHARE) * len(when))
    twin = learner.twin(when[:cut], what[:cut], _as_old(trained, learner.parameters), past)
    first = cut + units.LONG
    holdout = held_out(when, what, first)
    found = _assess(learner, twin, holdout)
    trained = replace(trained, figures=trained.figures | _figures(found, holdout))
    if past is None:
        return Challenge(trained=trained)
    unseen = held_out(when, what, max(first, _first_new(when, past)))
    if len(unseen) < FEWEST_TO_COMPARE:
        few = f"the serving model has learnt all but {len(unseen)} of these readings"
        return _unknown(trained, f"{few}; {FEWEST_TO_COMPARE} are needed to compare")
    # The twin stands for the new model: neither it nor the champion has learnt the holdout.
    champion = _assess(learner, past.model, unseen)
    comparison = assessment.compare(champion, _assess(learner, twin, unseen))
    return Challenge(
        trained=trained,
        improvement_percentage=comparison.improvement_percentage,
        refusal=comparison.objection(),
        champion=champion,
    )


def refit(learner: Learner[M], times: Ints, values: Floats, past: Past[M]) -> Challenge[M]:
    """Continue to learn from the serving model; refuse only a plainly worse model.

    The gate is wide because a refit is cheap. Both models are assessed on the readings that have
    come since; the new model has learnt them, so its figures are not given.
    """
    trained = learner.fit(times, values, past)
    when, what = learner.usable(times, values)
    since = held_out(when, what, _first_new(when, past))
    if len(since) < FEWEST_TO_COMPARE:
        few = f"{len(since)} readings since the model before it"
        return Challenge(trained=trained, unknown=few)
    champion = _assess(learner, past.model, since)
    worse = champion.accuracy - _assess(learner, trained.model, since).accuracy
    refusal = f"balanced accuracy lower by {100 * worse:.1f} points on what came since"
    return Challenge(
        trained=trained,
        unknown="learnt on from the version before it",
        refusal=refusal if worse > assessment.PLAINLY_WORSE_BY else "",
        champion=champion,
    )


def _assess(learner: Learner[M], model: M, holdout: Holdout) -> Assessment:
    return assessment.assess(partial(learner.scores, model), holdout)


def _first_new(when: Ints, past: Past[M]) -> int:
    """Return the index of the first reading that the serving model has not learnt."""
    return int(np.searchsorted(when, past.model.life.through, "right"))


def _as_old(trained: TrainedModel[M], parameters: Parameters) -> Parameters:
    """Return parameters with which less history makes a model of the same age.

    A young and a mature model decide by other members.
    """
    mature = trained.model.life.mature
    return replace(parameters, mature_days=0.0, mature_readings=0) if mature else parameters


def _unknown(trained: TrainedModel[M], reason: str) -> Challenge[M]:
    assessed = trained.figures["accuracy"] is not None
    basis: Figures = {} if assessed else {"basis": f"not assessed: {reason}"}
    trained = replace(trained, figures=trained.figures | basis)
    return Challenge(trained=trained, unknown=reason)


def held_out(when: Ints, what: Floats, first: int) -> Holdout:
    """Return the readings from `first` on, and the readings before them that fill the window."""
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
        "basis": "injected: "
        "the newest 30 % held out by time, taken as ordinary, with planted faults",
    }
