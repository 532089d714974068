"""Why a reading stands out, in shares and in words for the person who reads the alarm."""

import numpy as np

from insa_anomaly.core.layout import LearntRows
from insa_anomaly.core.notification.event import Reason
from insa_anomaly.core.scoring.episodes import Transition
from insa_anomaly.core.series.detector import FEATURES, MEMBERS, ModelTable, Results
from insa_anomaly.core.series.features import FLAT_FREE, MEANS, NAMES, SCALE, SPREADS
from insa_anomaly.core.series.rules import Rule
from insa_anomaly.core.units import Features

_MOST = 3
_LEAST_SHARE = 0.1

_SHIFTS = {
    "value": "value: {:+.4g} from its middle (usual +-{:.3g})",
    "jump": "jump: {:+.4g} against the last reading (usual +-{:.3g})",
    "level": "level: mean of the last 10 readings {:+.4g} from the middle (usual +-{:.3g})",
    "trend": "trend: mean of the last 10 readings {:+.4g} against the last 60 (usual +-{:.3g})",
    "time_of_day": "time of day: {:+.4g} from what is usual at this hour (usual +-{:.3g})",
    "time_of_day_level": "time of day: last 10 readings {:+.4g} "
    "from what is usual at this hour (usual +-{:.3g})",
}
_NAMED = {
    Rule.NEW_EXTREME: "new extreme: further out than it ever was, by more than 5 % of its range",
    Rule.MOVED: "moved: it never took another value",
    Rule.STUCK: "stuck: it repeats its value far longer than it ever does by itself",
    Rule.DROPOUT: "dropout: exactly zero, which it never says",
    Rule.SATURATED: "saturated: it stays at the end of its range",
    Rule.IMPOSSIBLE_RATE: "impossible rate: "
    "no change from one reading to the next was ever a third as large",
}
_CHARTED = {
    "forecast": "forecast: far from what the last readings led to expect",
    "forecast_smoothed": "forecast: "
    "the last ten readings together lay further from their forecasts than usual",
    "window": "window: "
    "taken together, the features of the last readings lie further out than usual",
}


def reasons(models: ModelTable, row: int, results: Results, i: int) -> list[Reason]:
    """Return why reading i, scored by the model in this row, stands out.

    Reasons are broken rules, the strangest member if it is a chart, and the features that isolated
    the reading. The share of a rule or chart is 1; the shares of the features
    (`forest.Arena.shares`) sum to 1, and come strongest first without the small ones. A reading
    that merely continues an episode is explained by the reading that opened it, or made it worse:
    in a plant where everything alarms there is no time for more. A reading that closes an episode
    is ordinary: no feature isolated it.
    """
    seen, member = int(results.rules[i]), MEMBERS[results.member[i]]
    broken = [(str(rule.name), words) for rule, words in _NAMED.items() if seen & rule]
    named = [Reason(name.lower(), 1.0, words) for name, words in broken]
    named += [Reason(member, 1.0, _CHARTED[member])] if member in _CHARTED else []
    continues = results.transition[i] in (Transition.NONE, Transition.CLOSED)
    if results.episode_readings[i] and continues:
        return named
    scaled, learnt = results.features[i], LearntRows(models.learnt[row, FEATURES])
    shares = models.arena.shares(row, scaled)
    strongest = np.argsort(-shares, kind="stable")[:_MOST]
    return named + [
        Reason(NAMES[j], float(shares[j]), _words(j, scaled, learnt))
        for j in strongest.tolist()
        if shares[j] >= _LEAST_SHARE
    ]


def _words(i: int, scaled: Features, learnt: LearntRows) -> str:
    mean, spread = learnt[MEANS][i], learnt[SPREADS][i]
    raw = float(scaled[i]) * spread + mean
    if NAMES[i] == "spread":
        now, usual = (max(float(np.exp(x)) - 0.05, 0.0) * learnt[SCALE] for x in (raw, mean))
        return f"spread: the last 10 readings scatter by {now:.3g} (usual {usual:.3g})"
    if NAMES[i] == "flat_run":
        now, usual = (max(round(float(np.expm1(x) + learnt[FLAT_FREE])), 0) for x in (raw, mean))
        return f"flat: unchanged for {now} readings (usual {usual})"
    return _SHIFTS[NAMES[i]].format(raw * learnt[SCALE], spread * learnt[SCALE])
