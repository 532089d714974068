"""Why a reading stands out, in shares and in words for the person who reads the alarm."""

import numpy as np

from insa_anomaly.core.event import Reason
from insa_anomaly.core.rules import Rule
from insa_anomaly.core.features import MEANS, NAMES, SCALE, SPREADS, Features, Floats

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


def describe(scaled: Features, numbers: Floats, seen: int = 0) -> list[Reason]:
    """What the rules saw, and the features [WIDTH] that stand out most, strongest first.

    A feature's share is that of its square; a rule's share is 1. `numbers` [features.NUMBERS_WIDTH] are those of the model that scaled the
    features, `seen` are `rules.Rule`. No feature out of the ordinary: no reason.
    """
    named = [Reason(rule.name.lower(), 1.0, words) for rule, words in _NAMED.items() if seen & rule and rule.name]
    return named + _features(scaled, numbers)


def _features(scaled: Features, numbers: Floats) -> list[Reason]:
    weights = scaled.astype(np.float64) ** 2
    total = float(weights.sum())
    if total == 0:
        return []
    strongest = np.argsort(-weights, kind="stable")[:_MOST]
    shares = weights / total
    return [Reason(NAMES[i], float(shares[i]), _words(i, scaled, numbers)) for i in strongest.tolist() if shares[i] >= _LEAST_SHARE]


def _words(i: int, scaled: Features, numbers: Floats) -> str:
    mean, spread = numbers[MEANS][i], numbers[SPREADS][i]
    raw = float(scaled[i]) * spread + mean
    if NAMES[i] == "spread":
        now, usual = (max(float(np.exp(x)) - 0.05, 0.0) * numbers[SCALE] for x in (raw, mean))
        return f"spread: the last 10 readings scatter by {now:.3g} (usual {usual:.3g})"
    if NAMES[i] == "flat_run":
        return f"flat: unchanged for {max(round(float(np.expm1(raw))), 0)} readings (usual {max(round(float(np.expm1(mean))), 0)})"
    return _SHIFTS[NAMES[i]].format(raw * numbers[SCALE], spread * numbers[SCALE])
