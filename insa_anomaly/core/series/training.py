"""Learn a series: features, forest, calibration, threshold, expected value and band.

Held-out values come from a contiguous cross-fit: the history is cut into four blocks in time, each
is scored by a model of the other three, and the tables calibrated on those scores are used with the
model of all four. The module needs scikit-learn.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Generic

import numpy as np
from sklearn.preprocessing import StandardScaler

from insa_anomaly.core import units
from insa_anomaly.core.layout import LearntRows
from insa_anomaly.core.learning.isolation import compiled, grow_passing
from insa_anomaly.core.learning.learner import Learner
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.learning.robust import covered_days, robust_scale, typical_pause
from insa_anomaly.core.learning.trained_model import Fit, Grow, Grown, Past, TrainedModel, figures
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring import calibration, daily, episodes, maturity
from insa_anomaly.core.scoring.forest import Forest
from insa_anomaly.core.series import charts, detector, features, rules
from insa_anomaly.core.series.detector import Model, ModelTable, SeriesBatch, advance
from insa_anomaly.core.units import Bools, Floats, Ints, joined
from insa_anomaly.errors import NotEnoughData, TrainingError

FEWEST_READINGS = 100
_FEWEST_WINDOWS = 32
_BLOCKS = 4
_CHUNK = 4096  # readings pushed at once
# Where repetitions hardly ever exceed the free ones, another shall not weigh like a stuck sensor:
# 1, 10 or 60 beyond are at most 1.4, 4.8 or 8.2 spreads.
_LEAST_SPREADS = np.array([0.5 if name == "flat_run" else 0.0 for name in features.NAMES])
_RARELY = 0.05
_PENALTY = 1.0  # of the ridge regression, on standardised values
Trained = TrainedModel[Model]


@dataclass(frozen=True)
class _ReadingHistory:
    """Readings in time order; those in quarantine alarmed and shall not be learnt."""

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
    begins: Bools  # [n] the window before was not full

    def __getitem__(self, rows: Bools) -> "_Windows":
        return _Windows(self.values[rows], self.stamps[rows], self.flats[rows], self.begins[rows])

    def __len__(self) -> int:
        return len(self.flats)

    def look(self, learnt: LearntRows) -> features.WindowView:
        """Return the windows as a model sees them; `learnt` [n, features.LEARNT.width]."""
        return features.look(self.values, self.stamps, self.flats, learnt)


@dataclass(frozen=True)
class _Fitted(Generic[Grown]):
    """Result of one fit."""

    learnt: LearntRows  # [features.LEARNT.width]
    charts: LearntRows  # [charts.LEARNT.width]
    forest: Grown
    scaler: StandardScaler
    scaled: units.Features  # [n, features.WIDTH] the rows on which the forest was grown


@dataclass(frozen=True, kw_only=True)
class SeriesLearner(Learner[Model]):
    """Way to learn a series."""

    key: SeriesKey

    def usable(self, times: Ints, values: Floats) -> tuple[Ints, Floats]:
        """Return the readings that a model is learnt from, alarmed ones included, in time order."""
        recent = _recent(_ordered(times, values), self.parameters)
        return recent.times.astype(np.int64), recent.values

    def scores(self, model: Model, times: Ints, values: Floats) -> Floats:
        """Score a stream [n] from an empty window on; 1 for a reading that cannot be scored."""
        models = ModelTable(1, len(model.forest.thresholds))
        models.put(0, model)
        first = np.zeros(len(times), np.int64)
        batch = SeriesBatch(
            series=first,
            models=first,
            values=values,
            times=times,
            discriminators=np.arange(len(times)),
            qualities=first,
        )
        state = features.empty(1)
        _, results = advance(state, batch, models, episodes.Policy(), self.parameters)
        return np.where(results.scored, results.score, 1.0)

    def fitted(
        self, times: Ints, values: Floats, past: Past[Model] | None, grow: Grow[Grown]
    ) -> Fit[Model, Grown]:
        """Learn as `fit` does, with the forests that `grow` makes."""
        parameters, policy = self.parameters, self.policy
        given = _ordered(times, values)
        recent = _recent(given, parameters)
        interval_us = typical_pause(recent.times)
        days = covered_days(recent.times, parameters.gap_factor * interval_us)
        per_day = len(recent) / days
        step = parameters.refit_step(per_day)
        before, anomalous = (past.model.life, past.anomalous) if past else (None, times[:0])
        alarmed, released = maturity.quarantined(before, recent.times, anomalous, step)
        history = replace(recent, quarantined=_with_lead(recent.values, alarmed))
        now = maturity.grown(before, given.times, interval_us, parameters)
        gap_us, windows = _windows(history, interval_us, parameters)
        fitted = _learn(windows, interval_us, parameters, grow)
        forest = compiled(fitted.forest, fitted.scaled)
        held_out = _cross_fit(windows, interval_us, parameters)
        learnt = LearntRows(np.empty(detector.LEARNT.width))
        learnt[detector.FEATURES] = fitted.learnt
        learnt[detector.CHARTS] = fitted.charts
        learnt[detector.RULES] = _rules(given, windows, past)
        learnt[detector.OFFSET] = forest.offset
        learnt[detector.ALPHA] = parameters.alpha
        learnt[detector.GAP_US] = gap_us
        learnt[detector.INTERVAL_US] = interval_us
        learnt[detector.REFIT_STEP] = step
        learnt[detector.BAND] = np.quantile(held_out.errors, 1 - parameters.alpha)
        learnt[detector.MATURE] = now.mature
        learnt[detector.KNOWN] = now.known
        learnt[detector.RELEASED] = released
        scores = _calibrate(learnt, held_out)
        highest = policy.highest_threshold * _most_confident(learnt, forest)
        threshold = episodes.threshold_for(scores, len(scores) / per_day, policy)
        learnt[detector.THRESHOLD] = min(threshold, highest)
        model = Model(
            **self.key._asdict(), id=self.id, version=self.version, forest=forest, learnt=learnt
        )
        own = {
            "readings_given": len(times),
            "readings_used": len(history),
            "readings_quarantined": int(history.quarantined.sum()),
            "readings_ever": int(now.known),
            "daily_profile_bins": int(learnt[features.DAILY][daily.BINS]),
        }
        return Fit(
            model=model,
            forest=fitted.forest,
            scaler=fitted.scaler,
            samples=len(history),
            figures=own | figures(model, history.times, scores),
        )


def _ordered(times: Ints, values: Floats) -> _ReadingHistory:
    """Return the finite readings in time order without repetitions."""
    if len(times) != len(values):
        raise TrainingError(f"{len(times)} timestamps for {len(values)} values")
    finite = np.isfinite(values)
    if len(values) and not finite.any():
        raise TrainingError(f"none of the {len(values)} values is a finite number")
    when, what = times[finite].astype(np.float64), values[finite].astype(np.float64)
    ties = (np.diff(when) == 0).any()
    order = np.lexsort((what, when)) if ties else np.argsort(when, kind="stable")
    when, what = when[order], what[order]
    fresh = np.ones(len(when), np.bool_)
    fresh[1:] = (when[1:] != when[:-1]) | (what[1:] != what[:-1])
    when, what = when[fresh], what[fresh]
    if len(when) < FEWEST_READINGS:
        found = f"{len(when)} different readings with finite values"
        raise NotEnoughData(f"{found}; at least {FEWEST_READINGS} are needed")
    return _ReadingHistory(when, what, np.zeros(len(when), np.bool_))


def _recent(given: _ReadingHistory, parameters: Parameters) -> _ReadingHistory:
    """Return the newest readings, from which a model is learnt."""
    return given[-parameters.newest(given.times) :]


# ------------------------------------------------------------------------------ data to learn
def _with_lead(values: Floats, alarmed: Bools) -> Bools:
    """Return the readings that alarmed, and the whole of a flat run that alarmed.

    The sensor was as stuck before the run was long enough to tell.
    """
    run = np.cumsum(np.concatenate(([0], values[1:] != values[:-1])))
    long = np.bincount(run) >= units.SHORT
    lead: Bools = np.isin(run, run[alarmed]) & long[run]
    return alarmed | lead


def _rules(given: _ReadingHistory, windows: _Windows, past: Past[Model] | None) -> LearntRows:
    ever = np.array([given.values.min(), given.values.max(), given.times[0], given.times[-1]])
    if past is not None:
        before = past.model.learnt[detector.RULES][rules.EVER]
        lower, higher = np.minimum(ever, before), np.maximum(ever, before)
        ever = np.array([lower[0], higher[1], lower[2], higher[3]])
    return rules.learn(windows.values[:, -1], windows.flats, ever)


def _windows(
    history: _ReadingHistory, interval_us: float, parameters: Parameters
) -> tuple[float, _Windows]:
    """Return the pause that restarts a window, unless it would void most, and the full windows."""
    gap_us = parameters.gap_factor * interval_us
    windows = _unroll(history, gap_us)
    if len(windows) < (int((~history.quarantined).sum()) - units.LONG + 1) / 2:
        gap_us = float("inf")
        windows = _unroll(history, gap_us)
    if len(windows) < _FEWEST_WINDOWS:
        needed = f"{units.LONG + _FEWEST_WINDOWS} readings without a long pause"
        few = f"{len(windows)} full windows; at least {_FEWEST_WINDOWS} are needed"
        raise NotEnoughData(f"{few}: {needed}")
    return gap_us, windows


def _unroll(history: _ReadingHistory, gap_us: float) -> _Windows:
    """Return the full windows of the learnt readings, by the `push` that moves the stream's.

    Readings in quarantine leave no pause.
    """
    state, parts, learnt = features.empty(1), [], history[~history.quarantined]
    gaps_us, number = np.full(len(learnt), gap_us), np.arange(len(learnt))
    gaps_us[1:][history.quarantined[:-1][~history.quarantined[1:]]] = np.inf
    full_before = np.False_
    for begin in range(0, len(learnt), _CHUNK):
        at = slice(begin, begin + _CHUNK)
        part, gaps = learnt[at], gaps_us[at]
        first, own = np.zeros(len(part), np.int64), number[at]
        pushed = features.push(
            state, first, part.values, part.times, discriminators=own, gaps_us=gaps
        )
        state, full = pushed.states, pushed.counts >= units.LONG
        begins = full & ~np.concatenate(([full_before], full[:-1]))
        full_before = full[-1]
        parts.append(_Windows(pushed.windows, pushed.stamps, pushed.flats, begins)[full])
    return _Windows(*joined(parts))


# ------------------------------------------------------------------------------------ one fit
def _learn(
    windows: _Windows, interval_us: float, parameters: Parameters, grow: Grow[Grown]
) -> _Fitted[Grown]:
    learnt = LearntRows(np.zeros(features.LEARNT.width))
    values, when = windows.values[:, -1], windows.stamps[:, -1]
    learnt[features.CENTER], learnt[features.SCALE] = center, scale = robust_scale(values)
    learnt[features.DAILY] = daily.learn((values - center) / scale, when, interval_us)
    # The flat run of a constant is no information: after an hour or a week, it looks the same.
    constant = windows.flats.min() >= units.LONG - 1
    learnt[features.FLAT_MOST] = units.LONG - 1 if constant else units.FLAT_CAP
    learnt[features.FLAT_FREE] = _free_run(windows.flats)
    everywhere = _repeated(learnt, len(windows))
    look = windows.look(everywhere)
    raw = features.unscaled(look, everywhere)
    scaler = StandardScaler().fit(raw)
    scaler.scale_ = np.maximum(scaler.scale_, _LEAST_SPREADS)
    learnt[features.MEANS], learnt[features.SPREADS] = scaler.mean_, scaler.scale_
    scaled = features.scaled(raw, everywhere)
    return _Fitted(learnt, _charts(look, raw), grow(scaled, parameters), scaler, scaled)


def _repeated(learnt: LearntRows, n: int) -> LearntRows:
    """Return a view of a learnt row as the row of each of n windows."""
    return LearntRows(np.broadcast_to(learnt, (n, len(learnt))))


def _free_run(flats: Floats) -> float:
    """Return the repetitions in a row that are ordinary: all usual ones if repeating is rare."""
    return rules.usual_run(flats) if (flats > 0).mean() < _RARELY else 0.0


def _charts(look: features.WindowView, raw: Floats) -> LearntRows:
    """Fit the forecast by ridge regression, and the robust scales of its errors and the features.

    The regression is fitted on the values within the cap.
    """
    out = np.zeros(charts.LEARNT.width)
    z = charts.recent(look, charts.FIT_CAP)
    known = charts.predictors(z)
    out[charts.WEIGHTS] = weights = np.linalg.solve(
        known.T @ known + _PENALTY * np.eye(known.shape[1]), known.T @ z[:, -1]
    )
    out[charts.ERROR_CENTER], out[charts.ERROR_SCALE] = robust_scale(z[:, -1] - known @ weights)
    scales = [robust_scale(column) for column in np.ascontiguousarray(raw.T)]
    out[charts.CENTERS], out[charts.SCALES] = np.array(scales).T
    out[charts.SCALES] = np.maximum(out[charts.SCALES], _LEAST_SPREADS)
    return LearntRows(out)


# -------------------------------------------------------------------------------- calibration
@dataclass(frozen=True)
class _HeldOutWindows:
    """Windows [n] in time order, seen by models that had not learnt them, for calibration."""

    values: Floats  # [n] the newest of each
    members: Floats  # [n, len(detector.MEMBERS)] strangeness
    errors: Floats  # [n] distance from the expected value

    def __len__(self) -> int:
        return len(self.values)


def _cross_fit(windows: _Windows, interval_us: float, parameters: Parameters) -> _HeldOutWindows:
    edges = np.linspace(0, len(windows), _BLOCKS + 1).astype(int)
    at = np.arange(len(windows))
    blocks = [(at >= begin) & (at < end) for begin, end in pairwise(edges)]
    parts = [_held_out(windows, block, interval_us, parameters) for block in blocks]
    return _HeldOutWindows(*joined(parts))


def _held_out(
    windows: _Windows, block: Bools, interval_us: float, parameters: Parameters
) -> _HeldOutWindows:
    fitted, unseen = _learn(windows[~block], interval_us, parameters, grow_passing), windows[block]
    learnt, charted = _repeated(fitted.learnt, len(unseen)), _repeated(fitted.charts, len(unseen))
    look = unseen.look(learnt)
    raw = features.unscaled(look, learnt)
    errors = charts.forecast_error(look, charted)
    forest = -fitted.forest.score_samples(features.scaled(raw, learnt))
    smoothed = _smoothed(errors, unseen.begins)
    members = np.stack((forest, errors, smoothed, charts.window_z(raw, charted)), axis=1)
    values = unseen.values[:, -1]
    return _HeldOutWindows(values, members, np.abs(values - features.expected(look, learnt)))


def _smoothed(errors: Floats, begins: Bools) -> Floats:
    """Smooth errors [n] as the stream does: each beginning is a row of its own."""
    which = np.cumsum(begins, dtype=np.int64)
    before = np.full(int(which[-1]) + 1, charts.NONE)
    return charts.smoothed(before, which, errors, np.ones(len(errors), np.bool_))[0]


def _most_confident(learnt: LearntRows, forest: Forest) -> float:
    """Return the confidence of the strangest possible reading, at most 1.

    A forest is flat far out, charts are not: the confidence of a mature model is 1.
    """
    if learnt[detector.MATURE]:
        return 1.0
    ends = np.array([[-features.SCALED_CAP], [features.SCALED_CAP]], np.float32)
    farthest = np.repeat(ends, features.WIDTH, axis=1)
    everywhere = _repeated(learnt, len(farthest))
    own = everywhere[:, detector.LEARNT.part("members.forest")]
    alone = calibration.surprise(-forest.score_samples(farthest), own)
    together = calibration.surprise(alone, everywhere[:, detector.TOGETHER])
    scores = calibration.score(together, everywhere[:, detector.ALPHA])
    return float(np.maximum(-scores, 0.0).max())


def _calibrate(learnt: LearntRows, held_out: _HeldOutWindows) -> Floats:
    """Write the tables into `learnt`; return the scores of the held-out readings."""
    members = np.ascontiguousarray(held_out.members.T)
    learnt[detector.TABLES] = np.concatenate([calibration.table(values) for values in members])
    everywhere = _repeated(learnt, len(held_out))
    together = detector.member_surprises(held_out.members, everywhere).max(axis=1)
    learnt[detector.TOGETHER] = calibration.table(together)
    surprises = calibration.surprise(together, everywhere[:, detector.TOGETHER])
    unbroken = np.zeros(len(held_out), np.uint8)
    ruled = detector.ruled(surprises, unbroken, held_out.values, everywhere)
    return calibration.score(ruled, everywhere[:, detector.ALPHA])
