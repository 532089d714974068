"""Training of a device: scales, forecasts, covariance, forest, calibration, threshold.

The module needs scikit-learn, as `core.series.training` does. Held-out values come from a
contiguous cross-fit in four blocks of time, each seen by a model of the other three. Their
calibration is used with the model of all four.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from insa_anomaly.core import units
from insa_anomaly.core.device import detector, features, window
from insa_anomaly.core.device.detector import CELLS_MOST, DeviceModel
from insa_anomaly.core.device.features import LAGS, MEMBERS, PREDICTORS, WIDTH, Knowledge
from insa_anomaly.core.device.window import Rows
from insa_anomaly.core.learning.isolation import compiled, grow_passing
from insa_anomaly.core.learning.learner import Learner
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.learning.robust import covered_days, robust_scale, typical_pause
from insa_anomaly.core.learning.trained_model import Fit, Grow, Grown, Past, TrainedModel, figures
from insa_anomaly.core.scoring import calibration, daily, episodes
from insa_anomaly.core.scoring.maturity import grown, quarantined
from insa_anomaly.core.units import FLAT_CAP, LONG, Bools, Floats, Ints
from insa_anomaly.errors import NotEnoughData, TrainingError

FEWEST_ROWS = 100
_FEWEST_FULL = 32  # rows with a full window
_LEAST_COVERAGE = 0.5  # share of rows that a metric must have a reading in
_FOLDS = 4
_DRIFT_BLOCKS = 8
_PIECE = 512

# Multiple of the variance between blocks of time: later readings drift further than the history.
_DRIFT = 10.0
_SHRINKAGE = 0.1  # of that covariance, towards its own diagonal
_SHIFTS = 9
_RIDGE = 1.0
_FIT_CAP = 20.0  # further out, a value does not pull harder on a forecast
_EXPLAINED = 0.9  # share of the level's variance along the axes that are kept
_LEAST_SPREADS = np.array([0.5 if name == "flat_run" else 0.0 for name in features.NAMES])
TrainedDevice = TrainedModel[DeviceModel]


@dataclass(frozen=True)
class _RowHistory:
    """Rows of a history in pieces without a long pause, as the stream would push them."""

    pieces: list[Rows]
    interval: float  # typical pause between rows, microseconds
    times: Floats  # [n]
    values: Floats  # [n, d], held where missing
    flats: Floats  # [n, d]
    used: Bools  # [n, d]
    full: Bools  # [n], rows that can be scored

    def __len__(self) -> int:
        return len(self.full)

    def split(self, columns: Floats) -> list[Floats]:
        """Return columns [n, ...] in pieces."""
        return np.split(columns, np.cumsum([len(piece.counts) for piece in self.pieces])[:-1])


class _HeldOutRows(NamedTuple):
    """Values of every row, by a model that has not seen it."""

    summaries: units.Features  # [n, SUMMARIES]
    measures: Floats  # [n, MEMBERS - 1]
    errors: Floats  # [n, d] of the expected value


@dataclass(frozen=True, kw_only=True)
class DeviceLearner(Learner[DeviceModel]):
    """Way to learn a device from rows of its metrics.

    A metric without a reading in a row is not finite there; a metric with readings in fewer than
    half of the rows is left out of the model, which reports it.
    """

    device_id: str
    metrics: tuple[str, ...]  # of the columns of rows

    def fitted(
        self, times: Ints, values: Floats, past: Past[DeviceModel] | None, grow: Grow[Grown]
    ) -> Fit[DeviceModel, Grown]:
        """Learn as `fit` does, with the forests that `grow` makes."""
        parameters = self.parameters
        given, what = _ordered(times, values, len(self.metrics))
        when, what, released = _released(given, what, past)
        kept, left_out = _kept(what, self.metrics)
        when, what = _recent(when, what[:, kept], parameters)
        interval = typical_pause(when)
        gap, history = _history(when, what, interval, parameters)
        held_out = _cross_fit(history)
        grown_from = held_out.summaries[history.full]
        forest = grow(grown_from, parameters)
        samples = _held_out_samples(held_out, history, parameters)
        tables, scores = _calibrate(samples, held_out, history, parameters.alpha)
        per_day = len(when) / covered_days(when, gap)
        life = grown(past.model.life if past else None, given, interval, parameters)
        model = DeviceModel(
            id=self.id,
            version=self.version,
            device_id=self.device_id,
            metrics=tuple(self.metrics[j] for j in kept),
            forest=compiled(forest, grown_from),
            known=_learn(history, history.full),
            tables=tables,
            band=_band(held_out, history, parameters.alpha),
            alpha=parameters.alpha,
            threshold=episodes.threshold_for(scores, len(scores) / per_day, self.policy),
            gap=gap,
            interval=interval,
            refit_step=parameters.refit_step(per_day),
            life=replace(life, released=released),
        )
        own = {
            "rows_given": len(times),
            "rows_used": len(when),
            "rows_ever": int(model.life.known),
            "left_out": "; ".join(left_out) or None,
        }
        found = own | figures(model, when, scores)
        return Fit(model=model, forest=forest, samples=len(when), figures=found)

    def usable(self, times: Ints, values: Floats) -> tuple[Ints, Floats]:
        """Return the rows that a model is learnt from, with those that alarmed, in time order."""
        when, what = _recent(*_ordered(times, values, len(self.metrics)), self.parameters)
        return when.astype(np.int64), what

    def scores(self, model: DeviceModel, times: Ints, values: Floats) -> Floats:
        """Score rows [n, metrics] from an empty window on; 1 for a row without a score.

        Metrics that the model lacks are left out.
        """
        own = np.full((len(times), len(model.metrics)), np.nan)
        for place, metric in enumerate(model.metrics):
            if metric in self.metrics:
                own[:, place] = values[:, self.metrics.index(metric)]
        state, served = window.empty(len(model.metrics)), detector.Served(model)
        _, said = detector.advance(
            state, served, times, own, episodes.Policy(), parameters=self.parameters
        )
        return np.where(said.scored, said.score, 1.0)


# ------------------------------------------------------------------------------------- the history
def _ordered(times: Ints, values: Floats, metrics: int) -> tuple[Floats, Floats]:
    """Return rows in time order that hold a finite value, without repetitions."""
    if values.shape != (len(times), metrics):
        wanted = f"{len(times)} timestamps and {metrics} metrics"
        raise TrainingError(f"values of shape {values.shape} for {wanted}")
    what = np.where(np.isfinite(values), values, np.nan)
    something = np.isfinite(what).any(axis=1)
    if len(times) and not something.any():
        raise TrainingError(f"none of the {values.size} values is a finite number")
    when, what = times[something].astype(np.float64), what[something]
    order = np.argsort(when, kind="stable")
    when, what = when[order], what[order]
    other = (what[1:] != what[:-1]) & ~(np.isnan(what[1:]) & np.isnan(what[:-1]))
    fresh = np.ones(len(when), np.bool_)
    fresh[1:] = (np.diff(when) > 0) | other.any(axis=1)
    return when[fresh], what[fresh]


def _released(
    when: Floats, what: Floats, past: Past[DeviceModel] | None
) -> tuple[Floats, Floats, float]:
    """Return the rows that may be learnt, and the time up to which all are."""
    if past is None or not len(when):
        return when, what, float(when.max(initial=0.0))
    alarmed, released = quarantined(past.model.life, when, past.anomalous, past.model.refit_step)
    return when[~alarmed], what[~alarmed], released


def _kept(values: Floats, metrics: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the columns that a model is made of, and the reasons against the others."""
    coverage = np.isfinite(values).mean(axis=0) if len(values) else np.zeros(len(metrics))
    kept = np.flatnonzero(coverage >= _LEAST_COVERAGE).tolist()
    left_out = [
        f"{metric} has a reading in {share:.0%} of the rows"
        for metric, share in zip(metrics, coverage, strict=True)
        if share < _LEAST_COVERAGE
    ]
    if not kept and len(values):
        few = f"no metric has a reading in {_LEAST_COVERAGE:.0%} of the rows"
        raise TrainingError(f"{few}: they do not report together")
    return kept, left_out


