"""Figures that the evaluation kit does not print: alarms on healthy data, and self-assessment.

`python -m tests.benchmarks.honesty` is a part of `make judge` and runs in the folder of the kit. It
prints a line of JSON for each figure. The first compares the false positive rate that models state
of themselves with the true rate, in percent of the readings at a line of 1e-2. The second counts
the episodes published on four weeks of clean readings after a week of training, at the default
threshold, and the kit's events that are published at that threshold.
"""

import importlib
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly import AnomalyDetector

Floats = npt.NDArray[np.float64]

WEEK = 7 * 1440  # readings
WEEKS = 4
STILL = ("constant", "step")
LINE = 1e-2


def kit() -> Any:  # noqa: ANN401 - the kit's module, which has no types
    """Return the data sets of the kit in the working directory."""
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module("datasets")


@cache
def synthetic() -> list[Any]:
    """Return the simulated series of the kit."""
    return list(kit().load("synth"))


def clean(sensor: str) -> int:
    """Return the number of episodes published in four healthy weeks."""
    n = (1 + WEEKS) * WEEK
    times, values = 1_699_920_000.0 + np.arange(n) * 60.0, _values(sensor, n)
    detector = AnomalyDetector("plant", sensor)
    detector.train({"timestamp": times[:WEEK], "value": values[:WEEK]})
    return int((detector.observe_many(values[WEEK:], times[WEEK:])["transition"] == "opened").sum())


def _values(sensor: str, n: int) -> Floats:
    if sensor == "constant":
        return np.full(n, 7.0)
    if sensor == "step":
        return np.repeat(np.random.default_rng(3).choice([20.0, 35.0, 50.0], n // 200 + 1), 200)[:n]
    return np.asarray(
        kit().synth_signal(sensor, n, 60.0, np.random.default_rng([11, len(sensor)])), np.float64
    )


def events(place: int) -> tuple[int, int]:
    """Return the number of events in a series of the kit, and of events that are published."""
    series = synthetic()[place]
    detector = AnomalyDetector("plant", series.name)
    detector.train({"timestamp": series.t_train, "value": series.X_train[:, 0]})
    said = detector.observe_many(series.X_test[:, 0], series.t_test)["transition"]
    opened, closed = np.cumsum(said == "opened"), np.cumsum(said == "closed")
    told = (opened > closed) | (said == "closed")
    edges = np.flatnonzero(np.diff(series.y, prepend=0, append=0)).reshape(-1, 2)
    return len(edges), sum(bool(told[begin:end].any()) for begin, end in edges.tolist())


def assessed(sensor: str) -> tuple[str, float, float]:
    """Return a sensor, its model's own false positive rate, and the true rate, in percent."""
    series = next(one for one in synthetic() if one.name == f"{sensor}/spike/0")
    detector = AnomalyDetector("plant", sensor, alpha=LINE)
    figures = detector.train({"timestamp": series.t_train, "value": series.X_train[:, 0]})
    score = detector.observe_many(series.X_test[:, 0], series.t_test)["score"]
    return (
        sensor,
        round(100 * float(figures["false_positive_rate"]), 2),
        round(100 * float((score[series.y == 0] < 0).mean()), 2),
    )


def figures() -> Iterator[dict[str, object]]:
    """Yield the figures as soon as they are known."""
    sensors = [*kit().SENSORS, *STILL]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        rates = list(pool.map(assessed, kit().SENSORS))
        worst = max(abs(said - true) for _, said, true in rates)
        yield {
            "figure": "self_assessment",
            "said_and_true": rates,
            "largest_difference": round(worst, 2),
        }
        found = dict(zip(sensors, pool.map(clean, sensors), strict=True))
        there, told = np.sum(list(pool.map(events, range(len(synthetic())))), axis=0).tolist()
    a_week = sum(found.values()) / len(found) / WEEKS
    yield {
        "figure": "clean",
        "episodes": found,
        "a_series_and_week": round(a_week, 2),
        "events": there,
        "told": told,
    }


def main() -> None:
    """Print the figures."""
    for figure in figures():
        sys.stdout.write(msgspec.json.encode(figure).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
