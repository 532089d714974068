"""Trial of other settings on a series: learnt from its older readings, tried on the newer ones.

No setting is chosen here. The threshold of a setting comes from the older part, never from the
newer; picking the best row is picking by the newer part, whose figures are a little too good from
then on.
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
    """Parameters that are tried: accepted false episodes a day, and the line of readings."""

    false_alarms_per_day: float
    alpha: float


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Outcome of a setting on the newer part, taken as ordinary, and with planted faults."""

    setting: Setting
    threshold: float  # that training found for it
    episodes_per_day: float
    faults_told: float  # share of the planted faults in which a reading reached the threshold
    faults_caught: float  # share of them in which a reading was anomalous, reported or not
    false_positive_rate: float  # share of ordinary readings called anomalous
    readings: int
    days: float
    faults: int


@dataclass(frozen=True)
class Series:
    """The history of a series: times [n] in microseconds, values [n]."""

    key: SeriesKey
    times: Ints
    values: Floats


def tried(series: Series, setting: Setting, parameters: Parameters, policy: Policy) -> Tried:
    """Learn the older part with a setting, and try it on the newer.

    Raises NotEnoughData, TrainingError.
    """
    # Both load scikit-learn, which the command line does without.
    from insa_anomaly.core.learning.challenge import held_out  # noqa: PLC0415
    from insa_anomaly.core.series.training import SeriesLearner  # noqa: PLC0415

    learner = SeriesLearner(
        key=series.key,
        id="tuning",
        version=1,
        parameters=replace(parameters, alpha=setting.alpha),
        policy=replace(policy, false_alarms_per_day=setting.false_alarms_per_day),
    )
    when, what = learner.usable(series.times, series.values)
    if len(when) < FEWEST_READINGS:
        needed = f"at least {FEWEST_READINGS} are needed to try anything on a part of them"
        raise NotEnoughData(f"{len(when)} readings; {needed}")
    cut = int((1 - HOLDOUT_SHARE) * len(when))
    model = learner.fit(when[:cut], what[:cut]).model
    holdout = held_out(when, what, cut + units.LONG)

    def scores(times: Ints, values: Floats) -> Floats:
        return learner.scores(model, times, values)

    def reported(times: Ints, values: Floats) -> Floats:
        """Return the scores, 1 for a reading that does not reach the threshold."""
        found = scores(times, values)
        return np.where(-found >= model.threshold, found, 1.0)

    caught, told = assessment.assess(scores, holdout), assessment.assess(reported, holdout)
    ordinary = scores(holdout.times, holdout.values)[holdout.context :]
    days = float(holdout.times[-1] - holdout.times[holdout.context]) / DAY
    opened = int((episodes.peaks(ordinary, policy.merge_gap_readings) >= model.threshold).sum())
    return Tried(
        setting=setting,
        threshold=model.threshold,
        episodes_per_day=opened / max(days, 1e-9),
        faults_told=told.true_positive_rate,
        faults_caught=caught.true_positive_rate,
        false_positive_rate=caught.false_positive_rate,
        readings=len(ordinary),
        days=days,
        faults=len(caught.faults),
    )
