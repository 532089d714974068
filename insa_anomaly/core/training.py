"""Learn a series: features, forest, calibration, threshold, expected value and band. The only importer of scikit-learn.

Held-out values come from a contiguous cross-fit: the history is cut into four blocks in time, each is scored by a model of the
other three, and what is calibrated on them is used with the model of all four.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import sklearn
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler
from sklearn.tree._tree import Tree

from insa_anomaly.core import calibration, detector, features, verdict
from insa_anomaly.core.detector import Model, Parameters
from insa_anomaly.core.features import DAY, Bools, Floats, Ints
from insa_anomaly.core.forest import DEPTH, LEAVES, NODES, SAMPLES_MOST, Forest, LeafCodes, NodeFeatures, Thresholds, leaf_code
from insa_anomaly.errors import NotEnoughData, TrainingError

FEWEST_READINGS = 100
_FEWEST_WINDOWS = 32
_BLOCKS = 4
_CHUNK = 4096  # readings pushed at once
# Two equal readings in a row, which fine resolution makes rare, shall not weigh like a sensor that is stuck: a run of
# 1, 10 or 60 repetitions is at most 1.4, 4.8 or 8.2 spreads long.
_LEAST_SPREADS = np.array([0.5 if name == "flat_run" else 0.0 for name in features.NAMES])
_PROFILE_DAYS = 2.9
_PROFILE_INTERVAL = 3700e6
_PROFILE_GAIN = 0.15

Figures = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Trained:
    """A model, what scikit-learn made it from, and what is known about it."""

    model: Model
    forest: IsolationForest
    scaler: StandardScaler
    parameters: Parameters
    samples: int
    figures: Figures
    made_with: dict[str, str]


@dataclass(frozen=True)
class _Windows:
    """The full windows of a history, in time order."""

    values: Floats  # [n, LONG]
    stamps: Floats  # [n, SHORT + 1]
    flats: Floats  # [n]

    def __getitem__(self, rows: Bools) -> "_Windows":
        return _Windows(self.values[rows], self.stamps[rows], self.flats[rows])

    def __len__(self) -> int:
        return len(self.flats)

    def look(self, numbers: Floats) -> features.Look:
        """As a model sees them; `numbers` [n, features.NUMBERS_WIDTH]."""
        return features.look(self.values, self.stamps, self.flats, numbers)


@dataclass(frozen=True)
class _Fitted:
    """What one fit learnt; `numbers` [features.NUMBERS_WIDTH]."""

    numbers: Floats
    forest: IsolationForest
    scaler: StandardScaler
    scaled: features.Features


def fit(
    times: Ints, values: Floats, key: tuple[str, str], model_id: str, version: int, parameters: Parameters, policy: verdict.Policy
) -> Trained:
    """Learn from readings: times [n] in microseconds since the epoch, values [n]; any order, what is not finite is left out.

    Raises NotEnoughData below 100 readings or 32 full windows, TrainingError for data nothing can be learnt from.
    """
    when, what = _history(times, values, parameters)
    interval = _interval(when)
    gap, windows = _windows(when, what, interval, parameters)
    fitted = _learn(windows, interval, parameters)
    forest = compiled(fitted.forest, fitted.scaled)
    held_out = _cross_fit(windows, interval, replace(parameters, contamination="auto"))  # saves a pass: only the serving forest's is read
    numbers = np.empty(detector.MODEL_WIDTH)
    numbers[detector.FEATURES] = fitted.numbers
    numbers[detector.OFFSET] = forest.offset
    numbers[detector.ALPHA] = parameters.alpha
    numbers[detector.GAP], numbers[detector.INTERVAL] = gap, interval
    days = float(np.minimum(np.diff(when), min(gap, DAY)).sum()) / DAY
    per_day = len(when) / max(days, 1e-9)
    numbers[detector.REFIT_STEP] = np.clip(per_day, parameters.refit_readings_least, parameters.refit_readings_most)
    numbers[detector.BAND] = np.quantile(held_out.errors, 1 - parameters.alpha)
    scores = _calibrate(numbers, held_out)
    numbers[detector.THRESHOLD] = verdict.threshold_for(scores, len(scores) / per_day, policy)
    model = Model(model_id, version, *key, forest, numbers)
    made_with = {"scikit-learn": sklearn.__version__, "numpy": np.__version__}
    figures = _figures(times, when, windows, scores, numbers)
    return Trained(model, fitted.forest, fitted.scaler, parameters, len(when), figures, made_with)


def _figures(times: Ints, when: Floats, windows: _Windows, scores: Floats, numbers: Floats) -> Figures:
    return {
        "readings_given": len(times),
        "readings_used": len(when),
        "windows": len(windows),
        "span_days": round(float(when[-1] - when[0]) / DAY, 6),
        "interval_seconds": float(numbers[detector.INTERVAL]) / 1e6,
        "held_out": len(scores),
        "held_out_anomalous": int((scores < 0).sum()),
        "daily_profile_bins": int(numbers[features.BINS]),
        "accuracy": None,
        "false_positive_rate": None,
        "true_positive_rate": None,
        "basis": "not assessed: needs a holdout by time with injected faults",
    }


def _history(times: Ints, values: Floats, parameters: Parameters) -> tuple[Floats, Floats]:
    """The finite readings in time order without repetitions, cut to the newest that a model is learnt from."""
    if len(times) != len(values):
        raise TrainingError(f"{len(times)} timestamps for {len(values)} values")
    finite = np.isfinite(values)
    if len(values) and not finite.any():
        raise TrainingError(f"none of the {len(values)} values is a finite number")
    when, what = times[finite].astype(np.float64), values[finite].astype(np.float64)
    order = np.lexsort((what, when)) if (np.diff(when) == 0).any() else np.argsort(when, kind="stable")
    when, what = when[order], what[order]
    fresh = np.ones(len(when), np.bool_)
    fresh[1:] = (when[1:] != when[:-1]) | (what[1:] != what[:-1])
    when, what = when[fresh], what[fresh]
    if len(when) < FEWEST_READINGS:
        raise NotEnoughData(f"{len(when)} different readings with finite values; at least {FEWEST_READINGS} are needed")
    recent = int((when >= when[-1] - parameters.history_days * DAY).sum())
    keep = min(max(recent, parameters.history_readings_least), parameters.history_readings_most)
    return when[-keep:], what[-keep:]


def _interval(when: Floats) -> float:
    """Typical pause between readings, microseconds."""
    pauses = np.diff(when)
    pauses = pauses[pauses > 0]
    if not len(pauses):
        raise TrainingError("all readings carry the same timestamp")
    return float(np.median(pauses))


def _windows(when: Floats, what: Floats, interval: float, parameters: Parameters) -> tuple[float, _Windows]:
    """The full windows, and the pause that restarts one; a rule that would void most windows is not this series' rule."""
    gap = parameters.gap_factor * interval
    windows = _unroll(when, what, gap)
    if len(windows) < (len(when) - features.LONG + 1) / 2:
        gap = float("inf")
        windows = _unroll(when, what, gap)
    if len(windows) < _FEWEST_WINDOWS:
        needed = features.LONG + _FEWEST_WINDOWS
        raise NotEnoughData(f"{len(windows)} full windows; at least {_FEWEST_WINDOWS} are needed: {needed} readings without a long pause")
    return gap, windows


