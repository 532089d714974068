"""Learn a series: features, forest, calibration, threshold, expected value and band. Needs scikit-learn.

Held-out values come from a contiguous cross-fit: the history is cut into four blocks in time, each is scored by a model of the
other three, and what is calibrated on them is used with the model of all four.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Generic

import numpy as np
import sklearn
from sklearn.preprocessing import StandardScaler

from insa_anomaly.core import units
from insa_anomaly.core.learning.isolation import compiled, grow, grow_passing
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.learning.robust import robust_scale, typical_pause
from insa_anomaly.core.learning.trained_model import Figures, Grow, Grown, Past, TrainedModel
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring import calibration, daily, episodes, maturity
from insa_anomaly.core.scoring.forest import Forest
from insa_anomaly.core.series import charts, detector, features, rules
from insa_anomaly.core.series.detector import Model, ModelTable, advance
from insa_anomaly.core.units import DAY, Bools, Floats, Ints
from insa_anomaly.errors import NotEnoughData, TrainingError

FEWEST_READINGS = 100
_FEWEST_WINDOWS = 32
_BLOCKS = 4
_CHUNK = 4096  # readings pushed at once
_CONTEXT = units.FLAT_CAP + units.LONG  # readings before those that are new, which fill the window
# Where repetitions hardly ever exceed what is free, one more shall not weigh like a sensor that is stuck: 1, 10 or 60 beyond are
# at most 1.4, 4.8 or 8.2 spreads.
_LEAST_SPREADS = np.array([0.5 if name == "flat_run" else 0.0 for name in features.NAMES])
_RARELY = 0.05
_PENALTY = 1.0  # of the ridge regression, on standardised values
Trained = TrainedModel[Model]


@dataclass(frozen=True)
class _ReadingHistory:
    """Readings in time order, and which of them alarmed and shall not be learnt."""

    times: Floats  # [n]
    values: Floats  # [n]
    quarantined: Bools  # [n]

    def __getitem__(self, rows: slice | Bools) -> "_ReadingHistory":
        return _ReadingHistory(self.times[rows], self.values[rows], self.quarantined[rows])

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class _Windows:
    """The full windows of a history, in time order."""

    values: Floats  # [n, LONG]
    stamps: Floats  # [n, SHORT + 1]
    flats: Floats  # [n]
    begins: Bools  # [n] the one before was not full

    def __getitem__(self, rows: Bools) -> "_Windows":
        return _Windows(self.values[rows], self.stamps[rows], self.flats[rows], self.begins[rows])

    def __len__(self) -> int:
        return len(self.flats)

    def look(self, numbers: Floats) -> features.WindowView:
        """As a model sees them; `numbers` [n, features.NUMBERS_WIDTH]."""
        return features.look(self.values, self.stamps, self.flats, numbers)


@dataclass(frozen=True)
class _Fitted(Generic[Grown]):
    """What one fit learnt."""

    numbers: Floats  # [features.NUMBERS_WIDTH]
    charts: Floats  # [charts.NUMBERS_WIDTH]
    forest: Grown
    scaler: StandardScaler
    scaled: units.Features  # [n, features.WIDTH] what the forest was grown on


@dataclass(frozen=True)
class _SeriesFit(Generic[Grown]):
    """A model, and what it was made from."""

    model: Model
    fitted: _Fitted[Grown]
    history: _ReadingHistory
    scores: Floats  # of the held-out readings


def fit(
    times: Ints,
    values: Floats,
    key: SeriesKey,
    model_id: str,
    version: int,
    parameters: Parameters,
    policy: episodes.Policy,
    past: Past[Model] | None = None,
) -> Trained:
    """Learn from readings: times [n] in microseconds since the epoch, values [n]; any order, what is not finite is left out.

    With a `past`, this is a refit: what alarmed in mature age is not learnt, unless it has become the rule. Without, all is learnt.
    Raises NotEnoughData below 100 readings or 32 full windows, TrainingError for data nothing can be learnt from.
    """
    learnt = _learnt(
        SeriesLearner(key, model_id, version, parameters, policy), times, values, past, grow
    )
    made_with = {"scikit-learn": sklearn.__version__, "numpy": np.__version__}
    figures = _figures(times, learnt.history, learnt.scores, learnt.model.numbers)
    return Trained(
        learnt.model,
        learnt.fitted.forest,
        learnt.fitted.scaler,
        parameters,
        len(learnt.history),
        figures,
        made_with,
    )


def _learnt(
    learner: "SeriesLearner",
    times: Ints,
    values: Floats,
    past: Past[Model] | None,
    grow: Grow[Grown],
) -> _SeriesFit[Grown]:
    parameters, policy = learner.parameters, learner.policy
    given = _ordered(times, values)
    recent = _recent(given, parameters)
    interval = typical_pause(recent.times)
    days = _covered(recent.times, parameters.gap_factor * interval)
    numbers = np.empty(detector.MODEL_WIDTH)
    numbers[detector.ALPHA], numbers[detector.INTERVAL] = parameters.alpha, interval
    per_day = len(recent) / max(days, 1e-9)
    numbers[detector.REFIT_STEP] = np.clip(
        per_day, parameters.refit_readings_least, parameters.refit_readings_most
    )
    before, anomalous = (past.model.life, past.anomalous) if past else (None, times[:0])
    alarmed, numbers[detector.RELEASED] = maturity.quarantined(
        before, recent.times, anomalous, numbers[detector.REFIT_STEP]
    )
    history = replace(recent, quarantined=_with_lead(recent.values, alarmed))
    now = maturity.grown(before, given.times, interval, parameters)
    numbers[detector.KNOWN], numbers[detector.MATURE] = now.known, now.mature
    numbers[detector.GAP], windows = _windows(history, interval, parameters)
    fitted = _learn(windows, interval, parameters, grow)
    forest = compiled(fitted.forest, fitted.scaled)
    held_out = _cross_fit(windows, interval, parameters)
    numbers[detector.FEATURES], numbers[detector.CHARTS] = fitted.numbers, fitted.charts
    numbers[detector.RULES] = _rules(given, windows, past)
    numbers[detector.OFFSET] = forest.offset
    numbers[detector.BAND] = np.quantile(held_out.errors, 1 - parameters.alpha)
    scores = _calibrate(numbers, held_out)
    highest = policy.highest_threshold * _most_confident(numbers, forest)
    numbers[detector.THRESHOLD] = min(
        episodes.threshold_for(scores, len(scores) / per_day, policy), highest
    )
    return _SeriesFit(
        Model(learner.id, learner.version, *learner.key, forest, numbers), fitted, history, scores
    )


def _figures(times: Ints, history: _ReadingHistory, scores: Floats, numbers: Floats) -> Figures:
    return {
        "readings_given": len(times),
        "readings_used": len(history),
        "readings_quarantined": int(history.quarantined.sum()),
        "readings_ever": int(numbers[detector.KNOWN]),
        "age": "mature" if numbers[detector.MATURE] else "young",
        "span_days": round(float(history.times[-1] - history.times[0]) / DAY, 6),
        "interval_seconds": float(numbers[detector.INTERVAL]) / 1e6,
        "held_out": len(scores),
        "held_out_anomalous": int((scores < 0).sum()),
        "daily_profile_bins": int(numbers[features.DAILY][daily.BINS]),
        "accuracy": None,
        "false_positive_rate": None,
        "true_positive_rate": None,
        "basis": "not assessed: learnt on from the version before it",
    }


def _ordered(times: Ints, values: Floats) -> _ReadingHistory:
    """The finite readings in time order without repetitions."""
    if len(times) != len(values):
        raise TrainingError(f"{len(times)} timestamps for {len(values)} values")
    finite = np.isfinite(values)
    if len(values) and not finite.any():
        raise TrainingError(f"none of the {len(values)} values is a finite number")
    when, what = times[finite].astype(np.float64), values[finite].astype(np.float64)
    order = (
        np.lexsort((what, when)) if (np.diff(when) == 0).any() else np.argsort(when, kind="stable")
    )
    when, what = when[order], what[order]
    fresh = np.ones(len(when), np.bool_)
    fresh[1:] = (when[1:] != when[:-1]) | (what[1:] != what[:-1])
    when, what = when[fresh], what[fresh]
    if len(when) < FEWEST_READINGS:
        raise NotEnoughData(
            f"{len(when)} different readings with finite values; at least {FEWEST_READINGS} are needed"
        )
    return _ReadingHistory(when, what, np.zeros(len(when), np.bool_))


def _recent(given: _ReadingHistory, parameters: Parameters) -> _ReadingHistory:
    """The newest readings, those that a model is learnt from."""
    recent = int((given.times >= given.times[-1] - parameters.history_days * DAY).sum())
    return given[
        -min(max(recent, parameters.history_readings_least), parameters.history_readings_most) :
    ]


def _covered(when: Floats, gap: float) -> float:
    """Days with readings: a long pause counts as long as the longest that is none."""
    return float(np.minimum(np.diff(when), min(gap, DAY)).sum()) / DAY


# ------------------------------------------------------------------------------------------ what is learnt, and when
def _with_lead(values: Floats, alarmed: Bools) -> Bools:
    """What alarmed, and the whole of a flat run in which it did: it was as stuck before it was long enough to tell."""
    run = np.cumsum(np.concatenate(([0], values[1:] != values[:-1])))
    long = np.bincount(run) >= units.SHORT
    lead: Bools = np.isin(run, run[alarmed]) & long[run]
    return alarmed | lead


def _rules(given: _ReadingHistory, windows: _Windows, past: Past[Model] | None) -> Floats:
    ever = np.array([given.values.min(), given.values.max(), given.times[0], given.times[-1]])
    if past is not None:
        low, high, first, last = past.model.numbers[detector.RULES][: rules.THROUGH + 1].tolist()
        ever = np.array(
            [min(ever[0], low), max(ever[1], high), min(ever[2], first), max(ever[3], last)]
        )
    return rules.learn(windows.values[:, -1], windows.flats, ever)


def _windows(
    history: _ReadingHistory, interval: float, parameters: Parameters
) -> tuple[float, _Windows]:
    """The full windows, and the pause that restarts one; a rule that would void most windows is not this series' rule."""
    gap = parameters.gap_factor * interval
    windows = _unroll(history, gap)
    if len(windows) < (int((~history.quarantined).sum()) - units.LONG + 1) / 2:
        gap = float("inf")
        windows = _unroll(history, gap)
    if len(windows) < _FEWEST_WINDOWS:
        needed = units.LONG + _FEWEST_WINDOWS
        raise NotEnoughData(
            f"{len(windows)} full windows; at least {_FEWEST_WINDOWS} are needed: {needed} readings without a long pause"
        )
    return gap, windows


