"""Rows of a small device for the laws, and models of the device that train in a moment."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from hypothesis import strategies as st

from insa_anomaly.core.device import detector, window
from insa_anomaly.core.device.detector import DeviceModel, DeviceParameters, DeviceResults, Served
from insa_anomaly.core.device.training import DeviceLearner, TrainedDevice
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.units import Floats, Ints
from tests.core.streams import MINUTE, SECOND, START

METRICS = ("a", "b", "c")
SMALL = DeviceParameters(
    n_estimators=12,
    max_samples=64,
    first_fit_readings=30,
    first_fit_seconds=600,
    first_fit_retry_readings=7,
)
POLICY = Policy(merge_gap_readings=3, worsen_step=0.1)
PAUSES = (MINUTE, MINUTE, MINUTE, MINUTE, 0, 0, -MINUTE, 7 * SECOND, 30 * MINUTE)
LEVELS = (20.0, 20.0, 20.4, 19.1, 26.0, 0.0, -300.0, 1e300, np.inf, np.nan, np.nan)


@dataclass(frozen=True)
class Rows:
    """Rows in order of arrival: times [n] and values [n, 3]."""

    times: Ints
    values: Floats  # [n, 3]

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, part: slice) -> "Rows":
        return Rows(self.times[part], self.values[part])


def wave(n: int, seed: int = 0) -> Rows:
    """Return `n` rows a minute apart.

    Metric a follows a slow wave, b follows a, and c is independent.
    """
    random, at = np.random.default_rng(seed), np.arange(n)
    a = 20 + np.sin(at / 30) + random.normal(0, 0.3, n)
    return Rows(
        START + at * MINUTE,
        np.column_stack((a, 2 * a - 20 + random.normal(0, 0.2, n), 20 + random.normal(0, 1, n))),
    )


@cache
def trained(seed: int) -> TrainedDevice:
    """Return a model of 400 rows."""
    rows = wave(400, seed)
    return DeviceLearner(
        device_id="D",
        metrics=METRICS,
        id=f"00000000-0000-0000-0000-00000000000{seed}",
        version=1,
        parameters=SMALL,
        policy=POLICY,
    ).fit(rows.times, rows.values)


def served(seed: int = 0, refit_step: float = 25.0) -> Served:
    """Return the model of `trained` with threshold 0.2 and a refit due every 25 rows."""
    return Served(replace(trained(seed).model, refit_step=refit_step, threshold=0.2))


@cache
def _warm() -> Floats:
    rows = wave(70, 9)
    return detector.advance(
        state=window.empty(3),
        served=None,
        times=rows.times,
        values=rows.values,
        policy=POLICY,
        parameters=SMALL,
    )[0]


def warm() -> Floats:
    """Return the state of a device whose window is full."""
    return _warm().copy()


@st.composite
def streams(draw: st.DrawFn, most: int = 60) -> Rows:
    """Draw a mixture of pauses and values.

    Some pauses are zero, negative or long; some values are extreme, infinite or missing.
    """
    level = st.sampled_from(LEVELS)
    drawn = draw(st.lists(st.tuples(st.sampled_from(PAUSES), level, level, level), max_size=most))
    table = np.array(drawn, np.float64).reshape(-1, 4)
    return Rows(START + 69 * MINUTE + np.cumsum(table[:, 0]).astype(np.int64), table[:, 1:].copy())


def run(state: Floats, rows: Rows, model: Served | None) -> tuple[Floats, DeviceResults]:
    """Advance a device by some rows."""
    return detector.advance(
        state=state,
        served=model,
        times=rows.times,
        values=rows.values,
        policy=POLICY,
        parameters=SMALL,
    )


def same(left: DeviceResults, right: DeviceResults) -> bool:
    """Compare two results bit by bit."""
    return all(
        getattr(left, name).tobytes() == getattr(right, name).tobytes()
        for name in left.__dataclass_fields__
    )


def joined(parts: list[DeviceResults]) -> DeviceResults:
    """Concatenate results."""
    return DeviceResults(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in DeviceResults.__dataclass_fields__
        )
    )


def prefix(results: DeviceResults, n: int) -> DeviceResults:
    """Return the results of the first `n` rows."""
    return DeviceResults(
        *(getattr(results, name)[:n] for name in DeviceResults.__dataclass_fields__)
    )


def reloaded(model: Served) -> Served:
    """Return the same model after a round trip through its file."""
    return Served(DeviceModel.from_bytes(model.model.to_bytes()))
