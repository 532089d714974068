"""Scoring alone: the compiled forests of 1000 series against scikit-learn's `decision_function`."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insa_anomaly.core import units
from insa_anomaly.core.layout import StateRows
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series import features
from insa_anomaly.core.series.detector import OFFSET, ModelTable, Results, SeriesBatch, advance
from insa_anomaly.core.series.training import Trained
from tests.benchmarks.figure import Figure
from tests.benchmarks.fleet import for_series
from tests.benchmarks.signals import MINUTE, Stream, keys

# Rounds of each of the two, in turn, so that other work of the machine affects both.
_ROUNDS = 7
_BASELINE_ROWS = 40  # a round: scikit-learn takes milliseconds for each


@dataclass
class Rig:
    """Models of many series in memory, with the features of their newest readings."""

    trained: list[Trained]
    models: ModelTable
    rows: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]
    states: StateRows
    stream: Stream
    now: int

    @classmethod
    def built(cls, trained: list[Trained], now: int, series: int) -> "Rig":
        """Load the models and fill the windows."""
        models = ModelTable(series, Parameters().n_estimators)
        for row, one in enumerate(for_series(trained, keys(series))):
            models.put(row, one.model)
        rows, nothing = np.arange(series), np.zeros((series, features.WIDTH), np.float32)
        rig = cls(
            trained=trained,
            models=models,
            rows=rows,
            features=nothing,
            states=features.empty(series),
            stream=Stream(series),
            now=now,
        )
        for _ in range(units.LONG + 1):
            rig.features = rig.advance().features
        return rig

    def advance(self) -> Results:
        """Advance every series by a reading through the whole detector."""
        self.now += MINUTE
        n = len(self.rows)
        times, nothing = np.full(n, self.now), np.zeros(n, np.int64)
        values = self.stream.round(self.now)
        self.states, results = advance(
            self.states,
            SeriesBatch(
                series=self.rows,
                models=self.rows,
                values=values,
                times=times,
                discriminators=nothing,
                qualities=nothing,
            ),
            self.models,
            Policy(),
            Parameters(),
        )
        return results

    def difference(self, rows: int) -> float:
        """Return the largest difference to scikit-learn over a number of series."""
        ours = self.ours(self.rows[:rows])
        return float(np.abs(ours - np.concatenate([self.theirs(row) for row in range(rows)])).max())

    def ours(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the `decision_function` of each row's own model by the compiled forests."""
        scores: npt.NDArray[np.float64] = (
            self.models.arena.score(rows, self.features[rows]) - self.models.learnt[rows, OFFSET]
        )
        return scores

    def theirs(self, row: int) -> npt.NDArray[np.float64]:
        """Return the `decision_function` of a row by scikit-learn."""
        return np.asarray(
            self.trained[row % len(self.trained)].forest.decision_function(
                self.features[row : row + 1]
            )
        )


def score_one_row(rig: Rig, seconds: float) -> Figure:
    """Measure a call with a row of a single model, a different model each time."""
    one = [rig.rows[i : i + 1] for i in range(len(rig.rows))]
    ours = cycling(lambda i: rig.ours(one[i % len(one)]))
    theirs = cycling(lambda i: rig.theirs(i % len(one)))
    mine, baseline = in_turn(ours, theirs, seconds)
    return Figure.less_is_better("score_one_row", mine * 1e6, "us", baseline * 1e6)


def score_1000_series(rig: Rig, seconds: float) -> Figure:
    """Measure a call with a row of every model; scikit-learn must be called for each."""
    rows = np.random.default_rng(3).permutation(rig.rows)
    ours = cycling(lambda _: rig.ours(rows))
    theirs = cycling(lambda i: rig.theirs(i % len(rows)))
    mine, baseline = in_turn(ours, theirs, seconds)
    return Figure.less_is_better(
        "score_1000_series", mine / len(rows) * 1e6, "us/row", baseline * 1e6
    )


def advance_seconds(rig: Rig, seconds: float) -> float:
    """Return the seconds of a reading through the whole detector, in batches of all series.

    The whole detector is window, features, forest, calibration and verdict.
    """
    return timed(cycling(lambda _: rig.advance()), seconds) / len(rig.rows)


def cycling(call: Callable[[int], object]) -> Callable[[], object]:
    """Wrap a function so that it is called with 0, 1, 2, ..."""
    counter = iter(range(1 << 62))
    return lambda: call(next(counter))


def in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], seconds: float
) -> tuple[float, float]:
    """Return the median seconds of a call of each, measured in turn for about `seconds` in all."""
    share = seconds / (2 * _ROUNDS)
    mine, baseline = [], []
    for _ in range(_ROUNDS):
        mine.append(timed(ours, share))
        baseline.append(timed(theirs, share, most=_BASELINE_ROWS))
    return statistics.median(mine), statistics.median(baseline)


def timed(call: Callable[[], object], seconds: float, most: int = 1_000_000) -> float:
    """Return the seconds of a call, over a number of seconds or calls."""
    calls, began = 0, time.perf_counter()
    while calls == 0 or (calls < most and time.perf_counter() - began < seconds):
        call()
        calls += 1
    return (time.perf_counter() - began) / calls
