"""Streams of readings for the laws, and models small enough to train in a moment."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from insa_anomaly.core.layout import LearntRows, StateRows
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series import detector, features
from insa_anomaly.core.series.detector import Model, ModelTable, Results, SeriesBatch, advance
from insa_anomaly.core.series.training import SeriesLearner, Trained
from insa_anomaly.core.units import Floats, Ints

SECOND = 1_000_000
MINUTE = 60 * SECOND
START = 1_700_000_000 * SECOND
SMALL = Parameters(
    n_estimators=12,
    max_samples=64,
    first_fit_readings=30,
    first_fit_seconds=600,
    first_fit_retry_readings=7,
)
POLICY = Policy(merge_gap_readings=3, worsen_step=0.1)
SERIES = 4


@dataclass(frozen=True)
class Stream:
    """Readings of `SERIES` series in order of arrival, as columns [n]."""

    which: Ints
    times: Ints
    values: Floats
    discriminators: Ints
    qualities: Ints

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, part: slice | npt.NDArray[np.integer]) -> "Stream":
        return Stream(
            self.which[part],
            self.times[part],
            self.values[part],
            self.discriminators[part],
            self.qualities[part],
        )


def daily(n: int, seed: int = 0, noise: float = 0.3) -> tuple[Ints, Floats]:
    """Return `n` readings, a minute apart, of a signal with a daily wave."""
    at = np.arange(n)
    return START + at * MINUTE, 20 + 3 * np.sin(2 * np.pi * at / 1440) + np.random.default_rng(
        seed
    ).normal(0, noise, n)


@cache
def trained(seed: int) -> Trained:
    """Return a model of 400 readings."""
    times, values = daily(400, seed)
    return SeriesLearner(
        key=SeriesKey("D", f"m{seed}"),
        id=f"model-{seed}",
        version=1,
        parameters=SMALL,
        policy=POLICY,
    ).fit(times, values)


def models() -> ModelTable:
    """Return a table whose rows 0, 1 and 2 hold models.

    Row 2 has a daily profile and asks for a refit often; row 3 has no model.
    """
    held = ModelTable(SERIES, SMALL.n_estimators)
    for row in range(3):
        held.put(row, trained(row).model)
    held.learnt[2, features.DAILY] = [48, *np.sin(np.arange(48))]
    held.learnt[:, detector.REFIT_STEP] = 40, 25, 6, 0
    return held


@cache
def _warm() -> StateRows:
    states = features.empty(SERIES)
    times, values = daily(70, 9)
    for row in range(SERIES):
        gaps_us = np.full(70, np.inf)
        series, own = np.full(70, row), np.arange(70)
        states = features.push(
            states=states,
            which=series,
            values=values,
            times=times.astype(np.float64),
            discriminators=own,
            gaps_us=gaps_us,
        ).states
    return states


def warm() -> StateRows:
    """Return the states of series whose windows are full."""
    return StateRows(_warm().copy())


PAUSES = (MINUTE, MINUTE, MINUTE, MINUTE, 0, 0, -MINUTE, 7 * SECOND, 30 * MINUTE)
LEVELS = (20.0, 20.0, 20.4, 19.1, 26.0, -300.0, 1e300, np.nan)


@st.composite
def streams(draw: st.DrawFn, most: int = 60) -> Stream:
    """Draw a mixture of series, pauses, values, qualities and repeated identities.

    Some pauses are zero, negative or long; some values are extreme or NaN.
    """
    reading = st.tuples(
        st.integers(0, SERIES - 1),
        st.sampled_from(PAUSES),
        st.sampled_from(LEVELS),
        st.integers(0, 2),
        st.sampled_from((0, 0, 0, 0, 2)),
    )
    drawn = draw(st.lists(reading, max_size=most))
    which, own, quality = (
        np.array([reading[column] for reading in drawn], np.int64) for column in (0, 3, 4)
    )
    pauses, values = (
        np.array([reading[column] for reading in drawn], np.float64) for column in (1, 2)
    )
    times = np.zeros(len(drawn), np.int64)
    for row in range(SERIES):
        at = which == row
        times[at] = START + 69 * MINUTE + np.cumsum(pauses[at]).astype(np.int64)
    return Stream(which, times, values, own, quality)


def run(
    states: StateRows, stream: Stream, held: ModelTable, policy: Policy = POLICY
) -> tuple[StateRows, Results]:
    """Advance all `SERIES` series by a stream."""
    rows = np.where(stream.which < 3, stream.which, -1)
    return advance(
        states,
        SeriesBatch(
            series=stream.which,
            models=rows,
            values=stream.values,
            times=stream.times,
            discriminators=stream.discriminators,
            qualities=stream.qualities,
        ),
        held,
        policy,
        SMALL,
    )


def same(left: Results, right: Results) -> bool:
    """Compare two results bit by bit."""
    return all(
        getattr(left, name).tobytes() == getattr(right, name).tobytes()
        for name in left.__dataclass_fields__
    )


def joined(parts: list[Results]) -> Results:
    """Concatenate results."""
    return Results(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in Results.__dataclass_fields__
        }
    )


def taken(results: Results, at: npt.NDArray[np.integer]) -> Results:
    """Select the results of some readings by index."""
    return Results(**{name: getattr(results, name)[at] for name in Results.__dataclass_fields__})


def reloaded(held: ModelTable) -> ModelTable:
    """Return the same models after a round trip through their files."""
    again = ModelTable(SERIES, SMALL.n_estimators)
    for row in range(3):
        model = trained(row).model
        copy = Model(
            id=model.id,
            version=model.version,
            device_id=model.device_id,
            metric_name=model.metric_name,
            forest=model.forest,
            learnt=LearntRows(held.learnt[row]),
        )
        again.put(row, Model.from_bytes(copy.to_bytes()))
    return again
