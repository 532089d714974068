"""A new model of a series against the one that serves: trained, assessed, and promoted only where it is not worse.

The figures of a model come from a holdout: the newest 30 % of its history, seen by a model of the oldest 70 % with a gap of one long
window between them. The model that serves is then learnt from all of it.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from insa_anomaly.core import assessment, detector, features
from insa_anomaly.core.assessment import CONTEXT, FEWEST_READINGS, HOLDOUT_SHARE, PLAINLY_WORSE_BY, Assessment, Holdout, assess
from insa_anomaly.core.detector import Parameters
from insa_anomaly.core.features import Floats, Ints
from insa_anomaly.core.training import Figures, Past, Trained, fit, usable
from insa_anomaly.core.verdict import Policy

FEWEST_TO_COMPARE = 250  # readings that neither model has learnt


class Name(NamedTuple):
    """What the new model is to be called."""

    key: tuple[str, str]  # device_id, metric_name
    id: str
    version: int


@dataclass(frozen=True)
class Challenge:
    """A challenger, and what became of it."""

    trained: Trained
    improvement_percentage: float | None = None  # of balanced accuracy over the champion's
    unknown: str = ""  # why there is no improvement to tell, where there is a champion
    refusal: str = ""  # why it is not promoted
    champion: Assessment | None = None  # how the one before did on what it had not learnt

    @property
    def promoted(self) -> bool:
        """Whether it is to serve."""
        return not self.refusal


def train(times: Ints, values: Floats, name: Name, parameters: Parameters, policy: Policy, past: Past | None = None) -> Challenge:
    """Learn a series and say what the model is worth; where one served before, say whether the new one is to take its place.

    times [n] in microseconds since the epoch, values [n]; any order. Raises as `training.fit` does.
    """
    trained = fit(times, values, *name, parameters, policy, past)
    when, what = usable(times, values, parameters)
    if len(when) < FEWEST_READINGS:
        return _unknown(trained, f"{len(when)} readings; at least {FEWEST_READINGS} are needed to hold any out")
    cut = int((1 - HOLDOUT_SHARE) * len(when))
    twin = fit(when[:cut], what[:cut], *name, _as_old(trained, parameters), policy, past)
    first = cut + features.LONG
    holdout = _holdout(when, what, first)
    found = assess(twin.model, holdout, parameters)
    trained = replace(trained, figures=trained.figures | _figures(found, holdout))
    if past is None:
        return Challenge(trained)
    return _against(past, twin, trained, _holdout(when, what, max(first, int(np.searchsorted(when, past.through, "right")))), parameters)


def refit(times: Ints, values: Floats, name: Name, parameters: Parameters, policy: Policy, past: Past) -> Challenge:
    """Learn on from where the serving model stands. Cheap, so the gate is wide: only what is plainly worse is refused.

    Both are held against what came since; the new one has learnt it, so its figures are not those of a holdout and are not given.
    """
    trained = fit(times, values, *name, parameters, policy, past)
    when, what = usable(times, values, parameters)
    since = _holdout(when, what, int(np.searchsorted(when, past.through, "right")))
    if len(since) < FEWEST_TO_COMPARE:
        return Challenge(trained, unknown=f"{len(since)} readings since the model before it")
    champion = assess(past.model, since, parameters)
    worse = champion.accuracy - assess(trained.model, since, parameters).accuracy
    refused = f"balanced accuracy lower by {100 * worse:.1f} points on what came since" if worse > PLAINLY_WORSE_BY else ""
    return Challenge(trained, unknown="learnt on from the version before it", refusal=refused, champion=champion)


def _as_old(trained: Trained, parameters: Parameters) -> Parameters:
    """Parameters by which less history makes a model of the same age: young or mature, it decides by other members."""
    mature = bool(trained.model.numbers[detector.MATURE])
    return replace(parameters, mature_days=0.0, mature_readings=0) if mature else parameters


def _against(past: Past, twin: Trained, trained: Trained, holdout: Holdout, parameters: Parameters) -> Challenge:
    """The twin stands for the new model: neither it nor the champion has learnt the holdout."""
    if len(holdout) < FEWEST_TO_COMPARE:
        return _unknown(
            trained, f"the serving model has learnt all but {len(holdout)} of these readings; {FEWEST_TO_COMPARE} are needed to compare"
        )
    champion, challenger = (assess(model, holdout, parameters) for model in (past.model, twin.model))
    comparison = assessment.compare(champion, challenger)
    return Challenge(trained, comparison.improvement_percentage, refusal=comparison.objection(), champion=champion)


def _unknown(trained: Trained, reason: str) -> Challenge:
    basis: Figures = {} if trained.figures["accuracy"] is not None else {"basis": f"not assessed: {reason}"}
    return Challenge(replace(trained, figures=trained.figures | basis), unknown=reason)


def _holdout(when: Ints, what: Floats, first: int) -> Holdout:
    """The readings from `first` on, and those before them that fill the window."""
    begin = max(first - CONTEXT, 0)
    return Holdout(when[begin:], what[begin:], first - begin)


def _figures(found: Assessment, holdout: Holdout) -> Figures:
    low, high = assessment.interval(found.alarmed)
    span = float(holdout.times[-1] - holdout.times[holdout.context]) / features.DAY
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
