"""Results that the readings of a series and the rows of a device have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.scoring import episodes
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.units import Bools, Floats, Ints

_SCORED = int(Status.SCORED)  # numpy compares a plain integer without converting an enum


@dataclass(frozen=True)
class ScoringResults:
    """Results of n readings, in their order: score 0, expected and band NaN if not scored."""

    status: npt.NDArray[np.uint8]  # status.Status
    score: Floats  # in [-1, 1], below 0 = anomalous
    confidence: Floats  # |score|
    raw_score: Floats  # the forest's decision_function
    expected: Floats  # [n], of a device [n, d], as the band
    lower: Floats
    upper: Floats
    transition: npt.NDArray[np.uint8]  # episodes.Transition
    refit_due: Bools
    episode_started: Ints  # microseconds; the episode the reading belongs to or closes
    episode_readings: Ints  # 0: no episode
    episode_peak: Floats

    @property
    def scored(self) -> Bools:
        """Whether each reading moved a full window, and was scored [n]."""
        scored: Bools = self.status == _SCORED
        return scored

    def judge(
        self,
        at: Ints | slice,
        before: Floats,
        which: Ints,
        times: Floats,
        *,
        thresholds: Floats,
        policy: Policy,
    ) -> Floats:
        """Judge the readings `at` by their scores; return the episodes `before` [s, 5] after them.

        The other arguments are those of `episodes.judge`.
        """
        after, verdicts = episodes.judge(
            before, which, times, self.score[at], thresholds=thresholds, policy=policy
        )
        self.transition[at] = verdicts.transitions
        self.episode_started[at] = verdicts.started
        self.episode_readings[at] = verdicts.readings
        self.episode_peak[at] = verdicts.peaks
        return after


def blank(status: Status, *shape: int) -> dict[str, npt.NDArray[Any]]:
    """Return the fields of readings [n], or of rows [n, d], without a score and an episode."""
    n = shape[0]
    numbers = {name: np.zeros(n) for name in ("score", "confidence", "raw_score")}
    expectation = {name: np.full(shape, np.nan) for name in ("expected", "lower", "upper")}
    return {"status": np.full(n, status, np.uint8)} | numbers | expectation | no_episodes(n)


def no_episodes(n: int) -> dict[str, npt.NDArray[Any]]:
    """Return the fields of n readings without a verdict."""
    return {
        "transition": np.zeros(n, np.uint8),
        "refit_due": np.zeros(n, np.bool_),
        "episode_started": np.zeros(n, np.int64),
        "episode_readings": np.zeros(n, np.int64),
        "episode_peak": np.zeros(n),
    }
