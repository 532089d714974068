"""Accuracy of alarms: counts against labels, and the rates that follow.

No count is point-adjusted: a reading counts as found only where it was flagged itself. An event
counts as caught only by an anomalous reading inside it. An episode is a false alarm when it touches
neither an event nor its recovery, the readings right after it, in which a window still holds some
of the event.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

from insa_anomaly.core.units import DAY, Bools, Floats, Ints

Span = tuple[int, int]  # first and last row


class Alarms(NamedTuple):
    """Flagged readings [n], and the episodes that they form, to be held against the events."""

    flags: Bools
    episodes: Sequence[Span]


@dataclass(frozen=True)
class Events:
    """Events and episodes of a series.

    Delays are microseconds from an event's first reading to its first flagged reading.
    """

    events: int
    delays: tuple[int, ...]
    episodes: int
    false_alarms: int


class Points(NamedTuple):
    """Numbers of readings flagged and labelled, flagged only, labelled only, neither."""

    tp: int
    fp: int
    fn: int
    tn: int


@dataclass(frozen=True)
class ConfusionCounts:
    """Counts of a series.

    `told` counts by the episodes that an operator sees, `flagged` by all anomalous readings.
    """

    points: Points
    told: Events
    flagged: Events
    normal_days: float
    auc_pr: float | None


class EventFigures(msgspec.Struct, frozen=True):
    """Rates of events and episodes; None where counts are missing."""

    events: int
    caught: int
    recall: float | None
    precision: float | None
    median_delay_s: float | None
    episodes: int
    false_alarms: int
    false_alarms_per_day: float | None


class AccuracyRates(msgspec.Struct, frozen=True):
    """Rates of a series or of several together; None where counts are missing.

    `fpr` is SKAB's FAR. Counts of several series are added before a rate is taken, but `auc_pr` is
    the mean of the series' areas.
    """

    normal_days: float
    fpr: float | None
    tpr: float | None
    precision: float | None
    f1: float | None
    balanced_accuracy: float | None
    auc_pr: float | None
    told: EventFigures
    flagged: EventFigures


def count(
    times: Ints, scores: Floats, truth: Bools, told: Alarms, *, gap: int, recovery: int
) -> ConfusionCounts:
    """Count scores [n] (below 0: anomalous) against the truth [n]; `gap`, `recovery`: readings."""
    flags = scores < 0
    covered = _covered(truth, recovery)
    pause = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    flagged = Alarms(flags, runs(flags, gap))
    crossed = flags & truth, flags & ~truth, ~flags & truth, ~flags & ~truth
    return ConfusionCounts(
        Points(*(int(rows.sum()) for rows in crossed)),
        _events(times, truth, told, covered),
        _events(times, truth, flagged, covered),
        pause * int((~covered).sum()) / DAY,
        average_precision(truth, -scores) if 0 < truth.sum() < len(truth) else None,
    )


def figures(counts: Sequence[ConfusionCounts]) -> AccuracyRates:
    """Return the rates of these series together."""
    tp, fp, fn, tn = map(sum, zip(*(one.points for one in counts), strict=True))
    tpr, fpr = _ratio(tp, tp + fn), _ratio(fp, fp + tn)
    days = sum(one.normal_days for one in counts)
    areas = [one.auc_pr for one in counts if one.auc_pr is not None]
    return AccuracyRates(
        normal_days=days,
        fpr=fpr,
        tpr=tpr,
        precision=_ratio(tp, tp + fp),
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        balanced_accuracy=None if tpr is None or fpr is None else (tpr + 1 - fpr) / 2,
        auc_pr=float(np.mean(areas)) if areas else None,
        told=_event_figures([one.told for one in counts], days),
        flagged=_event_figures([one.flagged for one in counts], days),
    )


def average_precision(truth: Bools, strangeness: Floats) -> float:
    """Return the area under the precision-recall curve: mean precision over steps of recall.

    Readings of equal strangeness come together. `truth` [n] must hold a labelled reading.
    """
    order = np.argsort(-strangeness, kind="stable")
    last_of_tie = np.append(np.diff(strangeness[order]) != 0, True)
    hits = np.cumsum(truth[order])[last_of_tie]
    precision = hits / (np.flatnonzero(last_of_tie) + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])


def runs(flags: Bools, gap: int = 0) -> list[Span]:
    """Return the first and last row of every run of flags [n].

    Runs with fewer than `gap` rows between them are joined.
    """
    at = np.flatnonzero(flags)
    if not len(at):
        return []
    breaks = np.flatnonzero(np.diff(at) > max(gap, 1))
    firsts, lasts = at[np.append(0, breaks + 1)], at[np.append(breaks, len(at) - 1)]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def _covered(truth: Bools, recovery: int) -> Bools:
    covered = truth.copy()
    for _, last in runs(truth):
        covered[last : last + 1 + recovery] = True
    return covered


def _events(times: Ints, truth: Bools, alarms: Alarms, covered: Bools) -> Events:
    events, delays = runs(truth), []
    for first, last in events:
        hits = np.flatnonzero(alarms.flags[first : last + 1])
        if len(hits):
            delays.append(int(times[first + hits[0]] - times[first]))
    false = sum(not covered[first : last + 1].any() for first, last in alarms.episodes)
    return Events(len(events), tuple(delays), len(alarms.episodes), false)


def _event_figures(several: Sequence[Events], days: float) -> EventFigures:
    counts = ((one.events, one.episodes, one.false_alarms) for one in several)
    events, episodes, false = map(sum, zip(*counts, strict=True))
    delays = [delay for one in several for delay in one.delays]
    return EventFigures(
        events=events,
        caught=len(delays),
        recall=_ratio(len(delays), events),
        precision=_ratio(episodes - false, episodes),
        median_delay_s=float(np.median(delays)) / 1e6 if delays else None,
        episodes=episodes,
        false_alarms=false,
        false_alarms_per_day=_ratio(false, days),
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
