"""A simulated pump: correlated metrics of a machine, as calm or as faulty as a test wants."""

from dataclasses import dataclass

import numpy as np

from insa_anomaly.core.units import Floats

METRICS = ("pressure", "flow", "current", "power", "vibration", "temperature")
NOISE = np.array([0.05, 1.0, 0.15, 0.08, 0.3, 0.2])  # of every sensor, in its own unit
KINDS = ("spike", "shift", "drift", "noise", "stuck")
STUCK_ROWS = 120


@dataclass(frozen=True)
class Fault:
    """A fault of a metric, and its first row."""

    kind: str
    metric: int
    begin: int
    rows: int = 60
    size: float = 12.0  # in units of the sensor's noise; a sensor that is stuck has none

    @property
    def end(self) -> int:
        """First row after the fault."""
        return self.begin + (
            3 if self.kind == "spike" else STUCK_ROWS if self.kind == "stuck" else self.rows
        )


def pump(rows: int, seed: int, interval: float = 60.0) -> tuple[Floats, Floats]:
    """Return times [rows] in seconds and values [rows, len(METRICS)].

    A wandering load drives all metrics, and each sensor adds its noise.
    """
    random = np.random.default_rng(seed)
    course, demand, warmth = np.empty((rows, 2)), 0.0, 0.0
    for i, step in enumerate(random.normal(0, 0.12, rows).tolist()):
        demand = 0.97 * demand + step
        warmth += 0.03 * (demand - warmth)
        course[i] = demand, warmth
    load, heat = course.T
    flow = 50 + 12 * load
    pressure = 4 + 0.6 * load - 0.15 * load * load
    current = 9 + 2.0 * load
    power = 0.4 * current + 0.02 * flow
    clean = np.column_stack((pressure, flow, current, power, 3 + 0.8 * np.abs(load), 55 + 4 * heat))
    values: Floats = clean + random.normal(0, 1, clean.shape) * NOISE
    return 1_700_000_000.0 + np.arange(rows, dtype=np.float64) * interval, values


def faulty(values: Floats, fault: Fault, seed: int) -> Floats:
    """Return the values with a fault planted in a metric."""
    out, at = values.copy(), slice(fault.begin, fault.end)
    column, n = out[at, fault.metric], fault.end - fault.begin
    reach = fault.size * NOISE[fault.metric]
    if fault.kind in {"spike", "shift"}:
        column += reach
    elif fault.kind == "drift":
        column += reach * np.linspace(0, 1, n)
    elif fault.kind == "noise":
        column += np.random.default_rng(seed).normal(0, reach / 3, n)
    else:
        column[:] = column[0]
    return out
