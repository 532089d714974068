"""A simulated plant: five devices of six metrics, a reading a minute, faults on a known timetable.

Every value is a function of the seed and of absolute time: in any pieces a span is asked for,
a minute has the same values. A signal is a curve (daily, duty-cycled, stepped by setpoint, filled
and drained) and noise with memory. A fault replaces the values of its series within its own span
and touches no other value.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.workbench.recordings.recording import Row

MINUTE = 60_000_000  # microseconds
HOUR = 60 * MINUTE
DAY_MINUTES = 1440
_MEMORY_TAPS = 240  # minutes after which noise is forgotten
_SETPOINT_MINUTES = 240
_NOISE, _WEATHER, _SETPOINT, _PHASE, _FAULT = range(5)  # streams of random numbers, kept apart

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SignalSeed:
    """Source of a signal's random numbers: seed of the plant, number of the series."""

    seed: int
    series: int

    def draw(self, stream: int, number: int) -> np.random.Generator:
        """Return a stream's random numbers for a day, slot or fault, numbered from the epoch."""
        return np.random.default_rng((self.seed, self.series, stream, number))

    @property
    def phase(self) -> float:
        """Shift of the series against its like: 0 to 1."""
        return float(self.draw(_PHASE, 0).random())


# Minutes since the epoch -> noiseless values, in units of the signal's swing, about 0 to 1.
Curve = Callable[[Floats, SignalSeed], Floats]


@dataclass(frozen=True)
class Signal:
    """Behaviour of a metric: `base` + `swing` * curve + noise, never below 0.

    The noise has a standard deviation and an AR(1) coefficient `memory`.
    """

    base: float
    swing: float
    curve: Curve
    noise: float
    memory: float
    decimals: int


def daily(minutes: Floats, place: SignalSeed) -> Floats:
    """Return a warm afternoon and a cool night, no two days quite the same."""
    days = minutes / DAY_MINUTES
    first = int(days[0])
    known = range(first, int(days[-1]) + 2)
    weather = [place.draw(_WEATHER, day).uniform(-0.06, 0.06) for day in known]
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (days - 0.35 - 0.05 * place.phase))
    values: Floats = wave + np.interp(days, known, weather)
    return values


def steady(minutes: Floats, place: SignalSeed) -> Floats:
    """Follow the load of the day a little."""
    return 0.5 + 0.5 * np.sin(2 * np.pi * (minutes / DAY_MINUTES - 0.3 - 0.1 * place.phase))


def duty_cycle(minutes: Floats, place: SignalSeed) -> Floats:
    """Return on for some 15 of 25 minutes, with a wandering period."""
    wander = 0.4 * np.sin(2 * np.pi * (minutes / 437 + place.phase))
    phase = minutes / (23 + 4 * place.phase) + wander
    return np.where(phase % 1.0 < 0.6, 1.0, 0.0)


