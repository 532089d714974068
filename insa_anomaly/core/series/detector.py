"""`advance`: readings in, states and results out. The stream, replay, evaluation, the API and the benchmarks all call it.

A reading moves the window of its series; a full window gives features; the series' own forest and charts say how strange they
are; held-out calibration makes that a p-value and a score; the verdict merges anomalous readings into episodes. All readings
of a batch, of however many series, go through each step together, and the result is the same to the bit as one by one.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from insa_anomaly.core import units
from insa_anomaly.core.damage import DAMAGE
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.reading.reading import Quality
from insa_anomaly.core.scoring import calibration
from insa_anomaly.core.scoring.episodes import Policy, judge
from insa_anomaly.core.scoring.forest import Allocator, Arena, Forest
from insa_anomaly.core.scoring.maturity import Maturity
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.series import charts, features, rules
from insa_anomaly.core.series.features import Arrival
from insa_anomaly.core.units import Bools, Features, Floats, Ints
from insa_anomaly.errors import ModelFileError

FORMAT = 2  # of a scorer file

# The columns of what was learnt about one series.
FEATURES = slice(0, features.NUMBERS_WIDTH)
CHARTS = slice(FEATURES.stop, FEATURES.stop + charts.NUMBERS_WIDTH)
RULES = slice(CHARTS.stop, CHARTS.stop + rules.NUMBERS_WIDTH)
MEMBERS = ("forest", "forecast", "forecast_smoothed", "window")
SMOOTHED = MEMBERS.index("forecast_smoothed")
TABLES = tuple(  # one for each member, side by side, and one for them together
    slice(start, start + calibration.TABLE_WIDTH)
    for start in range(
        RULES.stop,
        RULES.stop + (len(MEMBERS) + 1) * calibration.TABLE_WIDTH,
        calibration.TABLE_WIDTH,
    )
)
OFFSET = TABLES[-1].stop  # what the forest's `contamination` sets; `raw_score` is less this
ALPHA = OFFSET + 1
THRESHOLD = ALPHA + 1
GAP = THRESHOLD + 1  # a longer pause restarts the window, microseconds
INTERVAL = GAP + 1  # typical pause between readings, microseconds
REFIT_STEP = INTERVAL + 1  # readings between refits
BAND = REFIT_STEP + 1  # reaches so far from the expected value, both ways
MATURE = BAND + 1  # 1: the strangest of all members decides; 0: young, the forest alone
KNOWN = MATURE + 1  # readings ever learnt from
RELEASED = KNOWN + 1  # readings up to this time are learnt, whether they alarmed or not
MODEL_WIDTH = RELEASED + 1

_BLOCK = (
    500  # readings scored together: what was learnt about their series is copied, 5 kB a reading
)
_COLLECTING, _WARMING, _SCORED = (
    int(Status.COLLECTING),
    int(Status.WARMING),
    int(Status.SCORED),
)  # numpy compares with these at once
_AFTER_ARRIVAL = Status.LATE - Arrival.LATE  # what does not move has the same order in both
_GOOD = int(Quality.GOOD)


@dataclass(frozen=True)
class Model:
    """What was learnt about one series."""

    id: str
    version: int
    device_id: str
    metric_name: str
    forest: Forest
    numbers: Floats  # [MODEL_WIDTH]

    @property
    def threshold(self) -> float:
        """Least confidence at which an anomalous reading opens an episode."""
        return float(self.numbers[THRESHOLD])

    @property
    def interval(self) -> float:
        """Typical pause between readings, microseconds."""
        return float(self.numbers[INTERVAL])

    @property
    def refit_step(self) -> float:
        """Readings between refits."""
        return float(self.numbers[REFIT_STEP])

    @property
    def life(self) -> Maturity:
        """What it has behind it."""
        first, through = self.numbers[RULES][[rules.FROM, rules.THROUGH]].tolist()
        known, released = self.numbers[[KNOWN, RELEASED]].tolist()
        return Maturity(known, first, through, released, bool(self.numbers[MATURE]))

    def to_bytes(self) -> bytes:
        """One npz that needs no pickle."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            format=np.int64(FORMAT),
            id=np.str_(self.id),
            version=np.int64(self.version),
            series=np.array([self.device_id, self.metric_name]),
            thresholds=self.forest.thresholds,
            features=self.forest.features,
            leaves=self.forest.leaves,
            max_samples=np.int64(self.forest.max_samples),
            offset=np.float64(self.forest.offset),
            numbers=self.numbers,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Model:
        """Read what `to_bytes` wrote. Raises ModelFileError."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as npz:
                return cls._from_arrays({name: npz[name] for name in npz.files})
        except DAMAGE as error:
            raise ModelFileError("this is not a scorer file that this version reads") from error

    @classmethod
    def _from_arrays(cls, arrays: dict[str, npt.NDArray[np.generic]]) -> Model:
        if int(arrays["format"].item()) != FORMAT or arrays["numbers"].shape != (MODEL_WIDTH,):
            message = "the scorer file has another format"
            raise ValueError(message)
        forest = Forest(
            np.asarray(arrays["thresholds"], np.float32),
            np.asarray(arrays["features"], np.uint8),
            np.asarray(arrays["leaves"], np.uint16),
            int(arrays["max_samples"].item()),
            float(arrays["offset"].item()),
        )
        device_id, metric_name = map(str, arrays["series"].tolist())
        return cls(
            str(arrays["id"].item()),
            int(arrays["version"].item()),
            device_id,
            metric_name,
            forest,
            np.asarray(arrays["numbers"], np.float64),
        )


class ModelTable:
    """The models of a fleet, by row, as `advance` needs them."""

    def __init__(self, capacity: int, trees: int, zeros: Allocator = np.zeros) -> None:
        """Room for `capacity` models of at most `trees` trees; memory, which `zeros` gives, is taken as models are put."""
        self.arena = Arena(capacity, trees, zeros)
        self.numbers = zeros((capacity, MODEL_WIDTH), np.float64)
        self.present = zeros((capacity,), np.bool_)

    @property
    def bytes_per_model(self) -> int:
        """Memory one model takes."""
        return (
            self.arena.bytes_per_model + MODEL_WIDTH * self.numbers.itemsize + self.present.itemsize
        )

    def put(self, row: int, model: Model) -> None:
        """Hold this model in this row, instead of the one before."""
        self.arena.put(row, model.forest)
        self.numbers[row] = model.numbers
        self.present[row] = True

    def remove(self, row: int) -> None:
        """Hold no model in this row any more."""
        self.present[row] = False


@dataclass(frozen=True)
class Results:
    """What `advance` says of n readings, in their order. Where a reading was not scored: score 0, expected and band NaN."""

    status: npt.NDArray[np.uint8]
    score: Floats  # in [-1, 1], below 0 = anomalous
    confidence: Floats  # |score|
    raw_score: Floats  # the forest's decision_function
    expected: Floats
    lower: Floats
    upper: Floats
    transition: npt.NDArray[np.uint8]  # episodes.Transition
    refit_due: Bools
    episode_started: Ints  # microseconds; the episode the reading belongs to or closes
    episode_readings: Ints  # 0: no episode
    episode_peak: Floats
    features: Features  # [n, features.WIDTH], scaled
    member: npt.NDArray[np.uint8]  # the strangest one, its place in MEMBERS
    rules: rules.Rules  # rules.Rule, what they saw

    @property
    def scored(self) -> Bools:
        """Whether each moved a full window, and was scored [n]."""
        scored: Bools = self.status == _SCORED
        return scored


def advance(
    states: Floats,
    which: Ints,
    models: ModelTable,
    rows: Ints,
    values: Floats,
    times: Ints,
    discriminators: Ints,
    qualities: npt.NDArray[np.integer],
    policy: Policy,
    parameters: Parameters,
    muted: Bools | None = None,
) -> tuple[Floats, Results]:
    """Move the states of s series by n readings of them.

    states [s, features.STATE_WIDTH]; which [n]: each reading's row of `states`; rows [n]: its row of `models` or -1; values [n];
    times [n]: microseconds since the epoch; discriminators [n] int64: what tells readings of one time apart; qualities [n]:
    `reading.Quality`; muted [n]: readings that open no episode. Readings of one series are in order of arrival. Answers new states and
    the results; changes nothing it is given.
    """
    order = np.argsort(which, kind="stable")
    good = order[(qualities[order] == _GOOD) & np.isfinite(values[order])]
    row, value, time = rows[good], values[good], times[good].astype(np.float64)
    known = row >= 0
    known[known] = models.present[row[known]]
    gaps = np.full(len(good), np.inf)
    gaps[known] = models.numbers[row[known], GAP]
    pushed = features.push(states, which[good], value, time, discriminators[good], gaps)
    results = _nothing_said(len(values))
    results.status[good] = _statuses(pushed, known)
    ready = known & (pushed.counts >= units.LONG)
    _score(results, good, pushed, which[good], time, ready, models, row)
    loud = np.ones(len(good), np.bool_) if muted is None else ~muted[good]
    _judge(results, good, pushed, which[good], time, row, known, loud, models, policy)
    _refits(results, good, states, pushed, which[good], time, row, known, models, parameters)
    return pushed.states, results


def foresee(
    state: Floats, numbers: Floats, forest: Callable[[Features], Floats], values: Floats
) -> Results:
    """What each of these values [n] would be as the next reading of a series whose window is full, one usual pause after the newest.

    Scored as `advance` scores it, to the bit, at a third of the cost for one value; there is no verdict, since nothing came in. `state`
    [features.STATE_WIDTH] and `numbers` [MODEL_WIDTH] are not changed; `forest` is the `score_samples` of the model's own.
    """
    n = len(values)
    time = np.full(n, float(int(state[features.LAST] + numbers[INTERVAL])))
    pushed, at, every = (
        features.foreseen(state, values, time),
        np.arange(n),
        np.repeat(numbers[None], n, axis=0),
    )
    results = _nothing_said(n)
    results.status[:] = Status.SCORED
    members = _members(results, at, pushed, at, every, forest)
    _smooth(members, pushed, at, np.ones(n, np.bool_))
    _weigh(results, at, pushed, at, time, members, every)
    return results


def _nothing_said(n: int) -> Results:
    return Results(
        status=np.full(n, Status.BAD_QUALITY, np.uint8),
        score=np.zeros(n),
        confidence=np.zeros(n),
        raw_score=np.zeros(n),
        expected=np.full(n, np.nan),
        lower=np.full(n, np.nan),
        upper=np.full(n, np.nan),
        transition=np.zeros(n, np.uint8),
        refit_due=np.zeros(n, np.bool_),
        episode_started=np.zeros(n, np.int64),
        episode_readings=np.zeros(n, np.int64),
        episode_peak=np.zeros(n),
        features=np.zeros((n, features.WIDTH), np.float32),
        member=np.zeros(n, np.uint8),
        rules=np.zeros(n, np.uint8),
    )


def _statuses(pushed: features.Pushed, known: Bools) -> npt.NDArray[np.uint8]:
    status = np.where(known, np.where(pushed.counts < units.LONG, _WARMING, _SCORED), _COLLECTING)
    return np.where(pushed.moved, status, pushed.arrivals + _AFTER_ARRIVAL).astype(np.uint8)


def _score(
    results: Results,
    good: Ints,
    pushed: features.Pushed,
    which: Ints,
    time: Floats,
    ready: Bools,
    models: ModelTable,
    row: Ints,
) -> None:
    """Score the readings `ready` of `pushed`, whose window is full; writes the smoothed forecast errors into the new states."""
    at = np.flatnonzero(ready)
    blocks = [at[begin : begin + _BLOCK] for begin in range(0, len(at), _BLOCK)]
    members = np.full((len(good), len(MEMBERS)), np.nan)
    for block in blocks:
        forest = partial(models.arena.score, row[block])
        members[block] = _members(
            results, good[block], pushed, block, models.numbers[row[block]], forest
        )
    _smooth(members, pushed, which, ready)
    for block in blocks:
        _weigh(
            results,
            good[block],
            pushed,
            block,
            time[block],
            members[block],
            models.numbers[row[block]],
        )


def _members(
    results: Results,
    at: Ints,
    pushed: features.Pushed,
    block: Ints,
    numbers: Floats,
    forest: Callable[[Features], Floats],
) -> Floats:
    """What each member sees [n, len(MEMBERS)] in the readings `block` of `pushed`, which are `at` in the results; none is smoothed yet."""
    look = features.look(
        pushed.windows[block], pushed.stamps[block], pushed.flats[block], numbers[:, FEATURES]
    )
    raw = features.unscaled(look, numbers[:, FEATURES])
    results.features[at] = scaled = features.scaled(raw, numbers[:, FEATURES])
    samples = forest(scaled)
    error = charts.forecast_error(look, numbers[:, CHARTS])
    results.raw_score[at] = samples - numbers[:, OFFSET]
    results.expected[at] = expected = features.expected(look, numbers[:, FEATURES])
    results.lower[at], results.upper[at] = expected - numbers[:, BAND], expected + numbers[:, BAND]
    return np.stack((-samples, error, error, charts.window_z(raw, numbers[:, CHARTS])), axis=1)


def _smooth(members: Floats, pushed: features.Pushed, which: Ints, ready: Bools) -> None:
    """Smooth the forecast errors of all readings in place; what is left of them goes into the new states."""
    seen, left = charts.smoothed(
        pushed.states[:, features.SMOOTHED], which, members[:, SMOOTHED].copy(), pushed.moved
    )
    members[ready, SMOOTHED], pushed.states[:, features.SMOOTHED] = seen[ready], left


def _weigh(
    results: Results,
    at: Ints,
    pushed: features.Pushed,
    block: Ints,
    time: Floats,
    members: Floats,
    numbers: Floats,
) -> None:
    """Scores of the readings `block` of `pushed`, which are `at` in the results, from what the members and the rules see in them."""
    surprises = member_surprises(members, numbers)
    results.member[at] = surprises.argmax(axis=1)
    results.rules[at] = seen = rules.seen(
        pushed, block, time, numbers[:, FEATURES], numbers[:, RULES]
    )
    together = calibration.surprise(surprises.max(axis=1), numbers[:, TABLES[-1]])
    results.score[at] = calibration.score(
        ruled(together, seen, pushed.windows[block, -1], numbers), numbers[:, ALPHA]
    )
    results.confidence[at] = np.abs(results.score[at])


def member_surprises(members: Floats, numbers: Floats) -> Floats:
    """-log10 p of each member [n, len(MEMBERS)] by its own table; those that have no say yet are never surprised."""
    tables = numbers[:, TABLES[0].start : TABLES[-1].start].reshape(
        *members.shape, calibration.TABLE_WIDTH
    )
    out = calibration.surprise(members, tables)
    out[:, 1:] *= numbers[:, MATURE, None]
    return out


def ruled(surprises: Floats, seen: rules.Rules, values: Floats, numbers: Floats) -> Floats:
    """What is left of -log10 p [n], or added to it, where a rule speaks."""
    relief = np.where(rules.at_known_level(values, numbers[:, RULES]), rules.RELIEF, 0.0)
    charted = np.maximum(surprises - relief, 0.0)
    return np.where(seen & np.uint8(rules.SPEAK), np.maximum(charted, rules.SURPRISE), charted)


def _judge(
    results: Results,
    good: Ints,
    pushed: features.Pushed,
    which: Ints,
    time: Floats,
    row: Ints,
    known: Bools,
    loud: Bools,
    models: ModelTable,
    policy: Policy,
) -> None:
    """Verdict on the readings that moved their window; writes the episodes into the new states."""
    moved = np.flatnonzero(pushed.moved)
    thresholds = np.zeros(len(good))
    thresholds[known] = models.numbers[row[known], THRESHOLD]
    thresholds[~loud] = np.inf
    at = good[moved]
    episodes, verdicts = judge(
        pushed.states[:, features.EPISODE],
        which[moved],
        time[moved],
        results.score[at],
        thresholds[moved],
        policy,
    )
    pushed.states[:, features.EPISODE] = episodes
    results.transition[at] = verdicts.transitions
    results.episode_started[at] = verdicts.started
    results.episode_readings[at] = verdicts.readings
    results.episode_peak[at] = verdicts.peaks


def _refits(
    results: Results,
    good: Ints,
    states: Floats,
    pushed: features.Pushed,
    which: Ints,
    time: Floats,
    row: Ints,
    known: Bools,
    models: ModelTable,
    parameters: Parameters,
) -> None:
    """Say at which readings a refit is due, and count from there."""
    moved = np.flatnonzero(pushed.moved)
    which, time, row, known, seen = (
        which[moved],
        time[moved],
        row[moved],
        known[moved],
        pushed.seen[moved],
    )
    steps = np.full(len(moved), float(parameters.first_fit_retry_readings))
    steps[known] = models.numbers[row[known], REFIT_STEP]
    first = pushed.states[which, features.FIRST]
    enough = known | (
        (seen >= parameters.first_fit_readings)
        & (time - first >= parameters.first_fit_seconds * 1e6)
    )
    since = states[which, features.SINCE_DUE] + (seen - states[which, features.SEEN])
    candidates = np.flatnonzero(enough & (since >= steps))
    for i in candidates.tolist():
        series = which[i]
        told = pushed.states[series, features.SEEN] - pushed.states[series, features.SINCE_DUE]
        if seen[i] - told >= steps[i]:
            results.refit_due[good[moved[i]]] = True
            pushed.states[series, features.SINCE_DUE] = (
                pushed.states[series, features.SEEN] - seen[i]
            )