def _unroll(when: Floats, what: Floats, gap: float) -> _Windows:
    """The full windows of a history, by the same `push` that moves them in the stream."""
    state, parts = features.empty(1), []
    for begin in range(0, len(when), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        n = len(when[part])
        series, own = np.zeros(n, np.int64), np.arange(begin, begin + n)
        pushed = features.push(state, series, what[part], when[part], own, np.full(n, gap))
        state, full = pushed.states, pushed.counts >= features.LONG
        parts.append(_Windows(pushed.windows, pushed.stamps, pushed.flats)[full])
    return _Windows(
        np.concatenate([p.values for p in parts]), np.concatenate([p.stamps for p in parts]), np.concatenate([p.flats for p in parts])
    )


# --------------------------------------------------------------------------------------------------- one fit
def _learn(windows: _Windows, interval: float, parameters: Parameters) -> _Fitted:
    numbers = np.zeros(features.NUMBERS_WIDTH)
    values, when = windows.values[:, -1], windows.stamps[:, -1]
    numbers[features.CENTER], numbers[features.SCALE] = center, scale = _robust_scale(values)
    profile = _profile((values - center) / scale, when, interval)
    # A constant says nothing of how long it has been one: whether for an hour or a week, it looks the same.
    numbers[features.FLAT_MOST] = features.FLAT_CAP if windows.flats.min() < features.LONG - 1 else features.LONG - 1
    numbers[features.BINS] = len(profile)
    numbers[features.PROFILE.start : features.PROFILE.start + len(profile)] = profile
    everywhere = np.broadcast_to(numbers, (len(windows), len(numbers)))
    look = windows.look(everywhere)
    scaler = StandardScaler().fit(features.unscaled(look, everywhere))
    scaler.scale_ = np.maximum(scaler.scale_, _LEAST_SPREADS)
    numbers[features.MEANS], numbers[features.SPREADS] = scaler.mean_, scaler.scale_
    scaled = features.features(look, everywhere)
    return _Fitted(numbers, _grow(scaled, parameters), scaler, scaled)


def _robust_scale(values: Floats) -> tuple[float, float]:
    """Median, and the largest of three robust estimates of scale; never 0, so that a constant series has one too."""
    rounding = 1e-12 * float(np.abs(values).max())
    with np.errstate(over="ignore", invalid="ignore"):
        p1, p5, p25, p50, p75, p95, p99 = np.percentile(values, [1, 5, 25, 50, 75, 95, 99]).tolist()
        scale = max((p75 - p25) / 1.349, 0.7 * (p95 - p5) / 3.29, 0.4 * (p99 - p1) / 4.65)
        scale = scale if scale > rounding else float(values.std())
    scale = scale if scale > rounding else max(1e-3 * abs(p50), 1e-6)
    if not np.isfinite(scale):
        raise TrainingError("the values lie too far apart to be measured in floating point")
    return p50, scale


def _profile(z: Floats, when: Floats, interval: float) -> Floats:
    """Median per time of day, empty where less than three days are there or the first half does not explain the second."""
    span = when[-1] - when[0]
    if span < _PROFILE_DAYS * DAY or interval > _PROFILE_INTERVAL:
        return np.zeros(0)
    bins = int(min(features.BINS_MOST, DAY // interval))
    first = when < when[0] + span / 2
    early, late = _medians(z[first], when[first], bins), z[~first]
    left = late - features.profile(when[~first, None], _profile_numbers(early, int((~first).sum())))[:, 0]
    gain = 1 - (np.abs(left - np.median(left)).mean() + 1e-9) / (np.abs(late - np.median(late)).mean() + 1e-9)
    return _medians(z, when, bins) if gain > _PROFILE_GAIN else np.zeros(0)


def _profile_numbers(profile: Floats, n: int) -> Floats:
    numbers = np.zeros(features.NUMBERS_WIDTH)
    numbers[features.BINS], numbers[features.PROFILE.start : features.PROFILE.start + len(profile)] = len(profile), profile
    return np.broadcast_to(numbers, (n, len(numbers)))


def _medians(z: Floats, when: Floats, bins: int) -> Floats:
    """Median of every time-of-day bin [bins], 0 where there is no reading."""
    at = (np.mod(when, DAY) / DAY * bins).astype(np.int64)
    return np.array([np.median(z[at == b]) if (at == b).any() else 0.0 for b in range(bins)])


def _grow(scaled: features.Features, parameters: Parameters) -> IsolationForest:
    most = SAMPLES_MOST if parameters.max_samples == "auto" else int(parameters.max_samples)
    if not 2 <= most <= SAMPLES_MOST:
        raise TrainingError(f"max_samples is {parameters.max_samples}; 2 to {SAMPLES_MOST} or 'auto' are allowed")
    forest = IsolationForest(
        n_estimators=parameters.n_estimators,
        contamination=parameters.contamination,
        max_samples=min(most, len(scaled)),
        random_state=parameters.random_state,
    )
    try:
        return forest.fit(scaled)
    except ValueError as error:  # scikit-learn's word for a parameter out of its range
        raise TrainingError(str(error)) from error


# ------------------------------------------------------------------------------------------------ compiling
def compiled(forest: IsolationForest, check: features.Features) -> Forest:
    """The same forest as complete trees, held against scikit-learn on the rows `check`; refuses to answer with another."""
    trees = [_complete(tree.tree_, wanted) for tree, wanted in zip(forest.estimators_, forest.estimators_features_, strict=True)]
    out = Forest(
        np.stack([t[0] for t in trees]),
        np.stack([t[1] for t in trees]),
        np.stack([t[2] for t in trees]),
        int(forest.max_samples_),
        float(forest.offset_),
    )
    rows = check[:: max(len(check) // 256, 1)]
    difference = float(np.abs(out.score_samples(rows) - forest.score_samples(rows)).max())
    if not difference <= 1e-9:
        raise TrainingError(f"the compiled forest differs from scikit-learn's by {difference:.3g}")
    return out


def _complete(tree: Tree, wanted: Ints) -> tuple[Thresholds, NodeFeatures, LeafCodes]:
    """One tree of scikit-learn as thresholds [NODES], features [NODES] and leaf codes [LEAVES] of a complete tree."""
    thresholds, used, codes = np.full(NODES, np.inf, np.float32), np.zeros(NODES, np.uint8), np.zeros(LEAVES, np.uint16)
    node, place = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for depth in range(DEPTH + 1):
        inner = tree.children_left[node] >= 0
        leaves = place[~inner] << (DEPTH - depth)  # where a walk ends that always turns left from here
        codes[leaves] = leaf_code(depth, tree.n_node_samples[node[~inner]])
        node, place = node[inner], place[inner]
        at = place + (1 << depth) - 1
        thresholds[at], used[at] = _rounded_down(tree.threshold[node]), wanted[tree.feature[node]]
        node = np.concatenate((tree.children_left[node], tree.children_right[node]))
        place = np.concatenate((2 * place, 2 * place + 1))
    return thresholds, used, codes


def _rounded_down(thresholds: Floats) -> Thresholds:
    """Float32 thresholds that compare with a float32 as these do."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


# ---------------------------------------------------------------------------------------------- calibration
@dataclass(frozen=True)
class _HeldOut:
    """Per window [n], in time order, by a model that has not seen it: the members' strangeness, the error of the expected value."""

    members: tuple[Floats, Floats]
    errors: Floats


def _cross_fit(windows: _Windows, interval: float, parameters: Parameters) -> _HeldOut:
    edges = np.linspace(0, len(windows), _BLOCKS + 1).astype(int)
    at = np.arange(len(windows))
    parts = [_held_out(windows, (at >= begin) & (at < end), interval, parameters) for begin, end in pairwise(edges)]
    forest, chart = (np.concatenate([p.members[m] for p in parts]) for m in range(detector.MEMBERS))
    return _HeldOut((forest, chart), np.concatenate([p.errors for p in parts]))


def _held_out(windows: _Windows, block: Bools, interval: float, parameters: Parameters) -> _HeldOut:
    fitted, unseen = _learn(windows[~block], interval, parameters), windows[block]
    numbers = np.broadcast_to(fitted.numbers, (len(unseen), len(fitted.numbers)))
    look = unseen.look(numbers)
    scaled = features.features(look, numbers)
    members = detector.strangeness(fitted.forest.score_samples(scaled), scaled)
    return _HeldOut(members, np.abs(unseen.values[:, -1] - features.expected(look, numbers)))


def _calibrate(numbers: Floats, held_out: _HeldOut) -> Floats:
    """Write the tables into `numbers`; answers the scores of the held-out windows."""
    for place, values in zip(detector.TABLES, held_out.members, strict=False):
        numbers[place] = calibration.table(values)
    everywhere = np.broadcast_to(numbers, (len(held_out.errors), len(numbers)))
    together = detector.combine(held_out.members, everywhere)
    numbers[detector.TABLES[-1]] = calibration.table(together)
    surprises = calibration.surprise(together, np.broadcast_to(numbers[detector.TABLES[-1]], (len(together), calibration.TABLE_WIDTH)))
    return calibration.score(surprises, everywhere[:, detector.ALPHA])
