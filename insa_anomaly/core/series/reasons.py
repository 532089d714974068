"""Why a reading stands out, in shares and in words for the person who reads the alarm."""

import numpy as np

from insa_anomaly.core.notification.event import Reason
from insa_anomaly.core.scoring.episodes import Transition
from insa_anomaly.core.series.detector import FEATURES, MEMBERS, ModelTable, Results
from insa_anomaly.core.series.features import FLAT_FREE, MEANS, NAMES, SCALE, SPREADS
from insa_anomaly.core.series.rules import Rule
from insa_anomaly.core.units import Features, Floats

_MOST = 3
_LEAST_SHARE = 0.1

_SHIFTS = {
    "value": "value: {:+.4g} from its middle (usual +-{:.3g})",
    "jump": "jump: {:+.4g} against the last reading (usual +-{:.3g})",
    "level": "level: mean of the last 10 readings {:+.4g} from the middle (usual +-{:.3g})",
    "trend": "trend: mean of the last 10 readings {:+.4g} against the last 60 (usual +-{:.3g})",
    "time_of_day": "time of day: {:+.4g} from what is usual at this hour (usual +-{:.3g})",
    "time_of_day_level": "time of day: last 10 readings {:+.4g} from what is usual at this hour (usual +-{:.3g})",
}
_NAMED = {
    Rule.NEW_EXTREME: "new extreme: further out than it ever was, by more than 5 % of its range",
    Rule.MOVED: "moved: it never took another value",
    Rule.STUCK: "stuck: it repeats its value far longer than it ever does by itself",
    Rule.DROPOUT: "dropout: exactly zero, which it never says",
    Rule.SATURATED: "saturated: it stays at the end of its range",
    Rule.IMPOSSIBLE_RATE: "impossible rate: no change from one reading to the next was ever a third as large",
}
_SPOKE = {
    "forecast": "forecast: far from what the last readings led to expect",
    "forecast_smoothed": "forecast: the last ten readings together lay further from their forecasts than usual",
    "window": "window: taken together, the features of the last readings lie further out than usual",
}


def reasons(models: ModelTable, row: int, results: Results, i: int) -> list[Reason]:
    """Why reading i stands out, which the model in this row scored: what the rules saw, which member spoke, what isolated it.

    The share of a rule, and of a chart that was the strangest member, is 1; those of the features (`forest.Arena.shares`) sum to 1, and
    come strongest first without the small ones. A reading that merely goes on with an episode is explained by the one that opened it,
    or made it worse: in a plant where everything alarms there is no time for more. One that closes it is ordinary: nothing isolated it.
    """
    seen, numbers, scaled = (
        int(results.rules[i]),
        models.numbers[row, FEATURES],
        results.features[i],
    )
    member = MEMBERS[results.member[i]]
    named = [
        Reason(rule.name.lower(), 1.0, words)
        for rule, words in _NAMED.items()
        if seen & rule and rule.name
    ]
    named += [Reason(member, 1.0, _SPOKE[member])] if member in _SPOKE else []
    if results.episode_readings[i] and results.transition[i] in (
        Transition.NONE,
        Transition.CLOSED,
    ):
        return named
    shares = models.arena.shares(row, scaled)
    strongest = np.argsort(-shares, kind="stable")[:_MOST]
    return named + [
        Reason(NAMES[j], float(shares[j]), _words(j, scaled, numbers))
        for j in strongest.tolist()
        if shares[j] >= _LEAST_SHARE
    ]


def _words(i: int, scaled: Features, numbers: Floats) -> str:
    mean, spread = numbers[MEANS][i], numbers[SPREADS][i]
    raw = float(scaled[i]) * spread + mean
    if NAMES[i] == "spread":
        now, usual = (max(float(np.exp(x)) - 0.05, 0.0) * numbers[SCALE] for x in (raw, mean))
        return f"spread: the last 10 readings scatter by {now:.3g} (usual {usual:.3g})"
    if NAMES[i] == "flat_run":
        now, usual = (max(round(float(np.expm1(x) + numbers[FLAT_FREE])), 0) for x in (raw, mean))
        return f"flat: unchanged for {now} readings (usual {usual})"
    return _SHIFTS[NAMES[i]].format(raw * numbers[SCALE], spread * numbers[SCALE])