def stepped(minutes: Floats, place: SignalSeed) -> Floats:
    """Return a choice of three setpoints, set anew every four hours and reached within minutes."""
    shifted = minutes + place.phase * _SETPOINT_MINUTES
    slot = (shifted // _SETPOINT_MINUTES).astype(np.int64)
    first = int(slot[0]) - 1
    slots = range(first, int(slot[-1]) + 1)
    levels = np.array([place.draw(_SETPOINT, number).integers(3) / 2 for number in slots])
    before, after = levels[slot - first - 1], levels[slot - first]
    values: Floats = after + (before - after) * np.exp(-(shifted % _SETPOINT_MINUTES) / 4)
    return values


def filled_and_drained(minutes: Floats, place: SignalSeed) -> Floats:
    """Return a tank's level: up for an hour or two, down for four, in slightly changing periods."""
    wander = 0.1 * np.sin(2 * np.pi * minutes / 2011)
    phase = (minutes / (330 + 40 * place.phase) + wander + place.phase) % 1.0
    return np.where(phase < 0.3, phase / 0.3, (1 - phase) / 0.7)


# Resolutions are those of ordinary transmitters: two equal readings in a row are common.
SIGNALS: dict[str, Signal] = {
    "temperature": Signal(58.0, 9.0, daily, noise=0.35, memory=0.8, decimals=1),  # degrees Celsius
    "pressure": Signal(6.0, 0.3, steady, noise=0.05, memory=0.6, decimals=2),  # bar
    "motor_current": Signal(2.2, 12.0, duty_cycle, noise=0.25, memory=0.2, decimals=1),  # ampere
    "vibration": Signal(2.6, 0.3, steady, noise=0.16, memory=0.5, decimals=2),  # mm/s
    "flow": Signal(160.0, 60.0, stepped, noise=1.8, memory=0.5, decimals=0),  # l/min
    "tank_level": Signal(32.0, 50.0, filled_and_drained, noise=0.4, memory=0.5, decimals=1),  # %
}
DEVICES = ("PUMP-101", "PUMP-102", "COMPRESSOR-201", "MIXER-301", "REACTOR-401")


class Kind(StrEnum):
    """Kinds of faults."""

    SPIKE = "spike"
    LEVEL_SHIFT = "level shift"
    DRIFT = "drift"
    STUCK = "stuck"
    NOISE = "noise"
    DROPOUT = "dropout"


DURATIONS = {
    Kind.SPIKE: 2,
    Kind.LEVEL_SHIFT: 120,
    Kind.DRIFT: 240,
    Kind.STUCK: 150,
    Kind.NOISE: 90,
    Kind.DROPOUT: 10,
}  # minutes
# A kind goes where it would be a fault: a duty cycle drops out by itself, and a setpoint shifts.
_WHERE: dict[Kind, tuple[str, ...]] = {
    Kind.SPIKE: ("temperature", "pressure", "vibration", "flow", "tank_level"),
    Kind.LEVEL_SHIFT: ("pressure", "vibration", "temperature"),
    Kind.DRIFT: ("temperature", "vibration", "pressure"),
    Kind.STUCK: ("motor_current", "flow", "vibration", "tank_level"),
    Kind.NOISE: ("pressure", "tank_level", "flow", "temperature"),
    Kind.DROPOUT: ("flow", "pressure", "temperature", "tank_level"),
}


@dataclass(frozen=True)
class PlantFault:
    """A fault: readings of the series with start <= time < end (microseconds) are wrong."""

    device_id: str
    metric_name: str
    kind: Kind
    start: int
    end: int

    @property
    def key(self) -> SeriesKey:
        """The faulty series."""
        return SeriesKey(self.device_id, self.metric_name)


@dataclass(frozen=True)
class SeriesHistory:
    """The history of a series: times int64[n] (microseconds, rising), values float64[n]."""

    key: SeriesKey
    times: npt.NDArray[np.int64]
    values: Floats


@dataclass(frozen=True)
class Plant:
    """The plant of a seed."""

    seed: int = 7

    @property
    def series(self) -> tuple[SeriesKey, ...]:
        """All series, by device."""
        return tuple(SeriesKey(device, metric) for device in DEVICES for metric in SIGNALS)

    def history(self, days: float, until: int) -> Iterator[SeriesHistory]:
        """Yield the readings of every series in the `days` before `until`, without faults."""
        since = until - round(days * 24 * HOUR)
        first, last = since // MINUTE, -(-until // MINUTE)
        for key in self.series:
            times = np.arange(first, last, dtype=np.int64) * MINUTE + self._offset(key.device_id)
            wanted = (since <= times) & (times < until)
            yield SeriesHistory(key, times[wanted], self._values(key, first, last)[wanted])

    def stream(self, start: int, end: int | None, faults: Iterator[PlantFault]) -> Iterator[Row]:
        """Yield rows with start <= time < end in the order of time; `end` None never ends.

        `faults` come by their starts.
        """
        active: list[tuple[PlantFault, Floats]] = []
        upcoming = next(faults, None)
        for first in count(start // MINUTE // DAY_MINUTES * DAY_MINUTES, DAY_MINUTES):
            if end is not None and first * MINUTE >= end:
                return
            while upcoming is not None and upcoming.start < (first + DAY_MINUTES) * MINUTE:
                active.append((upcoming, self.faulty(upcoming)))
                upcoming = next(faults, None)
            active = [pair for pair in active if pair[0].end > first * MINUTE]
            day = {key: self._values(key, first, first + DAY_MINUTES) for key in self.series}
            for fault, values in active:
                _overlay(day[fault.key], first, fault, values)
            for row in self._rows(day, first):
                if start <= row.timestamp and (end is None or row.timestamp < end):
                    yield row

    def timetable(self, start: int, end: int | None, gap: int = 2 * HOUR) -> Iterator[PlantFault]:
        """Yield faults from `start` on, every `gap` microseconds, all over by `end`, kinds in turn.

        `end` None: for ever. A fault goes to the series, and then to the device, without a fault
        for longest.
        """
        order = list(self.series)
        np.random.default_rng((self.seed, _FAULT)).shuffle(order)
        used: dict[object, int] = {}
        for number in count():
            kind = list(Kind)[number % len(Kind)]
            begin = -(-(start + number * gap) // MINUTE) * MINUTE
            if end is not None and begin + DURATIONS[kind] * MINUTE > end:
                return
            found = min(
                (key for key in order if key.metric_name in _WHERE[kind]),
                key=lambda key: (
                    used.get(key, -1),
                    used.get(key.device_id, -1),
                    used.get((kind, key.metric_name), -1),
                ),
            )
            used.update(dict.fromkeys((found, found.device_id, (kind, found.metric_name)), number))
            yield PlantFault(*found, kind, begin, begin + DURATIONS[kind] * MINUTE)

    def faulty(self, fault: PlantFault) -> Floats:
        """Return the values that the series shows during the fault, a value a minute."""
        first, last = fault.start // MINUTE, fault.end // MINUTE
        values = self._values(fault.key, first - 1, last)
        draw = SignalSeed(self.seed, self.series.index(fault.key)).draw(_FAULT, first)
        signal = SIGNALS[fault.metric_name]
        return _measured(_shown(fault.kind, values, signal, draw)[1:], signal)

    def _values(self, key: SeriesKey, first: int, last: int) -> Floats:
        """Return the values of the minutes first <= m < last since the epoch.

        Values are made by whole days, so that pieces fit to the bit.
        """
        place = SignalSeed(self.seed, self.series.index(key))
        days = range(first // DAY_MINUTES, -(-last // DAY_MINUTES))
        whole = np.concatenate([_day(SIGNALS[key.metric_name], place, day) for day in days])
        return whole[first - days.start * DAY_MINUTES : last - days.start * DAY_MINUTES].copy()

    def _rows(self, day: dict[SeriesKey, Floats], first: int) -> Iterator[Row]:
        columns = {key: values.tolist() for key, values in day.items()}
        for minute in range(DAY_MINUTES):
            for device in DEVICES:
                timestamp = (first + minute) * MINUTE + self._offset(device)
                values = {metric: columns[SeriesKey(device, metric)][minute] for metric in SIGNALS}
                yield Row(device, timestamp, values, f"{device}:{first + minute}")

    @staticmethod
    def _offset(device: str) -> int:
        """Return the microseconds after the full minute at which the device reads.

        Devices take turns.
        """
        return DEVICES.index(device) * MINUTE // len(DEVICES)


def _day(signal: Signal, place: SignalSeed, day: int) -> Floats:
    minutes = np.arange(day * DAY_MINUTES, (day + 1) * DAY_MINUTES, dtype=np.float64)
    clean = (0.9 + 0.2 * place.phase) * (signal.base + signal.swing * signal.curve(minutes, place))
    return _measured(clean + signal.noise * _noise(place, day, signal.memory), signal)


def _noise(place: SignalSeed, day: int, memory: float) -> Floats:
    """Return AR(1) noise of a day with standard deviation 1; it continues from the day before."""
    before = place.draw(_NOISE, day - 1).standard_normal(DAY_MINUTES)[-_MEMORY_TAPS + 1 :]
    white = np.concatenate([before, place.draw(_NOISE, day).standard_normal(DAY_MINUTES)])
    scale = np.sqrt(1 - memory**2)
    noise: Floats = np.convolve(white, memory ** np.arange(_MEMORY_TAPS), "valid") * scale
    return noise


def _measured(values: Floats, signal: Signal) -> Floats:
    return np.maximum(np.round(values, signal.decimals), 0.0)


def _overlay(values: Floats, first: int, fault: PlantFault, shown: Floats) -> None:
    """Put a fault's values into the values of a day that begins at minute `first`."""
    begin, end = fault.start // MINUTE - first, fault.end // MINUTE - first
    values[max(begin, 0) : max(end, 0)] = shown[max(-begin, 0) : max(DAY_MINUTES - begin, 0)]


# ----------------------------------- faults: the value before, then the fault's own minutes
def _shown(kind: Kind, values: Floats, signal: Signal, draw: np.random.Generator) -> Floats:
    match kind:
        case Kind.SPIKE:
            return values + 0.7 * signal.swing + 8 * signal.noise
        case Kind.LEVEL_SHIFT:
            step = 0.6 * signal.swing + 6 * signal.noise
            return values + float(draw.choice((-1.0, 1.0))) * step
        case Kind.DRIFT:
            return values + np.linspace(0, 0.8 * signal.swing + 8 * signal.noise, len(values))
        case Kind.STUCK:
            return np.full_like(values, values[0])
        case Kind.NOISE:
            return values + draw.normal(0, 0.1 * signal.swing + 5 * signal.noise, len(values))
        case Kind.DROPOUT:
            return np.zeros_like(values)
