"""Naive twins of the fast code: a reading at a time, everything recomputed.

The tests compare the fast code with these functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, floor, inf, isnan, log

from insa_anomaly.core import units
from insa_anomaly.core.scoring import daily
from insa_anomaly.core.scoring.episodes import Policy, Transition
from insa_anomaly.core.series import charts, features
from insa_anomaly.core.series.features import Arrival
from insa_anomaly.core.units import Floats

REMEMBERED = 16
DAY = units.DAY


@dataclass
class Window:
    """The window of a series as lists."""

    values: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    flat: int = 0
    seen: int = 0
    discriminators: list[int] = field(default_factory=list)

    def push(self, value: float, time: float, discriminator: int, gap: float) -> Arrival:
        """Add a reading to the window if the reading moves the window."""
        if self.times and time < self.times[-1]:
            return Arrival.LATE
        if self.times and time == self.times[-1]:
            if discriminator in self.discriminators:
                return Arrival.DUPLICATE
        else:
            self.discriminators = []
        if len(self.discriminators) < REMEMBERED:
            self.discriminators.append(discriminator)
        if self.times and time - self.times[-1] > gap:
            self.values, self.times = [], []
        self.flat = min(self.flat + 1, 500) if self.values and value == self.values[-1] else 0
        self.values, self.times = [*self.values, value][-60:], [*self.times, time][-60:]
        self.seen += 1
        return Arrival.MOVES

    def if_next(self, value: float, time: float) -> "Window":
        """Return the window in which a reading is scored that does not move it."""
        flat = min(self.flat + 1, 500) if value == self.values[-1] else 0
        return Window([*self.values, value][-60:], [*self.times, time][-60:], flat, self.seen)


def unscaled(
    values: Sequence[float], times: Sequence[float], flat: float, learnt: Floats
) -> list[float]:
    """Return the features of a full window."""
    far = [
        min(max((v - learnt[features.CENTER]) / learnt[features.SCALE], -1e3), 1e3) for v in values
    ]
    z = [min(max(v, -6.0), 6.0) for v in far]
    short = z[-10:]
    level = sum(short) / 10
    spread = (sum((v - level) ** 2 for v in short) / 9) ** 0.5
    now, residuals = 0.0, [0.0] * 10
    if learnt[features.DAILY][daily.BINS]:
        now, residuals = (
            far[-1] - profile(times[-1], learnt),
            [v - profile(t, learnt) for v, t in zip(short, times[-10:], strict=True)],
        )
    run = log(1 + max(min(flat, learnt[features.FLAT_MOST]) - learnt[features.FLAT_FREE], 0))
    return [
        far[-1],
        far[-1] - far[-2],
        level,
        level - sum(z) / 60,
        log(spread + 0.05),
        run,
        now,
        sum(residuals) / 10,
    ]


def expected(values: Sequence[float], times: Sequence[float], learnt: Floats) -> float:
    """Return the expected value, computed from the ten values before the newest."""
    z = [
        min(max((v - learnt[features.CENTER]) / learnt[features.SCALE], -6.0), 6.0)
        for v in values[-11:-1]
    ]
    residual = sum(v - profile(t, learnt) for v, t in zip(z, times[-11:-1], strict=True)) / 10
    return float(
        learnt[features.CENTER] + learnt[features.SCALE] * (residual + profile(times[-1], learnt))
    )


def profile(time: float, learnt: Floats) -> float:
    """Return the time-of-day profile at a time."""
    bins = int(learnt[features.DAILY][daily.BINS])
    if not bins:
        return 0.0
    levels = learnt[features.DAILY][daily.LEVELS][:bins]
    place = time % DAY / DAY * bins - 0.5
    share = place - floor(place)
    return float(
        levels[floor(place) % bins] * (1 - share) + levels[(floor(place) + 1) % bins] * share
    )


def average_path_length(n: int) -> float:
    """Return the mean length of an unsuccessful search in a binary search tree of `n`."""
    if n <= 1:
        return 0.0
    return 1.0 if n == 2 else 2 * (log(n - 1) + 0.5772156649015329) - 2 * (n - 1) / n


def pareto(excess: float, shape: float, scale: float) -> float:
    """Return the survival function of the generalised Pareto distribution."""
    return exp(-excess / scale) if shape == 0 else (1 + shape * excess / scale) ** (-1 / shape)


def transitions(scores: Sequence[float], threshold: float, policy: Policy) -> list[Transition]:
    """Return the transition of each reading of a series, found from all readings before it."""
    out: list[Transition] = []
    told, quiet = -inf, 0
    for score in scores:
        is_open = told > -inf
        if not is_open and score < 0 and -score >= threshold:
            out.append(Transition.OPENED)
            told, quiet = -score, 0
        elif is_open and score >= 0 and quiet + 1 >= policy.merge_gap_readings:
            out.append(Transition.CLOSED)
            told, quiet = -inf, 0
        elif is_open and score < 0 and -score >= told + policy.worsen_step:
            out.append(Transition.WORSENED)
            told, quiet = -score, 0
        else:
            out.append(Transition.NONE)
            quiet = 0 if score < 0 else quiet + 1
    return out


def dues(moved: Sequence[bool], eligible: Sequence[bool], steps: Sequence[float]) -> list[bool]:
    """Return for each reading whether a refit is due, by counting readings."""
    since, out = 0, []
    for moves, may, step in zip(moved, eligible, steps, strict=True):
        since += moves
        due = bool(moves and may and since >= step)
        out.append(due)
        if due:
            since = 0
    return out


def window_z(raw: Floats, learnt: Floats) -> list[float]:
    """Return the log root mean square of the robustly scaled features of each row."""
    out = []
    for row, own in zip(raw.tolist(), learnt, strict=True):
        scaled = [
            min(max((f - c) / s, -30), 30)
            for f, c, s in zip(row, own[charts.CENTERS], own[charts.SCALES], strict=True)
        ]
        out.append(log(1 + (sum(z * z for z in scaled) / len(scaled)) ** 0.5))
    return out


def forecast_error(values: Sequence[float], scaling: Floats, learnt: Floats) -> float:
    """Return the log of the error of the forecast for the newest value."""
    far = [(v - scaling[features.CENTER]) / scaling[features.SCALE] for v in values]
    z = [*(min(max(v, -6.0), 6.0) for v in far[:-1]), min(max(far[-1], -200), 200)]
    known = [*z[-2:-7:-1], sum(z[-21:-1]) / 20, 1.0]
    off = z[-1] - sum(
        weight * value for weight, value in zip(learnt[charts.WEIGHTS], known, strict=True)
    )
    return log(1 + min(abs((off - learnt[charts.ERROR_CENTER]) / learnt[charts.ERROR_SCALE]), 50))


def smoothed(errors: Sequence[float]) -> list[float]:
    """Return the exponentially weighted mean, span 10, starting at 0.535.

    A NaN error means that the window is not full; the mean starts anew after it.
    """
    out, now = [], -1.0
    for error in errors:
        before = 0.535 if now < 0 else now
        now = -1.0 if isnan(error) else before + 2 / 11 * (error - before)
        out.append(now)
    return out
