"""`advance`: readings in, states and results out, for stream, replay, evaluation and API alike.

A reading moves the window of its series. A full window gives features; the series' own forest and
charts measure how strange they are; held-out calibration turns strangeness into a p-value and a
score; the verdict merges anomalous readings into episodes. All readings of a batch, of however many
series, go through each step together, and the result is the same to the bit as reading by reading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.layout import Layout, LearntRows, StateRows
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.npz import Arrays, packed, unpacked
from insa_anomaly.core.reading.reading import Quality
from insa_anomaly.core.scoring import calibration
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.scoring.forest import Allocator, Arena, Forest
from insa_anomaly.core.scoring.maturity import Maturity
from insa_anomaly.core.scoring.results import ScoringResults, blank
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.series import charts, features, rules
from insa_anomaly.core.series.features import Arrival, Pushed
from insa_anomaly.core.units import LONG, SECOND, Bools, Features, Floats, Ints

MEMBERS = ("forest", "forecast", "forecast_smoothed", "window")
SMOOTHED = MEMBERS.index("forecast_smoothed")

LEARNT = Layout(
    {
        "features": features.LEARNT,
        "charts": charts.LEARNT,
        "rules": rules.LEARNT,
        "members": Layout(dict.fromkeys(MEMBERS, calibration.TABLE_WIDTH)),
        "together": calibration.TABLE_WIDTH,
        "offset": 1,  # set by the forest's `contamination`; `raw_score` is less this
        "alpha": 1,
        "threshold": 1,
        "gap_us": 1,  # a longer pause restarts the window
        "interval_us": 1,  # typical pause between readings
        "refit_step": 1,  # readings between refits
        "band": 1,  # distance of both ends of the band from the expected value
        "mature": 1,  # 1: the strangest of all members decides; 0: young, the forest alone
        "known": 1,  # readings ever learnt from
        "released": 1,  # readings up to this time are learnt, whether they alarmed or not
    },
    version=2,  # also of a scorer file
)
FEATURES, CHARTS, RULES = map(LEARNT.part, ("features", "charts", "rules"))
TABLES, TOGETHER = LEARNT.part("members"), LEARNT.part("together")
OFFSET, ALPHA, THRESHOLD, BAND = map(LEARNT.column, ("offset", "alpha", "threshold", "band"))
GAP_US, INTERVAL_US = map(LEARNT.column, ("gap_us", "interval_us"))
REFIT_STEP, MATURE, KNOWN = map(LEARNT.column, ("refit_step", "mature", "known"))
RELEASED = LEARNT.column("released")
_TERMS = np.array([GAP_US, THRESHOLD, REFIT_STEP])

_BLOCK = 500  # readings scored together: their learnt rows are copied, 5 kB a reading

# Plain integers, which numpy compares without converting an enum.
_COLLECTING, _WARMING, _SCORED = map(int, (Status.COLLECTING, Status.WARMING, Status.SCORED))
_AFTER_ARRIVAL = Status.LATE - Arrival.LATE  # arrivals that do not move have the same order in both
_GOOD = int(Quality.GOOD)


@dataclass(frozen=True, kw_only=True)
class Model:
    """Knowledge about a series, by which its readings are scored."""

    id: str
    version: int
    device_id: str
    metric_name: str
    forest: Forest
    learnt: LearntRows  # [LEARNT.width]

    @property
    def threshold(self) -> float:
        """Least confidence at which an anomalous reading opens an episode."""
        return float(self.learnt[THRESHOLD])

    @property
    def interval(self) -> float:
        """Typical pause between readings, microseconds."""
        return float(self.learnt[INTERVAL_US])

    @property
    def refit_step(self) -> float:
        """Readings between refits."""
        return float(self.learnt[REFIT_STEP])

    @property
    def life(self) -> Maturity:
        """Age of the model, and the span of its past."""
        first, through = self.learnt[RULES][[rules.FROM, rules.THROUGH]].tolist()
        known, released, mature = self.learnt[[KNOWN, RELEASED, MATURE]].tolist()
        return Maturity(known, first, through, released, mature=bool(mature))

    def to_bytes(self) -> bytes:
        """Return an npz file that needs no pickle."""
        return packed(
            format=LEARNT.version,
            id=self.id,
            version=self.version,
            series=(self.device_id, self.metric_name),
            **vars(self.forest),
            numbers=self.learnt,
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Model:
        """Read the file that `to_bytes` wrote. Raises ModelFileError."""
        return unpacked(data, cls._from_arrays, "this is not a scorer file that this version reads")

    @classmethod
    def _from_arrays(cls, arrays: Arrays) -> Model:
        version, learnt = int(arrays["format"].item()), np.asarray(arrays["numbers"], np.float64)
        if version != LEARNT.version or learnt.shape != (LEARNT.width,):
            message = "the scorer file has another format"
            raise ValueError(message)
        device_id, metric_name = map(str, arrays["series"].tolist())
        return cls(
            id=str(arrays["id"].item()),
            version=int(arrays["version"].item()),
            device_id=device_id,
            metric_name=metric_name,
            forest=Forest.of_arrays(arrays),
            learnt=LearntRows(learnt),
        )


class ModelTable:
    """The models of a fleet, by row, as `advance` needs them."""

    def __init__(self, capacity: int, trees: int, zeros: Allocator = np.zeros) -> None:
        """Make room for models of at most `trees` trees; memory is taken as models are put."""
        self.arena = Arena(capacity, trees, zeros)
        self.learnt = LearntRows(zeros((capacity, LEARNT.width), np.float64))
        self.present = zeros((capacity,), np.bool_)

    @property
    def bytes_per_model(self) -> int:
        """Memory of a model in bytes."""
        own = LEARNT.width * self.learnt.itemsize + self.present.itemsize
        return self.arena.bytes_per_model + own

    def put(self, row: int, model: Model) -> None:
        """Hold a model in a row, instead of the model before."""
        self.arena.put(row, model.forest)
        self.learnt[row], self.present[row] = model.learnt, True

    def remove(self, row: int) -> None:
        """Empty a row."""
        self.present[row] = False


@dataclass(frozen=True, kw_only=True)
class SeriesBatch:
    """Readings of a batch as columns [n]; the readings of a series are in order of arrival."""

    series: Ints  # row of its series among the states
    models: Ints  # row of its model in the table, or -1
    values: Floats
    times: Ints  # microseconds since the epoch
    discriminators: Ints  # tell readings of one time apart
    qualities: npt.NDArray[np.integer]  # `reading.Quality`
    muted: Bools | None = None  # readings that open no episode


@dataclass(frozen=True)
class Results(ScoringResults):
    """Results of n readings of series."""

    features: Features  # [n, features.WIDTH], scaled
    member: npt.NDArray[np.uint8]  # the strangest, its index in MEMBERS
    rules: rules.Rules  # rules.Rule, the rules that the reading breaks


@dataclass(frozen=True)
class _Usable:
    """The m finite readings of good quality of a batch, series by series."""

    at: Ints  # index in the batch and in its results
    series: Ints
    times: Floats
    rows: Ints  # row of its model
    known: Bools  # whether there is a model
    models: ModelTable
    gaps_us: Floats  # infinite without a model
    thresholds: Floats  # infinite for muted readings
    steps: Floats  # readings between refits, or until another first fit

    @classmethod
    def of(cls, batch: SeriesBatch, models: ModelTable, parameters: Parameters) -> _Usable:
        order = np.argsort(batch.series, kind="stable")
        at = order[(batch.qualities[order] == _GOOD) & np.isfinite(batch.values[order])]
        rows = batch.models[at]
        known = rows >= 0
        known[known] = models.present[rows[known]]
        terms = np.empty((len(at), 3))
        terms[:] = np.inf, 0.0, parameters.first_fit_retry_readings
        terms[known] = models.learnt[rows[known, None], _TERMS]
        if batch.muted is not None:
            terms[batch.muted[at], 1] = np.inf
        readings = at, batch.series[at], batch.times[at].astype(np.float64), rows, known
        return cls(*readings, models, *terms.T)

    def block(self, own: Ints) -> _Block:
        """Return some of these with their learnt rows."""
        learnt = LearntRows(self.models.learnt[self.rows[own]])
        return _Block(own, self.at[own], self.times[own], learnt)


@dataclass(frozen=True)
class _Block:
    """Readings with full windows that are scored together."""

    own: Ints  # index among the usable ones
    at: Ints  # index in the results
    times: Floats
    learnt: LearntRows


def advance(
    states: StateRows,
    batch: SeriesBatch,
    models: ModelTable,
    policy: Policy,
    parameters: Parameters,
) -> tuple[StateRows, Results]:
    """Move the states [s, features.STATE.width] of s series by n readings of them.

    Returns new states and the results; no argument is changed.
    """
    usable = _Usable.of(batch, models, parameters)
    values, own = batch.values[usable.at], batch.discriminators[usable.at]
    pushed = features.push(
        states, usable.series, values, usable.times, discriminators=own, gaps_us=usable.gaps_us
    )
    results = _blank(len(batch.values))
    results.status[usable.at] = _statuses(pushed, usable.known)
    _score(results, usable, pushed)
    _judge(results, usable, pushed, policy)
    _refits(results, usable, states, pushed, parameters)
    return pushed.states, results


def foresee(
    state: StateRows, learnt: LearntRows, forest: Callable[[Features], Floats], values: Floats
) -> Results:
    """Return the results that each of the values [n] would have as the next reading of a series.

    The window is full, and the reading comes one usual pause after the newest. It is scored as
    `advance` scores it, to the bit, at a third of the cost for a single value; there is no verdict,
    since no reading came in. `state` [features.STATE.width] and `learnt` [LEARNT.width] are not
    changed; `forest` is the `score_samples` of the model's own.
    """
    n = len(values)
    at, every = np.arange(n), LearntRows(np.repeat(learnt[None], n, axis=0))
    times = np.full(n, float(int(state[features.LAST] + learnt[INTERVAL_US])))
    pushed, block = features.foreseen(state, values, times), _Block(at, at, times, every)
    results = _blank(n)
    results.status[:] = Status.SCORED
    members = _members(results, pushed, block, forest)
    _smooth(members, pushed, at, at)
    _weigh(results, pushed, block, members)
    return results


def _blank(n: int) -> Results:
    return Results(
        **blank(Status.BAD_QUALITY, n),
        features=np.zeros((n, features.WIDTH), np.float32),
        member=np.zeros(n, np.uint8),
        rules=np.zeros(n, np.uint8),
    )


def _statuses(pushed: Pushed, known: Bools) -> npt.NDArray[np.uint8]:
    status = np.where(known, np.where(pushed.counts < LONG, _WARMING, _SCORED), _COLLECTING)
    return np.where(pushed.moved, status, pushed.arrivals + _AFTER_ARRIVAL).astype(np.uint8)


def _score(results: Results, usable: _Usable, pushed: Pushed) -> None:
    """Score the readings with full windows; write the smoothed errors into the new states."""
    ready = np.flatnonzero(usable.known & (pushed.counts >= LONG))
    members = np.full((len(usable.at), len(MEMBERS)), np.nan)
    blocks = [ready[begin : begin + _BLOCK] for begin in range(0, len(ready), _BLOCK)]
    for own in blocks:  # no name holds a block, so that the next one takes its memory
        forest = partial(usable.models.arena.score, usable.rows[own])
        members[own] = _members(results, pushed, usable.block(own), forest)
    _smooth(members, pushed, usable.series, ready)
    for own in blocks:
        _weigh(results, pushed, usable.block(own), members[own])


def _members(
    results: Results, pushed: Pushed, block: _Block, forest: Callable[[Features], Floats]
) -> Floats:
    """Return the value of each member [n, len(MEMBERS)] for a block; none is smoothed yet."""
    at, own, learnt = block.at, block.own, block.learnt
    scaling = LearntRows(learnt[:, FEATURES])
    charted = LearntRows(learnt[:, CHARTS])
    look = features.look(pushed.windows[own], pushed.stamps[own], pushed.flats[own], scaling)
    raw = features.unscaled(look, scaling)
    results.features[at] = scaled = features.scaled(raw, scaling)
    samples = forest(scaled)
    error = charts.forecast_error(look, charted)
    results.raw_score[at] = samples - learnt[:, OFFSET]
    results.expected[at] = expected = features.expected(look, scaling)
    results.lower[at] = expected - learnt[:, BAND]
    results.upper[at] = expected + learnt[:, BAND]
    return np.stack((-samples, error, error, charts.window_z(raw, charted)), axis=1)


def _smooth(members: Floats, pushed: Pushed, series: Ints, ready: Ints) -> None:
    """Smooth the forecast errors of all readings in place; write the last into the new states."""
    before, errors = pushed.states[:, features.SMOOTHED], members[:, SMOOTHED].copy()
    seen, left = charts.smoothed(before, series, errors, pushed.moved)
    members[ready, SMOOTHED] = seen[ready]
    pushed.states[:, features.SMOOTHED] = left


def _weigh(results: Results, pushed: Pushed, block: _Block, members: Floats) -> None:
    """Score a block from the values of the members and the broken rules."""
    at, own, learnt = block.at, block.own, block.learnt
    surprises = member_surprises(members, learnt)
    results.member[at] = surprises.argmax(axis=1)
    flat_free, ruling = learnt[:, FEATURES][:, features.FLAT_FREE], LearntRows(learnt[:, RULES])
    results.rules[at] = seen = rules.seen(pushed, own, block.times, flat_free, ruling)
    together = calibration.surprise(surprises.max(axis=1), learnt[:, TOGETHER])
    weighed = ruled(together, seen, pushed.windows[own, -1], learnt)
    results.score[at] = calibration.score(weighed, learnt[:, ALPHA])
    results.confidence[at] = np.abs(results.score[at])


def member_surprises(members: Floats, learnt: LearntRows) -> Floats:
    """Return -log10 p of each member [n, len(MEMBERS)]; 0 for the charts of a young series."""
    tables = learnt[:, TABLES].reshape(*members.shape, calibration.TABLE_WIDTH)
    out = calibration.surprise(members, tables)
    out[:, 1:] *= learnt[:, MATURE, None]
    return out


def ruled(surprises: Floats, seen: rules.Rules, values: Floats, learnt: LearntRows) -> Floats:
    """Return -log10 p [n], lowered at a known level and raised where a rule speaks."""
    known = rules.at_known_level(values, LearntRows(learnt[:, RULES]))
    charted = np.maximum(surprises - np.where(known, rules.RELIEF, 0.0), 0.0)
    return np.where(seen & np.uint8(rules.SPEAK), np.maximum(charted, rules.SURPRISE), charted)


def _judge(results: Results, usable: _Usable, pushed: Pushed, policy: Policy) -> None:
    """Judge the readings that moved their window; write the episodes into the new states."""
    moved = np.flatnonzero(pushed.moved)
    pushed.states[:, features.EPISODE] = results.judge(
        usable.at[moved],
        pushed.states[:, features.EPISODE],
        usable.series[moved],
        usable.times[moved],
        thresholds=usable.thresholds[moved],
        policy=policy,
    )


def _refits(
    results: Results, usable: _Usable, states: StateRows, pushed: Pushed, parameters: Parameters
) -> None:
    """Mark the readings at which a refit is due, and count from there."""
    moved = np.flatnonzero(pushed.moved)
    series, seen, steps = usable.series[moved], pushed.seen[moved], usable.steps[moved]
    long = usable.times[moved] - pushed.states[series, features.FIRST]
    long_enough = long >= parameters.first_fit_seconds * SECOND
    enough = usable.known[moved] | ((seen >= parameters.first_fit_readings) & long_enough)
    since = states[series, features.SINCE_DUE] + (seen - states[series, features.SEEN])
    for i in np.flatnonzero(enough & (since >= steps)).tolist():
        state = pushed.states[series[i]]
        last_due = state[features.SEEN] - state[features.SINCE_DUE]
        if seen[i] - last_due >= steps[i]:
            results.refit_due[usable.at[moved[i]]] = True
            state[features.SINCE_DUE] = state[features.SEEN] - seen[i]