def _unroll(history: _ReadingHistory, gap: float) -> _Windows:
    """The full windows of what is learnt, by the same `push` that moves them in the stream; what is left out leaves no pause."""
    state, parts, learnt = features.empty(1), [], history[~history.quarantined]
    gaps = np.full(len(learnt), gap)
    gaps[1:][history.quarantined[:-1][~history.quarantined[1:]]] = np.inf
    full_before = np.False_
    for begin in range(0, len(learnt), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        n = len(learnt.times[part])
        series, own = np.zeros(n, np.int64), np.arange(begin, begin + n)
        pushed = features.push(
            state, series, learnt.values[part], learnt.times[part], own, gaps[part]
        )
        state, full = pushed.states, pushed.counts >= units.LONG
        begins = full & ~np.concatenate(([full_before], full[:-1]))
        full_before = full[-1]
        parts.append(_Windows(pushed.windows, pushed.stamps, pushed.flats, begins)[full])
    return _Windows(
        *(
            np.concatenate([getattr(p, name) for p in parts])
            for name in _Windows.__dataclass_fields__
        )
    )


# --------------------------------------------------------------------------------------------------- one fit
def _learn(
    windows: _Windows, interval: float, parameters: Parameters, grow: Grow[Grown]
) -> _Fitted[Grown]:
    numbers = np.zeros(features.NUMBERS_WIDTH)
    values, when = windows.values[:, -1], windows.stamps[:, -1]
    numbers[features.CENTER], numbers[features.SCALE] = center, scale = robust_scale(values)
    numbers[features.DAILY] = daily.learn((values - center) / scale, when, interval)
    # A constant says nothing of how long it has been one: whether for an hour or a week, it looks the same.
    numbers[features.FLAT_MOST] = (
        units.FLAT_CAP if windows.flats.min() < units.LONG - 1 else units.LONG - 1
    )
    numbers[features.FLAT_FREE] = _free_run(windows.flats)
    everywhere = np.broadcast_to(numbers, (len(windows), len(numbers)))
    look = windows.look(everywhere)
    raw = features.unscaled(look, everywhere)
    scaler = StandardScaler().fit(raw)
    scaler.scale_ = np.maximum(scaler.scale_, _LEAST_SPREADS)
    numbers[features.MEANS], numbers[features.SPREADS] = scaler.mean_, scaler.scale_
    scaled = features.scaled(raw, everywhere)
    return _Fitted(numbers, _charts(look, raw), grow(scaled, parameters), scaler, scaled)


def _free_run(flats: Floats) -> float:
    """Repetitions in a row that say nothing: all usual ones, where repeating is rare."""
    return rules.usual_run(flats) if (flats > 0).mean() < _RARELY else 0.0


def _charts(look: features.WindowView, raw: Floats) -> Floats:
    """The forecast, fitted by ridge regression on the values within the cap, and the robust scales of its errors and of the features."""
    out = np.zeros(charts.NUMBERS_WIDTH)
    z = charts.recent(look, charts.FIT_CAP)
    known = charts.predictors(z)
    out[charts.WEIGHTS] = weights = np.linalg.solve(
        known.T @ known + _PENALTY * np.eye(known.shape[1]), known.T @ z[:, -1]
    )
    out[charts.ERROR_CENTER], out[charts.ERROR_SCALE] = robust_scale(z[:, -1] - known @ weights)
    scales = [robust_scale(column) for column in np.ascontiguousarray(raw.T)]
    out[charts.CENTERS], out[charts.SCALES] = np.array(scales).T
    out[charts.SCALES] = np.maximum(out[charts.SCALES], _LEAST_SPREADS)
    return out


# ---------------------------------------------------------------------------------------------- calibration
@dataclass(frozen=True)
class _HeldOutWindows:
    """Windows [n] in time order, as models that had not seen them saw them: what the tables are calibrated on."""

    values: Floats  # [n] the newest of each
    members: Floats  # [n, len(detector.MEMBERS)] strangeness
    errors: Floats  # [n] distance from the expected value

    def __len__(self) -> int:
        return len(self.values)


def _cross_fit(windows: _Windows, interval: float, parameters: Parameters) -> _HeldOutWindows:
    edges = np.linspace(0, len(windows), _BLOCKS + 1).astype(int)
    at = np.arange(len(windows))
    parts = [
        _held_out(windows, (at >= begin) & (at < end), interval, parameters)
        for begin, end in pairwise(edges)
    ]
    return _HeldOutWindows(
        *(
            np.concatenate(columns)
            for columns in zip(*((p.values, p.members, p.errors) for p in parts), strict=True)
        )
    )


def _held_out(
    windows: _Windows, block: Bools, interval: float, parameters: Parameters
) -> _HeldOutWindows:
    fitted, unseen = _learn(windows[~block], interval, parameters, grow_passing), windows[block]
    numbers = np.broadcast_to(fitted.numbers, (len(unseen), len(fitted.numbers)))
    own = np.broadcast_to(fitted.charts, (len(unseen), len(fitted.charts)))
    look = unseen.look(numbers)
    raw = features.unscaled(look, numbers)
    errors = charts.forecast_error(look, own)
    forest = -fitted.forest.score_samples(features.scaled(raw, numbers))
    members = np.stack(
        (forest, errors, _smoothed(errors, unseen.begins), charts.window_z(raw, own)), axis=1
    )
    values = unseen.values[:, -1]
    return _HeldOutWindows(values, members, np.abs(values - features.expected(look, numbers)))


def _smoothed(errors: Floats, begins: Bools) -> Floats:
    """As the stream smooths them: each beginning is a row of its own."""
    which = np.cumsum(begins, dtype=np.int64)
    return charts.smoothed(
        np.full(int(which[-1]) + 1, charts.NONE), which, errors, np.ones(len(errors), np.bool_)
    )[0]


def _most_confident(numbers: Floats, forest: Forest) -> float:
    """Confidence at which the strangest reading there can be is called anomalous: a forest is flat far out, charts are not."""
    if numbers[detector.MATURE]:
        return 1.0
    farthest = np.outer(
        [-features.SCALED_CAP, features.SCALED_CAP], np.ones(features.WIDTH)
    ).astype(np.float32)
    everywhere = np.broadcast_to(numbers, (len(farthest), len(numbers)))
    alone = calibration.surprise(-forest.score_samples(farthest), everywhere[:, detector.TABLES[0]])
    together = calibration.surprise(alone, everywhere[:, detector.TABLES[-1]])
    return float(np.maximum(-calibration.score(together, everywhere[:, detector.ALPHA]), 0.0).max())


def _calibrate(numbers: Floats, held_out: _HeldOutWindows) -> Floats:
    """Write the tables into `numbers`; answers the scores of the held-out readings."""
    for place, values in zip(
        detector.TABLES, np.ascontiguousarray(held_out.members.T), strict=False
    ):
        numbers[place] = calibration.table(values)
    everywhere = np.broadcast_to(numbers, (len(held_out), len(numbers)))
    together = detector.member_surprises(held_out.members, everywhere).max(axis=1)
    numbers[detector.TABLES[-1]] = calibration.table(together)
    surprises = calibration.surprise(together, everywhere[:, detector.TABLES[-1]])
    silent = np.zeros(len(held_out), np.uint8)
    return calibration.score(
        detector.ruled(surprises, silent, held_out.values, everywhere),
        everywhere[:, detector.ALPHA],
    )


# ------------------------------------------------------------------------------------------------- for a challenge
@dataclass(frozen=True)
class SeriesLearner:
    """How one series is learnt, for `core.learning.challenge`: what the model is to be called, and by which parameters it is learnt."""

    key: SeriesKey
    id: str
    version: int
    parameters: Parameters
    policy: episodes.Policy

    def fit(
        self, times: Ints, values: Floats, parameters: Parameters, past: Past[Model] | None
    ) -> Trained:
        """As the function `fit`."""
        return fit(times, values, self.key, self.id, self.version, parameters, self.policy, past)

    def twin(
        self, times: Ints, values: Floats, parameters: Parameters, past: Past[Model] | None
    ) -> Model:
        """The model of `fit`, but that nothing of it is to be kept: its `raw_score` has no offset."""
        return _learnt(
            replace(self, parameters=parameters), times, values, past, grow_passing
        ).model

    def usable(self, times: Ints, values: Floats) -> tuple[Ints, Floats]:
        """The readings that a model is learnt from, alarmed ones among them, in time order: times [n], values [n]."""
        recent = _recent(_ordered(times, values), self.parameters)
        return recent.times.astype(np.int64), recent.values

    def scores(self, model: Model, times: Ints, values: Floats) -> Floats:
        """Scores of a stream [n] from an empty window on; 1 where a reading could not be scored."""
        models = ModelTable(1, len(model.forest.thresholds))
        models.put(0, model)
        row, n = np.zeros(len(times), np.int64), np.arange(len(times))
        _, results = advance(
            features.empty(1),
            row,
            models,
            row,
            values,
            times,
            n,
            row,
            episodes.Policy(),
            self.parameters,
        )
        return np.where(results.scored, results.score, 1.0)
