"""What other settings would have done to a series: each is learnt from the older part of its history and tried on the newer.

Nothing is chosen here. The threshold of a setting comes from what was learnt, never from what it is tried on; who picks the row that
looks best picks by the newer part, whose figures are a little too good from then on.
"""

from dataclasses import dataclass, replace

import numpy as np

from insa_anomaly.core import units
from insa_anomaly.core.learning import assessment
from insa_anomaly.core.learning.assessment import FEWEST_READINGS, HOLDOUT_SHARE
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring import episodes
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.units import DAY, Floats, Ints
from insa_anomaly.errors import NotEnoughData


@dataclass(frozen=True)
class Setting:
    """What may be set: false episodes a day that are accepted, and the line of readings."""

    false_alarms_per_day: float
    alpha: float


@dataclass(frozen=True)
class Tried:
    """What a setting would have done in the newer part, taken as ordinary, and with faults planted in it."""

    setting: Setting
    threshold: float  # that training found for it
    episodes_per_day: float  # told
    faults_told: float  # share of the planted faults in which a reading reached the threshold
    faults_caught: float  # share of them in which a reading was called anomalous, told or not
    false_positive_rate: float  # share of ordinary readings called anomalous
    readings: int
    days: float
    faults: int


@dataclass(frozen=True)
class Series:
    """The history of one series: times [n] in microseconds, values [n]."""

    key: SeriesKey
    times: Ints
    values: Floats


def tried(series: Series, setting: Setting, parameters: Parameters, policy: Policy) -> Tried:
    """Learn the older part by this setting, and try it on the newer. Raises NotEnoughData, TrainingError."""
    from insa_anomaly.core.learning.challenge import held_out  # noqa: PLC0415 - loads scikit-learn, which the command line does without
    from insa_anomaly.core.series.training import SeriesLearner  # noqa: PLC0415 - as this does

    own = replace(parameters, alpha=setting.alpha)
    learner = SeriesLearner(
        series.key,
        "tuning",
        1,
        own,
        replace(policy, false_alarms_per_day=setting.false_alarms_per_day),
    )
    when, what = learner.usable(series.times, series.values)
    if len(when) < FEWEST_READINGS:
        raise NotEnoughData(
            f"{len(when)} readings; at least {FEWEST_READINGS} are needed to try anything on a part of them"
        )
    cut = int((1 - HOLDOUT_SHARE) * len(when))
    model = learner.fit(when[:cut], what[:cut], own, None).model
    holdout = held_out(when, what, cut + units.LONG)

    def scores(times: Ints, values: Floats) -> Floats:
        return learner.scores(model, times, values)

    def told(times: Ints, values: Floats) -> Floats:
        """The same, of readings that reach the threshold; the others are as if they were ordinary."""
        found = scores(times, values)
        return np.where(-found >= model.threshold, found, 1.0)

    found, spoken = assessment.assess(scores, holdout), assessment.assess(told, holdout)
    ordinary = scores(holdout.times, holdout.values)[holdout.context :]
    days = float(holdout.times[-1] - holdout.times[holdout.context]) / DAY
    opened = int((episodes.peaks(ordinary, policy.merge_gap_readings) >= model.threshold).sum())
    return Tried(
        setting,
        model.threshold,
        episodes_per_day=opened / max(days, 1e-9),
        faults_told=spoken.true_positive_rate,
        faults_caught=found.true_positive_rate,
        false_positive_rate=found.false_positive_rate,
        readings=len(ordinary),
        days=days,
        faults=len(found.faults),
    )
