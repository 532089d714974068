"""What a model is worth, measured on a holdout: the newest part of a history, which the model has not learnt.

Nobody has labelled it. So it is taken as ordinary, which gives the share of false alarms, and faults of seven kinds and three sizes are
planted in it, which gives the share of faults that are caught. Two models are compared on the same holdout with the same faults.

Intervals are percentiles of a block bootstrap (Kuensch 1989): readings near to each other are not independent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from insa_anomaly.core import units
from insa_anomaly.core.units import Bools, Floats, Ints

FEWEST_READINGS = 2000  # of a history, below which nothing is said about its model
HOLDOUT_SHARE = 0.3
WORSE_BY = 0.01  # of balanced accuracy: a challenger that may be worse by more is not promoted
PLAINLY_WORSE_BY = 0.1
FALSE_POSITIVE_RATE_MOST = 0.05

CONTEXT = units.FLAT_CAP + units.LONG  # readings before the holdout that fill the window
_SIZES = (3.0, 6.0, 12.0)  # in units of the series' local noise
_LENGTHS = {
    "spike": 2,
    "level_shift": 60,
    "drift": 100,
    "stuck": 60,
    "noise": 60,
    "dropout": 4,
    "oscillation": 60,
}
_APART = 200  # readings from the beginning of one fault to that of the next: room to recover, where there is room
_PERIOD = 8
_MIDDLE_OF = 31
_SEED = 20_240_901
_BLOCKS, _RESAMPLES = 20, 1000


class InjectedFault(NamedTuple):
    """A planted fault: rows `first` to `end`, without the last."""

    kind: str
    size: float
    first: int
    end: int


Scorer = Callable[
    [Ints, Floats], Floats
]  # scores of a stream [n] from an empty window on; 1 where it could not be scored


@dataclass(frozen=True)
class Holdout:
    """Readings [n], or rows of d metrics [n, d], and how many at the beginning only fill the window."""

    times: Ints
    values: Floats
    context: int

    def __len__(self) -> int:
        return len(self.times) - self.context


@dataclass(frozen=True)
class Assessment:
    """How one model did on a holdout."""

    alarmed: Bools  # [n] which of the ordinary readings that could be scored were called anomalous
    caught: Bools  # [f] which of the planted faults were
    faults: tuple[InjectedFault, ...]

    @property
    def false_positive_rate(self) -> float:
        """Share of ordinary readings called anomalous."""
        return float(self.alarmed.mean())

    @property
    def true_positive_rate(self) -> float:
        """Share of planted faults in which at least one reading was called anomalous."""
        return float(self.caught.mean())

    @property
    def accuracy(self) -> float:
        """Balanced: the mean of what is caught and of what is left in peace."""
        return (self.true_positive_rate + 1 - self.false_positive_rate) / 2

    def caught_by_kind(self) -> dict[str, float]:
        """Share of the planted faults caught, a kind each."""
        return {
            kind: float(
                np.mean(
                    [c for c, f in zip(self.caught, self.faults, strict=True) if f.kind == kind]
                )
            )
            for kind in _LENGTHS
        }


@dataclass(frozen=True)
class PairedComparison:
    """A challenger against the champion, on the same holdout with the same faults."""

    improvement_percentage: float  # of balanced accuracy; negative where the challenger is worse
    lower_bound: float  # of the difference in balanced accuracy: below it with a chance of 1 in 40
    challenger_false_positive_rate: float

    def objection(self) -> str:
        """Why the challenger is not to be promoted; empty where it is."""
        if self.lower_bound < -WORSE_BY:
            return f"balanced accuracy may be lower by {-100 * self.lower_bound:.1f} points, more than {100 * WORSE_BY:g}"
        if self.challenger_false_positive_rate > FALSE_POSITIVE_RATE_MOST:
            rate, most = 100 * self.challenger_false_positive_rate, 100 * FALSE_POSITIVE_RATE_MOST
            return f"it calls {rate:.1f} % of ordinary readings anomalous, more than {most:g} %"
        return ""


def assess(score: Scorer, holdout: Holdout) -> Assessment:
    """How a model does on what it has not learnt. Of a device every fault is planted in one metric, in turn."""
    times, values, context = holdout.times, holdout.values, holdout.context
    plain = score(times, values)[context:]
    said, faults = [], []
    for planted in plans(len(plain)):
        faulty = np.concatenate((values[:context], _planted(values[context:], planted)))
        scores = score(times, faulty)[context:]
        said += [bool((scores[fault.first : fault.end] < 0).any()) for fault in planted]
        faults += planted
    return Assessment(plain < 0, np.array(said), tuple(faults))


def _planted(values: Floats, faults: list[InjectedFault]) -> Floats:
    if values.ndim == 1:
        return plant(values, faults, local_noise(values))
    d = values.shape[1]
    each = [
        plant(column, faults[j::d], local_noise(column[np.isfinite(column)]))
        for j, column in enumerate(values.T)
    ]
    return np.column_stack(each)


def compare(champion: Assessment, challenger: Assessment) -> PairedComparison:
    """The challenger against the champion; both of the same holdout. Blocks of readings, and faults, are drawn anew together."""
    random = np.random.default_rng(_SEED)
    less_alarmed = _block_means(champion.alarmed) - _block_means(challenger.alarmed)
    more_caught = challenger.caught.astype(np.float64) - champion.caught
    differences = (_resampled(random, less_alarmed) + _resampled(random, more_caught)) / 2
    gain = challenger.accuracy - champion.accuracy
    return PairedComparison(
        100 * gain / max(champion.accuracy, 1e-9),
        float(np.quantile(differences, 0.025)),
        challenger.false_positive_rate,
    )


def interval(share: Bools) -> tuple[float, float]:
    """Where the true share lies with a chance of 19 in 20, of flags in time order [n]."""
    low, high = np.quantile(
        _resampled(np.random.default_rng(_SEED), _block_means(share)), [0.025, 0.975]
    ).tolist()
    return low, high


def local_noise(values: Floats) -> float:
    """Robust standard deviation of values [n] around their mean of 31 readings; never 0."""
    if len(values) < _MIDDLE_OF:
        return (float(values.std()) if len(values) else 0.0) or 1e-9
    middle = np.lib.stride_tricks.sliding_window_view(values, _MIDDLE_OF).mean(axis=1)
    off = values[_MIDDLE_OF // 2 : _MIDDLE_OF // 2 + len(middle)] - middle
    return 1.4826 * float(np.median(np.abs(off - np.median(off)))) or float(values.std()) or 1e-9


def plans(n: int) -> list[list[InjectedFault]]:
    """Every kind in every size, evenly spread over n readings; in as many passes as it takes to keep them apart."""
    wanted = [(kind, size) for size in _SIZES for kind in _LENGTHS]
    at_once = max(2, n // _APART)
    plans = [wanted[begin : begin + at_once] for begin in range(0, len(wanted), at_once)]
    return [
        [
            InjectedFault(kind, size, first, min(first + _LENGTHS[kind], n))
            for (kind, size), first in zip(plan, _places(n, len(plan)), strict=True)
        ]
        for plan in plans
    ]


def _places(n: int, faults: int) -> list[int]:
    step = n / faults
    return [int(step * (i + 0.25)) for i in range(faults)]


def plant(values: Floats, faults: list[InjectedFault], noise: float) -> Floats:
    """Values [n] with these faults in them; `noise` is the unit of their sizes."""
    out = values.copy()
    random = np.random.default_rng(_SEED)
    for i, (kind, size, first, end) in enumerate(faults):
        k = np.arange(end - first)
        part, reach = out[first:end], (1 if i % 2 else -1) * size * noise
        match kind:
            case "spike" | "level_shift":
                part += reach
            case "drift":
                part += reach * 1.5 * (k + 1) / len(k)
            case "stuck":
                part[:] = part[0]
            case "noise":
                part += random.normal(0, abs(reach) / 2, len(k))
            case "dropout":
                part[:] = 0.0
            case "oscillation":
                part += reach * np.sin(2 * np.pi * k / _PERIOD)
    return out


def _block_means(flags: Bools) -> Floats:
    return np.array([block.mean() for block in np.array_split(flags.astype(np.float64), _BLOCKS)])


def _resampled(random: np.random.Generator, values: Floats) -> Floats:
    """Means of as many values drawn with replacement, time and again."""
    drawn: Floats = values[random.integers(0, len(values), (_RESAMPLES, len(values)))].mean(axis=1)
    return drawn
