"""The signals of the benchmark's plant: 1000 series of 40 kinds.

Each is a level, a daily swing and noise with a memory.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.reading.series_key import SeriesKey

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SERIES = 1000
KINDS = 40
MINUTE = 60_000_000  # microseconds
DAY = 1440 * MINUTE
_METRICS = (
    "temperature",
    "pressure",
    "vibration",
    "current",
    "flow",
    "level",
    "torque",
    "speed",
    "humidity",
    "power",
)
# Many times the spread of any kind; the values still have three digits before the point.
SPIKE = 200.0


def keys(series: int = SERIES) -> list[SeriesKey]:
    """Return device and metric of every series; series i is of kind i modulo `KINDS`."""
    return [
        SeriesKey(f"line-{i // len(_METRICS):03}", _METRICS[i % len(_METRICS)])
        for i in range(series)
    ]


@dataclass(frozen=True)
class Kinds:
    """Behaviour of the kinds, a number for each kind.

    All values lie between 100 and 1000, so that they have as many digits.
    """

    level: Floats
    swing: Floats  # of a day
    phase: Floats
    memory: Floats  # of the noise, 0 to 1
    noise: Floats

    @classmethod
    def drawn(cls, seed: int = 1) -> "Kinds":
        """Draw different kinds, equal for equal seeds."""
        random = np.random.default_rng(seed)
        return cls(
            level=random.uniform(350, 600, KINDS),
            swing=np.where(np.arange(KINDS) % 2, random.uniform(20, 60, KINDS), 0.0),
            phase=random.uniform(0, 2 * np.pi, KINDS),
            memory=np.tile([0.0, 0.5, 0.9, 0.95], KINDS // 4),
            noise=random.uniform(1.0, 3.0, KINDS),
        )

    def ordinary(self, kind: npt.NDArray[np.int64], now: float) -> Floats:
        """Return the expected value at a time, microseconds since the epoch."""
        return self.level[kind] + self.swing[kind] * np.sin(
            2 * np.pi * now / DAY + self.phase[kind]
        )


class Stream:
    """Rounds of readings, a reading of every series in each; the noise continues between rounds."""

    def __init__(self, series: int = SERIES, seed: int = 2) -> None:
        self._kinds = Kinds.drawn()
        self._kind = np.arange(series) % KINDS
        self._random = np.random.default_rng(seed)
        self._noise = np.zeros(series)
        for _ in range(100):
            self._step()

    def round(self, now: float) -> Floats:
        """Return the next value of every series at a time, microseconds since the epoch."""
        self._step()
        return np.clip(self._kinds.ordinary(self._kind, now) + self._noise, 100.0, 999.0)

    def _step(self) -> None:
        fresh = self._random.standard_normal(len(self._noise)) * self._kinds.noise[self._kind]
        self._noise = self._kinds.memory[self._kind] * self._noise + fresh


def history(kind: int, readings: int, until: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return times (microseconds) and values of a kind: a reading a minute, up to `until`."""
    kinds, random = Kinds.drawn(), np.random.default_rng(1000 + kind)
    times = until - MINUTE * np.arange(readings, 0, -1)
    fresh = random.standard_normal(readings) * kinds.noise[kind]
    noise, last = np.empty(readings), 0.0
    for i in range(readings):
        last = kinds.memory[kind] * last + fresh[i]
        noise[i] = last
    place = np.full(readings, kind)
    return times, kinds.level[place] + kinds.swing[place] * np.sin(
        2 * np.pi * times / DAY + kinds.phase[place]
    ) + noise
