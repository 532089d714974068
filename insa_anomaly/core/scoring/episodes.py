"""When to speak: single readings become episodes that a person can handle.

An episode opens at an anomalous reading whose confidence reaches the model's threshold, holds while anomalous readings keep
coming, speaks again only when it grows clearly stronger, and closes after so many ordinary readings in a row, at the event
time of the last of them. Nothing but a reading closes it: neither a refit nor a restart.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from annotated_types import Gt, Le

from insa_anomaly.core.bounds import Count, Positive, Share, check
from insa_anomaly.core.scoring.calibration import DECADES
from insa_anomaly.core.units import Bools, Floats, Ints

_JUST_ABOVE = 1e-3


class Transition(IntEnum):
    """What a reading did to the episode of its series."""

    NONE = 0
    OPENED = 1
    WORSENED = 2
    CLOSED = 3


@dataclass(frozen=True)
class Policy:
    """When an episode opens, worsens and closes."""

    merge_gap_readings: Count = 12  # ordinary readings in a row that close an episode
    # An open episode worsens when its confidence exceeds the last published one by this.
    worsen_step: Annotated[float, Gt(0), Le(1)] = 0.2
    false_alarms_per_day: Positive = 0.14  # accepted per series; sets a new model's threshold
    # Share of the largest confidence a model can have: no threshold is set above it, so that an
    # obvious fault always opens an episode.
    highest_threshold: Share = 0.9

    def __post_init__(self) -> None:
        """Raise ParameterError for a value out of bounds."""
        check(self)


class EpisodeState(NamedTuple):
    """The episode of one series as it stands, or `QUIET`; the columns `features.EPISODE` of its state."""

    started: float  # event time of the reading that opened it, microseconds
    readings: float  # anomalous readings in it
    peak: float  # strongest confidence
    told: float  # confidence last told
    quiet: float  # ordinary readings since the last anomalous one


QUIET = EpisodeState(0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Verdicts:
    """Per reading [n]: what it did, and the episode it belongs to (the one it closed included); 0 readings: none."""

    transitions: npt.NDArray[np.uint8]
    started: Ints
    readings: Ints
    peaks: Floats


def step(
    standing: EpisodeState, time: float, score: float, threshold: float, policy: Policy
) -> tuple[Transition, EpisodeState]:
    """One reading of one series: what it does, and the episode after it."""
    confidence = -score
    if standing.readings == 0:
        if score < 0 and confidence >= threshold:
            return Transition.OPENED, EpisodeState(time, 1.0, confidence, confidence, 0.0)
        return Transition.NONE, QUIET
    if score >= 0:
        started, readings, peak, told, quiet = standing
        closed = quiet + 1 >= policy.merge_gap_readings
        return (Transition.CLOSED if closed else Transition.NONE), EpisodeState(
            started, readings, peak, told, quiet + 1
        )
    worse = confidence >= standing.told + policy.worsen_step
    told, peak = confidence if worse else standing.told, max(standing.peak, confidence)
    held = EpisodeState(standing.started, standing.readings + 1, peak, told, 0.0)
    return (Transition.WORSENED if worse else Transition.NONE), held


def judge(
    episodes: Floats, which: Ints, times: Floats, scores: Floats, thresholds: Floats, policy: Policy
) -> tuple[Floats, Verdicts]:
    """Episodes [s, 5] after n readings, and the verdict on each; `which` [n] is non-decreasing, readings of a row are in order.

    Rows without an open episode and without an anomalous reading take no work: in a healthy plant that is nearly all of them.
    """
    after = episodes.copy()
    n = len(which)
    verdicts = Verdicts(
        np.zeros(n, np.uint8), np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n)
    )
    at = _of_interest(episodes, which, scores)
    standing, row = QUIET, -1
    for i, r, time, score, threshold in zip(
        at.tolist(),
        which[at].tolist(),
        times[at].tolist(),
        scores[at].tolist(),
        thresholds[at].tolist(),
        strict=True,
    ):
        if r != row:
            standing, row = EpisodeState(*after[r].tolist()), r
        transition, standing = step(standing, time, score, threshold, policy)
        if standing.readings:
            verdicts.transitions[i], verdicts.started[i] = transition, int(standing.started)
            verdicts.readings[i], verdicts.peaks[i] = int(standing.readings), standing.peak
        if transition is Transition.CLOSED:
            standing = QUIET
        after[r] = standing
    return after, verdicts


def _of_interest(episodes: Floats, which: Ints, scores: Floats) -> Ints:
    """Readings of the rows where something may happen."""
    rows: Bools = episodes[:, 1] > 0
    rows[which[scores < 0]] = True
    return np.flatnonzero(rows[which])


def threshold_for(scores: Floats, days: float, policy: Policy) -> float:
    """Least threshold at which ordinary readings would open no more than `policy.false_alarms_per_day` episodes.

    `scores` [n] are held-out scores in time order over `days`. A run of anomalous readings opens an episode if its peak reaches the
    threshold, so the peaks say how many would open. Where the history is too short to hold the accepted rate, the threshold lies above
    the last peak that is too many by as much as a calibrated score says is as much rarer.
    """
    if days <= 0:
        return policy.highest_threshold
    strongest = np.sort(peaks(scores, policy.merge_gap_readings))[::-1]
    allowed = int(policy.false_alarms_per_day * days)
    if 0 < allowed >= len(strongest):
        return 0.0
    anchor = float(strongest[allowed]) + _JUST_ABOVE if len(strongest) else 0.0
    rarer = np.log10((allowed + 1) / days / policy.false_alarms_per_day) / DECADES
    return float(np.clip(anchor + max(rarer, 0.0), 0.0, policy.highest_threshold))


def peaks(scores: Floats, gap: int) -> Floats:
    """Strongest confidence of every run of anomalous readings; runs fewer than `gap` ordinary readings apart are one."""
    at = np.flatnonzero(scores < 0)
    if not len(at):
        return np.zeros(0)
    starts = np.concatenate(([0], np.flatnonzero(np.diff(at) > gap) + 1))
    return np.asarray(np.maximum.reduceat(-scores[at], starts), np.float64)