def _recent(when: Floats, what: Floats, parameters: Parameters) -> tuple[Floats, Floats]:
    """Return the newest rows that a model is learnt from."""
    some = np.isfinite(what).any(axis=1)
    when, what = when[some], what[some]
    if len(when) < FEWEST_ROWS:
        found = f"{len(when)} different rows with finite values"
        raise NotEnoughData(f"{found}; at least {FEWEST_ROWS} are needed")
    keep = min(parameters.newest(when), max(CELLS_MOST // what.shape[1], FEWEST_ROWS))
    return when[-keep:], what[-keep:]


def _history(
    when: Floats, what: Floats, interval: float, parameters: Parameters
) -> tuple[float, _RowHistory]:
    """Return the pause that restarts a window, unless it would void most, and the history."""
    gap = parameters.gap_factor * interval
    history = _pushed(when, what, interval, gap)
    if history.full.sum() < (len(when) - LONG + 1) / 2:
        gap, history = float("inf"), _pushed(when, what, interval, np.inf)
    if history.full.sum() < _FEWEST_FULL:
        needed = f"{LONG + _FEWEST_FULL} rows without a long pause"
        few = f"{int(history.full.sum())} full windows; at least {_FEWEST_FULL} are needed"
        raise NotEnoughData(f"{few}: {needed}")
    return gap, history


def _pushed(when: Floats, what: Floats, interval: float, gap: float) -> _RowHistory:
    state, pieces = window.empty(what.shape[1]), []
    edges = np.concatenate(([0], np.flatnonzero(np.diff(when) > gap) + 1, [len(when)])).tolist()
    for first, end in pairwise(edges):
        state[window.COUNT] = 0
        for begin in range(first, end, _PIECE):
            part = slice(begin, min(begin + _PIECE, end))
            state, rows = window.push(state, when[part], what[part])
            pieces.append(rows)
    columns = zip(*((p.values[LONG:], p.flats, p.used, p.counts) for p in pieces), strict=True)
    values, flats, used, counts = map(np.concatenate, columns)
    full = (counts >= LONG) & used.any(axis=1)
    return _RowHistory(pieces, interval, when, values, flats, used=used, full=full)


# ----------------------------------------------------------------------------------------- one fit
def _learn(history: _RowHistory, keep: Bools) -> Knowledge:
    """Learn from the rows `keep` [n] of a history."""
    used = history.used & keep[:, None]
    known = _blank(history, used)
    seen = np.concatenate([_moments(piece, known) for piece in history.pieces])
    known = _with_forecasts(known, seen, used)
    known = _with_features(known, seen, history.flats, used)
    return _with_levels(known, seen, used, keep)


def _moments(piece: Rows, known: Knowledge) -> Floats:
    usual = features.usual_levels(piece.times, known)
    return features.moments(features.standardised(piece.values, usual, known.center, known.scale))


def _blank(history: _RowHistory, used: Bools) -> Knowledge:
    """Return the scales; all other values are blank."""
    d = used.shape[1]
    center, scale = _robust(history.values, used)
    shortest = [history.flats[rows, j].min(initial=FLAT_CAP) for j, rows in enumerate(used.T)]
    flat = used.any(axis=0) & (np.array(shortest) >= LONG - 1)
    one, zero = np.ones(d), np.zeros(d)
    return Knowledge(
        center,
        scale,
        profile=_profiles(history, used, center, scale),
        # A constant looks the same whether it has been constant for an hour or a week.
        flat_most=np.where(flat, LONG - 1.0, FLAT_CAP),
        weights=np.zeros((d, LAGS + 1)),
        cross=np.zeros((d, d)),
        constant=zero,
        residual_center=zero,
        residual_scale=one,
        feature_center=np.zeros((d, WIDTH)),
        feature_scale=np.ones((d, WIDTH)),
        level_center=zero,
        precision=np.eye(d),
        wander=one,
        axes=np.eye(d),
        stiffness=one,
        typical=np.ones(2),
    )


def _profiles(history: _RowHistory, used: Bools, center: Floats, scale: Floats) -> Floats:
    """Return the daily profile of every metric [d, daily.WIDTH]."""
    out = np.zeros((used.shape[1], daily.WIDTH))
    for j, rows in enumerate(used.T):
        z, when = (history.values[rows, j] - center[j]) / scale[j], history.times[rows]
        out[j] = daily.learn(z, when, history.interval)
    return out


def _with_forecasts(known: Knowledge, seen: Floats, used: Bools) -> Knowledge:
    """Add ridge regressions, a metric each, and the scale of their residuals."""
    d = used.shape[1]
    last = np.clip(seen[..., PREDICTORS.start], -_FIT_CAP, _FIT_CAP)
    last *= d > 1  # a metric alone has its own already
    weights = np.stack([_regression(seen[rows, j], last[rows]) for j, rows in enumerate(used.T)])
    own, cross, constant = np.split(weights, [LAGS + 1, LAGS + 1 + d], axis=1)
    known = replace(known, weights=own, cross=cross, constant=constant[:, 0])
    left = seen[..., 0] - features.forecasts(seen, known)
    center, scale = _robust(left, used, _DRIFT)
    return replace(known, residual_center=center, residual_scale=scale)


def _regression(seen: Floats, last: Floats) -> Floats:
    """Return the weights of a metric's predictors, of all metrics' last values, and a constant."""
    near = np.clip(seen, -_FIT_CAP, _FIT_CAP)
    predictors = np.column_stack((near[:, PREDICTORS], last, np.ones(len(near))))
    return _ridge(predictors, near[:, features.NOW])


def _ridge(A: Floats, b: Floats) -> Floats:
    return np.asarray(np.linalg.solve(A.T @ A + _RIDGE * np.eye(A.shape[1]), A.T @ b), np.float64)


def _with_features(known: Knowledge, seen: Floats, flats: Floats, used: Bools) -> Knowledge:
    raw = features.unscaled(seen, flats, known)
    found = _robust(raw.reshape(len(raw), -1), np.repeat(used, WIDTH, axis=1), _DRIFT)
    center, scale = (part.reshape(-1, WIDTH) for part in found)
    return replace(known, feature_center=center, feature_scale=np.maximum(scale, _LEAST_SPREADS))


def _with_levels(known: Knowledge, seen: Floats, used: Bools, keep: Bools) -> Knowledge:
    """Add the covariance of the level within and between blocks of time, and its principal axes."""
    level = np.clip(seen[keep, :, features.SHORT_MEAN], -features.LEVEL_CAP, features.LEVEL_CAP)
    center, d = level.mean(axis=0), level.shape[1]
    level -= center
    within, between = _covariance(level), _covariance(_block_means(level))
    wide = within + _DRIFT * between
    shrunk = wide + _SHRINKAGE * np.diag(np.diag(wide)) + 1e-4 * np.eye(d)
    values = np.where(used, seen[..., 0], np.nan)[keep]
    drift = np.array([_between(column[np.isfinite(column)]) for column in values.T])
    wander = np.sqrt(1.0 + _DRIFT * drift)
    variances, axes = np.linalg.eigh(wide / np.outer(wander, wander) + 1e-9 * np.eye(d))
    variances, axes = np.maximum(variances[::-1], 1e-9), axes.T[::-1]
    along = np.arange(d) <= np.searchsorted(np.cumsum(variances) / variances.sum(), _EXPLAINED)
    known = replace(
        known,
        level_center=center,
        precision=np.asarray(np.linalg.inv(shrunk), np.float64),
        wander=wander,
        axes=axes.copy(),
        stiffness=np.where(along, 1 / variances, 0.0),
    )
    t2, q = features.t2_and_q(level, known)
    return replace(known, typical=np.array([np.median(t2), np.median(q)]) + 1e-9)


def _covariance(rows: Floats) -> Floats:
    away = rows - rows.mean(axis=0)
    covariance: Floats = away.T @ away / max(len(rows) - 1, 1)
    return covariance


def _block_means(rows: Floats) -> Floats:
    """Return the means of contiguous blocks: drift scatters them."""
    if len(rows) < 2 * _DRIFT_BLOCKS:
        return rows[:1]
    return np.stack([part.mean(axis=0) for part in np.array_split(rows, _DRIFT_BLOCKS)])


def _between(column: Floats) -> float:
    return float(_block_means(column).var()) if len(column) else 0.0


def _robust(columns: Floats, used: Bools, drift: float = 0.0) -> tuple[Floats, Floats]:
    """Return median and robust scale of every column [n, k] over its used rows, or 0 and 1."""
    found = [_drifting_scale(columns[rows, j], drift) for j, rows in enumerate(used.T)]
    centers, scales = np.array(found).T.copy()
    return centers, scales


def _drifting_scale(values: Floats, drift: float) -> tuple[float, float]:
    """Return `robust.robust_scale`, widened by the drift."""
    if not len(values):
        return 0.0, 1.0
    center, scale = robust_scale(values)
    return center, float(np.sqrt(scale * scale + drift * _between(values))) if drift else scale


# ------------------------------------------------------------------------------------- calibration
def _folds(n: int) -> list[slice]:
    edges = np.linspace(0, n, _FOLDS + 1).astype(int).tolist()
    return [slice(begin, end) for begin, end in pairwise(edges)]


def _cross_fit(history: _RowHistory) -> _HeldOutRows:
    parts = [_held_out(history, block) for block in _folds(len(history))]
    return _HeldOutRows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _held_out(history: _RowHistory, block: slice) -> _HeldOutRows:
    keep = history.full.copy()
    keep[block] = False
    known = _learn(history, keep)
    state, seen = window.empty(history.used.shape[1]), []
    for piece in history.pieces:
        state, look = features.look(state, piece, known)
        seen.append((look.summaries, look.measures, detector.expected(look, known)))
    columns = (np.concatenate(parts)[block] for parts in zip(*seen, strict=True))
    summaries, measures, expected = columns
    return _HeldOutRows(summaries, measures, np.abs(history.values[block] - expected))


def _held_out_samples(
    held_out: _HeldOutRows, history: _RowHistory, parameters: Parameters
) -> Floats:
    """Return the samples of every row [n], by a forest that has not seen it."""
    samples = np.empty(len(history))
    for block in _folds(len(history)):
        keep = history.full.copy()
        keep[block] = False
        forest = grow_passing(held_out.summaries[keep], parameters)
        samples[block] = forest.score_samples(held_out.summaries[block])
    return samples


def _calibrate(
    samples: Floats, held_out: _HeldOutRows, history: _RowHistory, alpha: float
) -> tuple[Floats, Floats]:
    """Return the tables [MEMBERS + 1, TABLE_WIDTH], and the scores of the full held-out rows."""
    members = np.column_stack((-samples, held_out.measures))
    tables = np.zeros((MEMBERS + 1, calibration.TABLE_WIDTH))
    tables[:MEMBERS] = [calibration.table(column) for column in members[history.full].T]
    surprises = detector.surprises(members, tables)
    before, parts = 0.0, []
    for piece, part in zip(history.pieces, history.split(surprises), strict=True):
        parts.append(detector.combined(before, piece, part))
        before = float(parts[-1][-1])
    together = np.concatenate(parts)[history.full]
    tables[MEMBERS] = calibration.table(_ahead(together))
    return tables, detector.score(together, tables, alpha)


def _ahead(together: Floats) -> Floats:
    """Return combined surprises [n] as they may be a span ahead [9 n].

    Blocks of the training span lie apart because the device drifts, and because readings are few;
    later values lie further off still. So the values are spread by the scatter of the blocks'
    means, widened as the level's covariance is. With much steady data the blocks agree, and the
    values stay.
    """
    means = np.array([part.mean() for part in np.array_split(together, _DRIFT_BLOCKS)])
    away = np.sqrt(_DRIFT) * means.std(ddof=1)
    shifts = np.array([NormalDist().inv_cdf((i + 0.5) / _SHIFTS) for i in range(_SHIFTS)])
    ahead: Floats = together + away * shifts[:, None]
    return ahead.ravel()


def _band(held_out: _HeldOutRows, history: _RowHistory, alpha: float) -> Floats:
    """Return how far values lay from their expectation [d], except for a share `alpha`."""
    used = history.used & history.full[:, None]
    errors = [held_out.errors[rows, j] for j, rows in enumerate(used.T)]
    return np.array([np.quantile(own, 1 - alpha) if len(own) else 0.0 for own in errors])
