"""Assessment of a model on a holdout: the newest part of a history, which it has not learnt.

A holdout has no labels. It is taken as ordinary, which gives the share of false alarms, and faults
of seven kinds and three sizes are planted in it, which gives the share of faults that are caught.
Two models are compared on the same holdout with the same faults.

Intervals are percentiles of a block bootstrap (Kuensch 1989): neighbouring readings are not
independent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from insa_anomaly.core import units
from insa_anomaly.core.units import Bools, Floats, Ints

FEWEST_READINGS = 2000  # of a history, below which its model is not assessed
HOLDOUT_SHARE = 0.3
WORSE_BY = 0.01  # of balanced accuracy: a challenger possibly worse by more is not promoted
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
# Readings from the beginning of a fault to that of the next: room to recover, where there is room.
_APART = 200
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


# Scores of a stream [n] from an empty window on; 1 for a reading that cannot be scored.
Scorer = Callable[[Ints, Floats], Floats]


@dataclass(frozen=True)
class Holdout:
    """Readings [n], or rows of d metrics [n, d]."""

    times: Ints
    values: Floats
    context: int  # readings at the beginning that only fill the window

    def __len__(self) -> int:
        return len(self.times) - self.context


@dataclass(frozen=True)
class Assessment:
    """Result of a model on a holdout."""

    alarmed: Bools  # [n] whether each ordinary reading that could be scored was called anomalous
    caught: Bools  # [f] whether each planted fault was
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
        """Balanced accuracy: the mean of the true positive rate and the true negative rate."""
        return (self.true_positive_rate + 1 - self.false_positive_rate) / 2

    def caught_by_kind(self) -> dict[str, float]:
        """Return the share of the planted faults caught, by kind."""
        kinds = np.array([fault.kind for fault in self.faults])
        return {kind: float(np.mean(self.caught[kinds == kind])) for kind in _LENGTHS}


@dataclass(frozen=True)
class PairedComparison:
    """A challenger compared with the champion, on the same holdout with the same faults."""

    improvement_percentage: float  # of balanced accuracy; negative where the challenger is worse
    lower_bound: float  # of the difference in balanced accuracy, which is below it 1 time in 40
    challenger_false_positive_rate: float

    def objection(self) -> str:
        """Return why the challenger is not to be promoted; empty if it is."""
        if self.lower_bound < -WORSE_BY:
            lower, most = -100 * self.lower_bound, 100 * WORSE_BY
            return f"balanced accuracy may be lower by {lower:.1f} points, more than {most:g}"
        if self.challenger_false_positive_rate > FALSE_POSITIVE_RATE_MOST:
            rate, most = 100 * self.challenger_false_positive_rate, 100 * FALSE_POSITIVE_RATE_MOST
            return f"it calls {rate:.1f} % of ordinary readings anomalous, more than {most:g} %"
        return ""


def assess(score: Scorer, holdout: Holdout) -> Assessment:
    """Assess a model on a holdout. In a device every fault is planted in one metric, in turn."""
    times, values, context = holdout.times, holdout.values, holdout.context
    plain = score(times, values)[context:]
    caught, faults = [], []
    for planted in plans(len(plain)):
        faulty = np.concatenate((values[:context], _planted(values[context:], planted)))
        scores = score(times, faulty)[context:]
        caught += [bool((scores[fault.first : fault.end] < 0).any()) for fault in planted]
        faults += planted
    return Assessment(plain < 0, np.array(caught), tuple(faults))


def _planted(values: Floats, faults: list[InjectedFault]) -> Floats:
    if values.ndim == 1:
        return plant(values, faults, local_noise(values))
    each, d = [], values.shape[1]
    for j, column in enumerate(values.T):
        each.append(plant(column, faults[j::d], local_noise(column[np.isfinite(column)])))
    return np.column_stack(each)


def compare(champion: Assessment, challenger: Assessment) -> PairedComparison:
    """Compare two assessments of a holdout; blocks and faults are resampled together."""
    random = np.random.default_rng(_SEED)
    less_alarmed = _block_means(champion.alarmed) - _block_means(challenger.alarmed)
    more_caught = challenger.caught.astype(np.float64) - champion.caught
    differences = (_resampled(random, less_alarmed) + _resampled(random, more_caught)) / 2
    gain = 100 * (challenger.accuracy - champion.accuracy) / max(champion.accuracy, 1e-9)
    lowest = float(np.quantile(differences, 0.025))
    return PairedComparison(gain, lowest, challenger.false_positive_rate)


def interval(share: Bools) -> tuple[float, float]:
    """Return the 95 % interval of the share of flags [n] in time order."""
    drawn = _resampled(np.random.default_rng(_SEED), _block_means(share))
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return low, high


def local_noise(values: Floats) -> float:
    """Return the robust standard deviation of values [n] around their mean of 31; never 0."""
    if len(values) < _MIDDLE_OF:
        return (float(values.std()) if len(values) else 0.0) or 1e-9
    middle = np.lib.stride_tricks.sliding_window_view(values, _MIDDLE_OF).mean(axis=1)
    off = values[_MIDDLE_OF // 2 : _MIDDLE_OF // 2 + len(middle)] - middle
    return 1.4826 * float(np.median(np.abs(off - np.median(off)))) or float(values.std()) or 1e-9


def plans(n: int) -> list[list[InjectedFault]]:
    """Return faults of every kind and size over n readings, in passes that keep them apart."""
    wanted = [(kind, size) for size in _SIZES for kind in _LENGTHS]
    at_once = max(2, n // _APART)
    return [_plan(n, wanted[begin : begin + at_once]) for begin in range(0, len(wanted), at_once)]


def _plan(n: int, wanted: list[tuple[str, float]]) -> list[InjectedFault]:
    firsts = [int(n / len(wanted) * (i + 0.25)) for i in range(len(wanted))]
    return [
        InjectedFault(kind, size, first, min(first + _LENGTHS[kind], n))
        for (kind, size), first in zip(wanted, firsts, strict=True)
    ]


def plant(values: Floats, faults: list[InjectedFault], noise: float) -> Floats:
    """Plant faults in a copy of values [n]; `noise` is the unit of their sizes."""
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
    """Return means of all values drawn with replacement, a thousand times."""
    drawn: Floats = values[random.integers(0, len(values), (_RESAMPLES, len(values)))].mean(axis=1)
    return drawn
