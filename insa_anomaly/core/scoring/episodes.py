"""Single readings become episodes that a person can handle.

An episode opens at an anomalous reading whose confidence reaches the model's threshold, holds while
anomalous readings keep coming, worsens only when it grows clearly stronger, and closes after a
number of ordinary readings in a row, at the event time of the last of them. Only a reading closes
it: neither a refit nor a restart does.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from annotated_types import Gt, Le

from insa_anomaly.core.bounds import Count, Positive, Share, check
from insa_anomaly.core.layout import Layout
from insa_anomaly.core.scoring.calibration import DECADES
from insa_anomaly.core.units import Bools, Floats, Ints

_JUST_ABOVE = 1e-3


class Transition(IntEnum):
    """Effect of a reading on the episode of its series."""

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
    """The episode of one series, or `QUIET`: columns of its state row."""

    started: float  # event time of the reading that opened it, microseconds
    readings: float  # anomalous readings in it
    peak: float  # strongest confidence
    told: float  # confidence last reported
    quiet: float  # ordinary readings since the last anomalous one


QUIET = EpisodeState(0.0, 0.0, 0.0, 0.0, 0.0)
STATE = Layout(dict.fromkeys(EpisodeState._fields, 1))
_READINGS = STATE.column("readings")


@dataclass(frozen=True)
class Verdicts:
    """Effect of each reading [n], and the episode it belongs to or closes; 0 readings: none."""

    transitions: npt.NDArray[np.uint8]
    started: Ints
    readings: Ints
    peaks: Floats


def step(
    before: EpisodeState, time: float, score: float, threshold: float, policy: Policy
) -> tuple[Transition, EpisodeState]:
    """Return the effect of a reading, and the episode after it."""
    confidence = -score
    if before.readings == 0:
        if score < 0 and confidence >= threshold:
            return Transition.OPENED, EpisodeState(time, 1.0, confidence, confidence, 0.0)
        return Transition.NONE, QUIET
    if score >= 0:
        after = before._replace(quiet=before.quiet + 1)
        closed = after.quiet >= policy.merge_gap_readings
        return (Transition.CLOSED if closed else Transition.NONE), after
    worse = confidence >= before.told + policy.worsen_step
    peak, told = max(before.peak, confidence), confidence if worse else before.told
    after = EpisodeState(before.started, before.readings + 1, peak, told, 0.0)
    return (Transition.WORSENED if worse else Transition.NONE), after


def judge(
    episodes: Floats,
    which: Ints,
    times: Floats,
    scores: Floats,
    *,
    thresholds: Floats,
    policy: Policy,
) -> tuple[Floats, Verdicts]:
    """Return the episodes [s, 5] after n readings, and the verdict on each reading.

    `which` [n] is non-decreasing, and the readings of a row are in order. Rows without an open
    episode and without an anomalous reading take no work: in a healthy plant nearly all of them.
    """
    after = episodes.copy()
    n = len(which)
    transitions, peaks = np.zeros(n, np.uint8), np.zeros(n)
    started, readings = np.zeros(n, np.int64), np.zeros(n, np.int64)
    at = _of_interest(episodes, which, scores)
    columns = (column[at].tolist() for column in (which, times, scores, thresholds))
    state, row = QUIET, -1
    for i, r, time, score, threshold in zip(at.tolist(), *columns, strict=True):
        if r != row:
            state, row = EpisodeState(*after[r].tolist()), r
        transition, state = step(state, time, score, threshold, policy)
        if state.readings:
            transitions[i], started[i] = transition, int(state.started)
            readings[i], peaks[i] = int(state.readings), state.peak
        if transition is Transition.CLOSED:
            state = QUIET
        after[r] = state
    return after, Verdicts(transitions, started, readings, peaks)


def _of_interest(episodes: Floats, which: Ints, scores: Floats) -> Ints:
    """Return the readings of rows with an open episode or an anomalous reading."""
    rows: Bools = episodes[:, _READINGS] > 0
    rows[which[scores < 0]] = True
    return np.flatnonzero(rows[which])


def threshold_for(scores: Floats, days: float, policy: Policy) -> float:
    """Return the least threshold that opens at most `policy.false_alarms_per_day` episodes.

    `scores` [n] are held-out scores of ordinary readings in time order over `days`. A run of
    anomalous readings opens an episode if its peak reaches the threshold, so the peaks tell how
    many would open. Where the history is too short to hold the accepted rate, the threshold lies
    above the last peak that is too many, by as much as a calibrated score rises for the rarer rate.
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


def peaks(scores: Floats, gap_readings: int) -> Floats:
    """Return the strongest confidence of every run of anomalous readings.

    Runs fewer than `gap_readings` ordinary readings apart count as a single run.
    """
    at = np.flatnonzero(scores < 0)
    if not len(at):
        return np.zeros(0)
    starts = np.concatenate(([0], np.flatnonzero(np.diff(at) > gap_readings) + 1))
    return np.asarray(np.maximum.reduceat(-scores[at], starts), np.float64)
