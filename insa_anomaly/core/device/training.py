"""Training of a device: scales, forecasts, covariance, forest, calibration, threshold.

The module needs scikit-learn, as `core.series.training` does. Held-out values come from a
contiguous cross-fit in four blocks of time, each seen by a model of the other three. Their
calibration is used with the model of all four.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist
from typing import Generic, NamedTuple

import numpy as np
import sklearn

from insa_anomaly.core import units
from insa_anomaly.core.device import detector, features, window
from insa_anomaly.core.device.detector import CELLS_MOST, DeviceModel
from insa_anomaly.core.device.features import (
    LAGS,
    MEMBERS,
    PREDICTORS,
    SHORT_MEAN,
    WIDTH,
    Knowledge,
    RowView,
)
from insa_anomaly.core.device.window import Rows
from insa_anomaly.core.learning.isolation import compiled, grow, grow_passing
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.learning.robust import robust_scale, typical_pause
from insa_anomaly.core.learning.trained_model import Figures, Grow, Grown, Past, TrainedModel
from insa_anomaly.core.scoring import calibration, daily, episodes
from insa_anomaly.core.scoring.maturity import grown, quarantined
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.units import DAY, FLAT_CAP, LONG, Bools, Floats, Ints
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


@dataclass(frozen=True)
class _DeviceFit(Generic[Grown]):
    """A model, and its ingredients."""

    model: DeviceModel
    forest: Grown
    when: Floats  # [n] times of the rows
    scores: Floats  # of the held-out rows
    left_out: list[str]  # metrics, and why


def _learnt(
    learner: "DeviceLearner",
    times: Ints,
    values: Floats,
    past: Past[DeviceModel] | None,
    grow: Grow[Grown],
) -> _DeviceFit[Grown]:
    metrics, parameters = learner.metrics, learner.parameters
    given, what = _ordered(times, values, len(metrics))
    when, what, released = _released(given, what, past)
    kept, left_out = _kept(what, metrics)
    when, what = _recent(when, what[:, kept], parameters)
    interval = typical_pause(when)
    gap, history = _history(when, what, interval, parameters)
    known = _learn(history, history.full)
    held_out = _cross_fit(history)
    forest = grow(held_out.summaries[history.full], parameters)
    samples = _held_out_samples(held_out, history, parameters)
    tables, scores = _calibrate(samples, held_out, history, parameters.alpha)
    days = max(float(np.minimum(np.diff(when), min(gap, DAY)).sum()) / DAY, 1e-9)
    model = DeviceModel(
        id=learner.id,
        version=learner.version,
        device_id=learner.device_id,
        metrics=tuple(metrics[j] for j in kept),
        forest=compiled(forest, held_out.summaries[history.full]),
        known=known,
        tables=tables,
        band=_band(held_out, history, parameters.alpha),
        alpha=parameters.alpha,
        threshold=episodes.threshold_for(scores, days * len(scores) / len(when), learner.policy),
        gap=gap,
        interval=interval,
        refit_step=float(
            np.clip(
                len(when) / days, parameters.refit_readings_least, parameters.refit_readings_most
            )
        ),
        life=replace(
            grown(past.model.life if past else None, given, interval, parameters), released=released
        ),
    )
    return _DeviceFit(model, forest, when, scores, left_out)


def _figures(
    times: Ints, when: Floats, model: DeviceModel, scores: Floats, left_out: list[str]
) -> Figures:
    return {
        "rows_given": len(times),
        "rows_used": len(when),
        "span_days": round(float(when[-1] - when[0]) / DAY, 6),
        "rows_ever": int(model.life.known),
        "age": "mature" if model.life.mature else "young",
        "interval_seconds": model.interval / 1e6,
        "held_out": len(scores),
        "held_out_anomalous": int((scores < 0).sum()),
        "left_out": "; ".join(left_out) or None,
        "accuracy": None,
        "false_positive_rate": None,
        "true_positive_rate": None,
        "basis": "not assessed: learnt on from the version before it",
    }


# ------------------------------------------------------------------------------------- the history
def _ordered(times: Ints, values: Floats, metrics: int) -> tuple[Floats, Floats]:
    """Return rows in time order that hold a finite value, without repetitions."""
    if values.shape != (len(times), metrics):
        raise TrainingError(
            f"values of shape {values.shape} for {len(times)} timestamps and {metrics} metrics"
        )
    what = np.where(np.isfinite(values), values, np.nan)
    something = np.isfinite(what).any(axis=1)
    if len(times) and not something.any():
        raise TrainingError(f"none of the {values.size} values is a finite number")
    when, what = times[something].astype(np.float64), what[something]
    order = np.argsort(when, kind="stable")
    when, what = when[order], what[order]
    same = np.ones(len(when), np.bool_)
    same[1:] = (np.diff(when) > 0) | (
        (what[1:] != what[:-1]) & ~(np.isnan(what[1:]) & np.isnan(what[:-1]))
    ).any(axis=1)
    return when[same], what[same]


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
        f"{metrics[j]} has a reading in {coverage[j]:.0%} of the rows"
        for j in range(len(metrics))
        if j not in kept
    ]
    if not kept and len(values):
        raise TrainingError(
            f"no metric has a reading in {_LEAST_COVERAGE:.0%} of the rows: they do not report "
            "together"
        )
    return kept, left_out


def _recent(when: Floats, what: Floats, parameters: Parameters) -> tuple[Floats, Floats]:
    """Return the newest rows that a model is learnt from."""
    some = np.isfinite(what).any(axis=1)
    when, what = when[some], what[some]
    if len(when) < FEWEST_ROWS:
        raise NotEnoughData(
            f"{len(when)} different rows with finite values; at least {FEWEST_ROWS} are needed"
        )
    recent = int((when >= when[-1] - parameters.history_days * DAY).sum())
    keep = min(
        max(recent, parameters.history_readings_least),
        parameters.history_readings_most,
        max(CELLS_MOST // what.shape[1], FEWEST_ROWS),
    )
    return when[-keep:], what[-keep:]


def _history(
    when: Floats, what: Floats, interval: float, parameters: Parameters
) -> tuple[float, _RowHistory]:
    """Return the history, and the pause that restarts a window.

    The device has no such pause if it would void most windows.
    """
    gap = parameters.gap_factor * interval
    history = _pushed(when, what, interval, gap)
    if history.full.sum() < (len(when) - LONG + 1) / 2:
        gap, history = float("inf"), _pushed(when, what, interval, np.inf)
    if history.full.sum() < _FEWEST_FULL:
        needed = LONG + _FEWEST_FULL
        raise NotEnoughData(
            f"{int(history.full.sum())} full windows; at least {_FEWEST_FULL} are needed: "
            f"{needed} rows without a long pause"
        )
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
    values, flats, used = (
        np.concatenate(parts)
        for parts in zip(*((p.values[LONG:], p.flats, p.used) for p in pieces), strict=True)
    )
    counts = np.concatenate([piece.counts for piece in pieces])
    return _RowHistory(
        pieces=pieces,
        interval=interval,
        times=when,
        values=values,
        flats=flats,
        used=used,
        full=(counts >= LONG) & used.any(axis=1),
    )


# ----------------------------------------------------------------------------------------- one fit
def _learn(history: _RowHistory, keep: Bools) -> Knowledge:
    """Learn from the rows `keep` [n] of a history."""
    used = history.used & keep[:, None]
    known = _blank(history, used)
    seen = np.concatenate([_moments(piece, known) for piece in history.pieces])
    known = _with_forecasts(known, seen, used)
    known = _with_features(known, seen, history.flats, used)
    known = _with_levels(known, seen, used, keep)
    return known


def _moments(piece: Rows, known: Knowledge) -> Floats:
    usual = features.usual_levels(piece.times, known)
    return features.moments(features.standardised(piece.values, usual, known.center, known.scale))


def _blank(history: _RowHistory, used: Bools) -> Knowledge:
    """Return the scales; all other values are blank."""
    d = used.shape[1]
    center, scale = _robust(history.values, used)
    flat = np.array(
        [
            (history.flats[rows, j].min() if rows.any() else 0) >= LONG - 1
            for j, rows in enumerate(used.T)
        ]
    )
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
    last = np.clip(seen[..., PREDICTORS.start], -_FIT_CAP, _FIT_CAP) * (
        1.0 if d > 1 else 0.0
    )  # one alone has its own already
    weights = np.stack([_regression(seen[rows, j], last[rows]) for j, rows in enumerate(used.T)])
    known = replace(
        known,
        weights=weights[:, : LAGS + 1],
        cross=weights[:, LAGS + 1 : -1],
        constant=weights[:, -1],
    )
    left = seen[..., 0] - features.forecasts(seen, known)
    center, scale = _robust(left, used, _DRIFT)
    return replace(known, residual_center=center, residual_scale=scale)


def _regression(seen: Floats, last: Floats) -> Floats:
    """Return the weights of a metric's predictors, of all metrics' last values, and a constant."""
    near = np.clip(seen, -_FIT_CAP, _FIT_CAP)
    return _ridge(
        np.column_stack((near[:, PREDICTORS], last, np.ones(len(near)))), near[:, features.NOW]
    )


def _ridge(A: Floats, b: Floats) -> Floats:
    return np.asarray(np.linalg.solve(A.T @ A + _RIDGE * np.eye(A.shape[1]), A.T @ b), np.float64)


def _with_features(known: Knowledge, seen: Floats, flats: Floats, used: Bools) -> Knowledge:
    raw = features.unscaled(seen, flats, known)
    wide = np.repeat(used, WIDTH, axis=1)
    center, scale = (
        part.reshape(-1, WIDTH) for part in _robust(raw.reshape(len(raw), -1), wide, _DRIFT)
    )
    return replace(known, feature_center=center, feature_scale=np.maximum(scale, _LEAST_SPREADS))


def _with_levels(known: Knowledge, seen: Floats, used: Bools, keep: Bools) -> Knowledge:
    """Add the covariance of the level within and between blocks of time, and its principal axes."""
    level = np.clip(seen[keep, :, SHORT_MEAN], -features.LEVEL_CAP, features.LEVEL_CAP)
    center, d = level.mean(axis=0), level.shape[1]
    level -= center
    within, between = _covariance(level), _covariance(_block_means(level))
    wide = within + _DRIFT * between
    precision = np.asarray(
        np.linalg.inv(wide + _SHRINKAGE * np.diag(np.diag(wide)) + 1e-4 * np.eye(d)), np.float64
    )
    values = np.where(used, seen[..., 0], np.nan)[keep]
    wander = np.sqrt(
        1.0 + _DRIFT * np.array([_between(column[np.isfinite(column)]) for column in values.T])
    )
    variances, axes = np.linalg.eigh(
        (within + _DRIFT * between) / np.outer(wander, wander) + 1e-9 * np.eye(d)
    )
    variances, axes = np.maximum(variances[::-1], 1e-9), axes.T[::-1]
    along = np.arange(d) <= np.searchsorted(np.cumsum(variances) / variances.sum(), _EXPLAINED)
    known = replace(
        known,
        level_center=center,
        precision=precision,
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
    """Return median and robust scale of every column [n, k] over its used rows.

    0 and 1 without rows.
    """
    found = [_drifting_scale(columns[rows, j], drift) for j, rows in enumerate(used.T)]
    return np.array([center for center, _ in found]), np.array([scale for _, scale in found])


def _drifting_scale(values: Floats, drift: float) -> tuple[float, float]:
    """Return `robust.robust_scale`, widened by the drift."""
    if not len(values):
        return 0.0, 1.0
    center, scale = robust_scale(values)
    return center, float(np.sqrt(scale * scale + drift * _between(values))) if drift else scale


def _looks(history: _RowHistory, known: Knowledge) -> Iterator[tuple[Rows, RowView]]:
    """Yield the view of the model on every piece of the history."""
    state = window.empty(history.used.shape[1])
    for piece in history.pieces:
        state, look = features.look(state, piece, known)
        yield piece, look


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
    seen = [
        (look.summaries, look.measures, detector.expected(look, known))
        for _, look in _looks(history, known)
    ]
    summaries, measures, expected = (
        np.concatenate(parts)[block] for parts in zip(*seen, strict=True)
    )
    return _HeldOutRows(summaries, measures, np.abs(history.values[block] - expected))


def _held_out_samples(
    held_out: _HeldOutRows, history: _RowHistory, parameters: Parameters
) -> Floats:
    """Return the samples of every row [n], by a forest that has not seen it."""
    samples = np.empty(len(history))
    for block in _folds(len(history)):
        keep = history.full.copy()
        keep[block] = False
        samples[block] = grow_passing(held_out.summaries[keep], parameters).score_samples(
            held_out.summaries[block]
        )
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
    return np.array(
        [
            np.quantile(held_out.errors[rows, j], 1 - alpha) if rows.any() else 0.0
            for j, rows in enumerate(used.T)
        ]
    )


# --------------------------------------------------------------------------------- for a challenge
@dataclass(frozen=True)
class DeviceLearner:
    """Way to learn a device, for `core.learning.challenge`: id, version, metrics, parameters."""

    device_id: str
    metrics: tuple[str, ...]  # of the columns of rows
    id: str
    version: int
    parameters: Parameters
    policy: episodes.Policy

    def fit(
        self, times: Ints, values: Floats, past: Past[DeviceModel] | None = None
    ) -> TrainedDevice:
        """Learn from rows: times [n] in microseconds, values [n, metrics]; any order.

        A metric without a reading in a row is not finite there; a metric with readings in fewer
        than half of the rows is left out of the model, which reports it. With a `past`, this is a
        refit: a row that alarmed in mature age is not learnt, unless alarms have become the rule.
        Raises NotEnoughData below 100 rows or 32 full windows, TrainingError for data from which no
        model can be learnt.
        """
        fit = _learnt(self, times, values, past, grow)
        return TrainedDevice(
            model=fit.model,
            forest=fit.forest,
            scaler=None,
            parameters=self.parameters,
            samples=len(fit.when),
            figures=_figures(times, fit.when, fit.model, fit.scores, fit.left_out),
            made_with={"scikit-learn": sklearn.__version__, "numpy": np.__version__},
        )

    def twin(
        self, times: Ints, values: Floats, parameters: Parameters, past: Past[DeviceModel] | None
    ) -> DeviceModel:
        """Return the model of `fit` without an offset for its `raw_score`: it is not stored."""
        return _learnt(
            replace(self, parameters=parameters), times, values, past, grow_passing
        ).model

    def usable(self, times: Ints, values: Floats) -> tuple[Ints, Floats]:
        """Return the rows that a model is learnt from, in time order, with those that alarmed.

        Times [n], values [n, metrics].
        """
        when, what = _recent(*_ordered(times, values, len(self.metrics)), self.parameters)
        return when.astype(np.int64), what

    def scores(self, model: DeviceModel, times: Ints, values: Floats) -> Floats:
        """Return scores of rows [n, metrics] from an empty window on; 1 for a row without a score.

        Metrics that the model lacks are left out.
        """
        own = np.full((len(times), len(model.metrics)), np.nan)
        for place, metric in enumerate(model.metrics):
            if metric in self.metrics:
                own[:, place] = values[:, self.metrics.index(metric)]
        state = window.empty(len(model.metrics))
        _, said = detector.advance(
            state,
            detector.Served(model),
            times=times,
            values=own,
            policy=episodes.Policy(),
            parameters=self.parameters,
        )
        return np.where(said.status == Status.SCORED, said.score, 1.0)
