"""`advance` for a device: rows of all its metrics in, state and results out.

Training, stream and replay use the same code. Four measures look at the metrics together
(`core.device.features`). Each becomes a p-value by held-out calibration. The mean of their -log10
p, smoothed over ten rows, is calibrated once more and makes the score, and anomalous rows are
merged into episodes. No row is scored before the window is full. A metric that is missing from a
row is left out of it and named in the results, while the others decide. Rows may come in any
pieces: the results are the same to the bit.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from uuid import UUID

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.bounds import Significance
from insa_anomaly.core.device import features, window
from insa_anomaly.core.device.features import MEMBERS, Knowledge, RowView
from insa_anomaly.core.device.learnt import LearntRow
from insa_anomaly.core.device.window import CHARTS, COMBINED, COUNT, EPISODE, SEEN, TAG, Rows
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.event import Reason
from insa_anomaly.core.npz import Arrays, packed, unpacked
from insa_anomaly.core.reading.series_key import DEVICE_METRIC
from insa_anomaly.core.scoring import calibration
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.scoring.forest import Arena, Forest
from insa_anomaly.core.scoring.maturity import Maturity
from insa_anomaly.core.scoring.results import ScoringResults, blank, no_episodes
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.units import LONG, Bools, Floats, Ints, joined

FORMAT = 2  # of a device model file
_BEFORE_PROFILE = 20  # columns of zeros that a file of this format keeps before a daily profile
FEWEST_METRICS = 2  # of a device that gets a model of all of them by itself
CELLS_MOST = 200_000  # rows times metrics that a model is learnt from
_SCALARS = ("alpha", "threshold", "gap", "interval", "refit_step")
_STORED = ("id", "device_id", "metrics", "version", "tables", "band", *_SCALARS)
_UNKNOWN_IN_WARMING = (
    *("score", "confidence", "raw_score", "surprises"),
    *("expected", "lower", "upper", "shares"),
)
_TABLES_OF_ONE = 2  # dimensions of the tables of one model
_SURPRISE_CAP = 8.0  # of one member, so that none outvotes the other three for long
_BLOCK = 512  # rows moved at once: what is computed of them stays small
_MOST_REASONS = 3
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class DeviceParameters(Parameters):
    """Parameters of a device: as of a series, with rows instead of readings."""

    alpha: Significance = 1e-2  # a row whose p-value is below this is anomalous


@dataclass(frozen=True)
class DeviceModel:
    """A model of a device: everything learnt about it."""

    id: str
    version: int
    device_id: str
    metrics: tuple[str, ...]  # in the order of the columns of a row
    forest: Forest
    known: Knowledge
    tables: Floats  # [MEMBERS + 1, TABLE_WIDTH], the last of what they say together
    band: Floats  # [d], reaches so far from the expected value, both ways
    alpha: float
    threshold: float  # least confidence at which an anomalous row opens an episode
    gap: float  # a longer pause restarts the window, microseconds
    interval: float  # typical pause between rows, microseconds
    refit_step: float  # rows between refits
    life: Maturity

    @property
    def metric_name(self) -> str:
        """Reserved name in place of a metric's."""
        return DEVICE_METRIC

    @property
    def tag(self) -> float:
        """Number that tells this model from another, exact in a float64."""
        return float((UUID(self.id).int ^ self.version) & ((1 << 52) - 1)) + 1

    def to_bytes(self) -> bytes:
        """Return an npz that needs no pickle."""
        known = vars(self.known) | {
            "profile": np.pad(self.known.profile, ((0, 0), (_BEFORE_PROFILE, 0)))
        }
        return packed(
            format=FORMAT,
            **{name: getattr(self, name) for name in _STORED},
            life=astuple(self.life),
            **{f"forest_{name}": part for name, part in vars(self.forest).items()},
            **{f"known_{name}": part for name, part in known.items()},
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> DeviceModel:
        """Read what `to_bytes` wrote. Raises ModelFileError."""
        return unpacked(
            data, cls._from_arrays, "this is not a device model file that this version reads"
        )

    @classmethod
    def _from_arrays(cls, arrays: Arrays) -> DeviceModel:
        arrays["known_profile"] = arrays["known_profile"][:, _BEFORE_PROFILE:]
        metrics = tuple(map(str, arrays["metrics"].tolist()))
        tables = np.asarray(arrays["tables"], np.float64)
        known = Knowledge(
            *(np.asarray(arrays[f"known_{field.name}"], np.float64) for field in fields(Knowledge))
        )
        form = (MEMBERS + 1, calibration.TABLE_WIDTH), len(metrics)
        if int(arrays["format"].item()) != FORMAT or (tables.shape, len(known.center)) != form:
            message = "the device model file has another format"
            raise ValueError(message)
        life = np.asarray(arrays["life"], np.float64).tolist()
        life[-1] = bool(life[-1])
        return cls(
            id=str(arrays["id"].item()),
            version=int(arrays["version"].item()),
            device_id=str(arrays["device_id"].item()),
            metrics=metrics,
            forest=Forest.of_arrays(arrays, "forest_"),
            known=known,
            tables=tables,
            band=np.asarray(arrays["band"], np.float64),
            life=Maturity(*life),
            **{name: float(arrays[name].item()) for name in _SCALARS},
        )


class Served:
    """A device model ready to score: its forest lies in a row of an arena.

    A forest with another number of trees than the arena's gets an arena of its own.
    """

    def __init__(self, model: DeviceModel, arena: Arena | None = None, row: int = 0) -> None:
        trees = len(model.forest.thresholds)
        if arena is None or arena.trees != trees:
            arena, row = Arena(1, trees), 0
        self.model, self.arena, self.row = model, arena, row
        self.arena.put(self.row, model.forest)
        names = [field.name for field in fields(LearntRow) if field.name != "offset"]
        learnt = {name: getattr(model, name) for name in names}
        self.numbers = LearntRow(offset=model.forest.offset, **learnt)
        self.laid_out = self.numbers.row()


@dataclass(frozen=True)
class DeviceResults(ScoringResults):
    """Results of `advance` for n rows of d metrics; a row without a score has no shares."""

    surprises: Floats  # [n, MEMBERS] -log10 p of each member, at most 8
    shares: Floats  # [n, d], how much of the strangeness is each metric's; sum 1 where there is any
    used: Bools  # [n, d], which metrics took part

    @property
    def metric(self) -> Ints:
        """Metric with the largest share [n], -1 without shares."""
        return np.where(self.shares.any(axis=1), self.shares.argmax(axis=1), -1)


def advance(
    state: Floats,
    served: Served | None,
    times: Ints,
    values: Floats,
    policy: Policy,
    *,
    parameters: Parameters,
) -> tuple[Floats, DeviceResults]:
    """Move the state of a device by n rows in order of arrival.

    state [window.width(d)]; served: the model, or None; times [n]: microseconds since the epoch;
    values [n, d]: in the order of the model's metrics, NaN or infinite where missing. Returns the
    new state and the results; no argument is changed.
    """
    when, what = times.astype(np.float64), np.where(np.isfinite(values), values, np.nan)
    status, held = _arrivals(state, when, what)
    after, gap = _adopted(state, served), served.model.gap if served else np.inf
    parts = []
    for piece, restarts in _pieces(status, when, state[window.LAST], gap):
        before = _emptied(after) if restarts else after
        moved, said = _seen(before, served, when[piece], what[piece])
        if status[piece.start] == Status.SCORED:
            after = moved
            _judge(after, said, when[piece], served, policy)
            _count(after, said, when[piece], served, parameters)
        else:
            said.status[:] = status[piece]
        parts.append(said)
    window.remember(after, held)
    return after, _joined(parts, values.shape)


def _arrivals(
    state: Floats, times: Floats, values: Floats
) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Return the arrival of each row (SCORED: it moves), and the newest time's discriminators."""
    nothing: Bools = np.array(np.isnan(values).all(axis=1))
    status = np.where(nothing, Status.BAD_QUALITY, Status.SCORED).astype(np.uint8)
    newest, held = state[window.LAST], window.remembered(state)
    own = window.discriminators(values).tolist()
    if not nothing.any() and (np.diff(times, prepend=newest) > 0).all():
        return status, own[-1:] or held
    for i, time in enumerate(times.tolist()):
        if nothing[i]:
            continue
        if time > newest:
            newest, held = time, [own[i]]
        elif time < newest:
            status[i] = Status.LATE
        elif own[i] in held:
            status[i] = Status.DUPLICATE
        elif len(held) < window.REMEMBERED:
            held.append(own[i])
    return status, held


def _pieces(
    status: npt.NDArray[np.uint8], times: Floats, last: float, gap: float
) -> list[tuple[slice, bool]]:
    """Yield rows in pieces that move together, and whether a piece restarts the window.

    A row that moves no window is a piece by itself.
    """
    moves = status == Status.SCORED
    before = np.maximum.accumulate(np.concatenate(([last], np.where(moves, times, -np.inf))))[:-1]
    restarts = moves & (times - before > gap) & np.isfinite(before)
    cuts = restarts | ~moves | np.concatenate(([True], ~moves[:-1]))
    edges = np.flatnonzero(cuts).tolist()
    return [
        (slice(begin, min(begin + _BLOCK, end)), bool(restarts[begin]))
        for first, end in pairwise([*edges, len(status)])
        for begin in range(first, end, _BLOCK)
    ]


def _emptied(state: Floats) -> Floats:
    """Return the state with an empty window."""
    out = state.copy()
    out[COUNT] = 0
    return out


def _adopted(state: Floats, served: Served | None) -> Floats:
    """Return the state for this model; after another, running means are set from the window."""
    out = state.copy()
    tag = served.numbers.tag if served else 0.0
    if out[TAG] == tag:
        return out
    count = int(out[COUNT])
    if served and count:
        rows, times = window.history(out)[-count:], out[window.TIMES][-count:]
        afresh, _ = _seen(_emptied(out), served, times, rows)
        out[CHARTS], out[COMBINED] = afresh[CHARTS], afresh[COMBINED]
        window.means(out)[:] = window.means(afresh)
    out[TAG] = tag
    return out


def _seen(
    state: Floats, served: Served | None, times: Floats, values: Floats
) -> tuple[Floats, DeviceResults]:
    """Move the window by rows without a long pause between them, and score them."""
    after, rows = window.push(state, times, values)
    if served is None:
        said = nothing_said(*values.shape)
        said.used[:], said.status[:] = rows.used, Status.COLLECTING
        return after, said
    after, look = features.look(after, rows, served.model.known)
    samples = served.arena.score(np.full(len(values), served.row), look.summaries)
    members = surprises(members_of(samples, look), served.model.tables)
    together = combined(after[COMBINED], rows, members)
    after[COMBINED] = together[-1]
    said = weighed(look, samples, members, together, served.numbers)
    full = (rows.counts >= LONG) & look.used.any(axis=1)
    return after, said if full.all() else _without(said, ~full)


def members_of(samples: Floats, look: RowView) -> Floats:
    """Return the members [n, MEMBERS], higher = stranger, from the forest's `samples` [n]."""
    return np.concatenate((-samples[:, None], look.measures), axis=1)


def weighed(
    look: RowView, samples: Floats, members: Floats, together: Floats, numbers: LearntRow
) -> DeviceResults:
    """Return the results of n rows with full windows, without episodes.

    `numbers` is the learnt row of a model for all, or of a model for each.
    """
    n = len(look.level)
    usual = expected(look, numbers.known)
    scores = score(together, numbers.tables, numbers.alpha)
    return DeviceResults(
        status=np.full(n, Status.SCORED, np.uint8),
        score=scores,
        confidence=np.abs(scores),
        raw_score=samples - numbers.offset,
        expected=usual,
        lower=usual - numbers.band,
        upper=usual + numbers.band,
        surprises=members,
        shares=shares(look, members, numbers.known),
        used=look.used,
        **no_episodes(n),
    )


def _without(said: DeviceResults, warming: Bools) -> DeviceResults:
    """Return the results without those of rows whose window is not full."""
    nothing = nothing_said(*said.shares.shape)
    for name in _UNKNOWN_IN_WARMING:
        getattr(said, name)[warming] = getattr(nothing, name)[warming]
    said.status[warming] = Status.WARMING
    return said


def surprises(members: Floats, tables: Floats) -> Floats:
    """Return -log10 p of members [n, MEMBERS]; tables [MEMBERS + 1, TABLE_WIDTH], or n of them."""
    own = _of_each(tables[..., :MEMBERS, :], len(members))
    return np.minimum(calibration.surprise(members, own), _SURPRISE_CAP)


def _of_each(tables: Floats, n: int) -> Floats:
    """Return tables [..., TABLE_WIDTH] for each of n rows, or each row's own."""
    return tables if tables.ndim > _TABLES_OF_ONE else np.broadcast_to(tables, (n, *tables.shape))


def combined(before: float, rows: Rows, members: Floats) -> Floats:
    """Return the smoothed mean of the members' surprises [n, MEMBERS] -> [n]."""
    together = members.sum(axis=1, keepdims=True) / MEMBERS
    gains = features.device_gains(rows, 1)
    return features.smoothed(np.array([before]), together, gains)[:, 0].copy()


def score(together: Floats, tables: Floats, alpha: Floats | float) -> Floats:
    """Return scores in [-1, 1] of combined surprises; tables as for `surprises`."""
    own = _of_each(tables[..., MEMBERS:, :], len(together))
    surprise = calibration.surprise(together[:, None], own)
    return calibration.score(surprise[:, 0], np.zeros(len(together)) + alpha)


def expected(look: RowView, known: Knowledge) -> Floats:
    """Return the expected value of every metric [n, d]."""
    ahead = look.sight.forecast + known.residual_center + look.usual
    value: Floats = known.center + known.scale * ahead
    return value


def shares(look: RowView, members: Floats, known: Knowledge) -> Floats:
    """Return each metric's share of the strangeness [n, d].

    Every member splits its value over the metrics. Residuals, and the forest fed with them, split
    by the squared residual, smoothed. Mahalanobis splits by the distance of a level from its
    expectation given the others (the drop in squared distance without that metric). The windows
    split by the squared features.
    """
    pull = features.projected(look.level, known.precision)
    of_level = pull * pull / np.diagonal(known.precision, axis1=-2, axis2=-1)
    of_windows = (look.sight.scaled * look.sight.scaled).sum(axis=-1)
    parts = np.array((look.means.energy, of_level, look.means.energy, of_windows))
    if not look.used.all():
        parts[:, ~look.used] = 0.0  # of those that take no part
    of_each = np.multiply(members.T[..., None], parts, order="C")
    of_each /= np.maximum(parts.sum(axis=2, keepdims=True), 1e-300)
    out = np.add.reduce(of_each, axis=0)
    total = out.sum(axis=1, keepdims=True)
    return np.asarray(out / np.where(total > 0, total, 1.0))


def reasons(results: DeviceResults, row: int, values: Floats, model: DeviceModel) -> list[Reason]:
    """Return the metrics that make a row of `values` [d] stand out, strongest first, in words."""
    own = results.shares[row]
    strongest = np.argsort(-own, kind="stable")[:_MOST_REASONS].tolist()
    named = [(j, float(own[j])) for j in strongest if own[j] >= _LEAST_SHARE]
    return [Reason(model.metrics[j], share, _words(results, row, j, values)) for j, share in named]


def _words(results: DeviceResults, row: int, j: int, values: Floats) -> str:
    lower, upper, usual = results.lower[row, j], results.upper[row, j], results.expected[row, j]
    value, where = values[j], "in" if lower <= values[j] <= upper else "outside"
    return f"{value:.4g} for an expected {usual:.4g}, {where} its band {lower:.4g} to {upper:.4g}"


def _judge(
    after: Floats, said: DeviceResults, times: Floats, served: Served | None, policy: Policy
) -> None:
    """Decide on rows that moved the window; write the episode into the state."""
    n, threshold = len(times), served.model.threshold if served else 0.0
    after[EPISODE] = said.judge(
        slice(None),
        after[None, EPISODE],
        np.zeros(n, np.int64),
        times,
        thresholds=np.full(n, threshold),
        policy=policy,
    )[0]


def _count(
    after: Floats, said: DeviceResults, times: Floats, served: Served | None, parameters: Parameters
) -> None:
    """Count rows that moved the window, and mark those at which a refit is due."""
    n = len(times)
    if after[SEEN] == 0:
        after[window.FIRST] = times[0]
    step = served.model.refit_step if served else float(parameters.first_fit_retry_readings)
    number = np.arange(1, n + 1)
    enough = after[window.SINCE_DUE] + number >= step
    if not served:
        enough &= after[SEEN] + number >= parameters.first_fit_readings
        enough &= times - after[window.FIRST] >= parameters.first_fit_seconds * 1e6
    due = -1
    for i in np.flatnonzero(enough).tolist():
        if due < 0 or i - due >= step:
            said.refit_due[i], due = True, i
    after[SEEN] += n
    after[window.SINCE_DUE] = n - 1 - due if due >= 0 else after[window.SINCE_DUE] + n


def nothing_said(n: int, metrics: int) -> DeviceResults:
    """Return blank results of n rows."""
    return DeviceResults(
        **blank(Status.COLLECTING, n, metrics),
        surprises=np.zeros((n, MEMBERS)),
        shares=np.zeros((n, metrics)),
        used=np.zeros((n, metrics), np.bool_),
    )


def _joined(parts: list[DeviceResults], shape: tuple[int, int]) -> DeviceResults:
    if len(parts) == 1:
        return parts[0]
    return DeviceResults(*joined(parts or [nothing_said(0, shape[1])]))
