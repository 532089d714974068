"""The simulated plant: a function of seed and time, with faults that affect only their series."""

from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.workbench.demo.plant import (
    DEVICES,
    DURATIONS,
    HOUR,
    MINUTE,
    SIGNALS,
    Kind,
    Plant,
    PlantFault,
)
from insa_anomaly.workbench.recordings.recording import Row

DAY = 24 * HOUR
START = 1_763_648_775 * 1_000_000  # not on a minute
seeds = st.integers(0, 2**32)
minutes = st.integers(0, 2 * 1440)


def stream(plant: Plant, start: int, end: int, *faults: PlantFault) -> list[Row]:
    """Return the rows of a span as a list."""
    return list(plant.stream(start, end, iter(faults)))


@settings(max_examples=15, deadline=None)
@given(seed=seeds, cuts=st.lists(minutes, min_size=2, max_size=5).map(sorted))
def test_pieces_fit_to_the_bit(seed: int, cuts: list[int]) -> None:
    """A span in pieces equals the span at once, and equal plants have equal rows."""
    times = [START + cut * MINUTE for cut in cuts]
    whole = stream(Plant(seed), times[0], times[-1])
    assert whole == [
        row for first, last in pairwise(times) for row in stream(Plant(seed), first, last)
    ]


def test_the_stream_goes_on_from_the_history() -> None:
    """History and stream have the same values at the same minute, and neither leaves a gap."""
    plant, until = Plant(3), START + DAY
    history = {series.key: series for series in plant.history(1.0, until)}
    rows = stream(plant, START, until)
    for key in plant.series:
        own = [
            (row.timestamp, row.values[key.metric_name])
            for row in rows
            if row.device_id == key.device_id
        ]
        times, values = history[key].times, history[key].values
        assert own == list(zip(times.tolist(), values.tolist(), strict=True))
        assert np.diff(times).tolist() == [MINUTE] * 1439
    assert rows == sorted(rows, key=lambda row: row.timestamp)
    assert len(rows) == 1440 * len(DEVICES)


def test_another_seed_is_another_plant() -> None:
    """Values depend on the seed, and no two series of a plant are alike."""
    one, other = (stream(Plant(seed), START, START + HOUR) for seed in (1, 2))
    assert all(a.values != b.values for a, b in zip(one, other, strict=True))
    shapes = [
        tuple(np.round(series.values / series.values[0], 6))
        for series in Plant(1).history(0.1, START)
    ]
    assert len(set(shapes)) == len(shapes) == len(DEVICES) * len(SIGNALS) >= 25


@settings(max_examples=12, deadline=None)
@given(seed=seeds, series=st.integers(0, 29), kind=st.sampled_from(list(Kind)), begin=minutes)
def test_a_fault_changes_its_own_series_and_span_only(
    seed: int, series: int, kind: Kind, begin: int
) -> None:
    """A reading outside [start, end) of the fault's series is unchanged; readings inside differ."""
    plant = Plant(seed)
    start = START - START % MINUTE + begin * MINUTE
    fault = PlantFault(*plant.series[series], kind, start, start + DURATIONS[kind] * MINUTE)
    clean, faulty = (
        stream(plant, START, START + 3 * DAY),
        stream(plant, START, START + 3 * DAY, fault),
    )
    changed = set()
    for a, b in zip(clean, faulty, strict=True):
        assert (a.device_id, a.timestamp, a.id) == (b.device_id, b.timestamp, b.id)
        changed |= {
            (a.device_id, metric, a.timestamp)
            for metric in SIGNALS
            if a.values[metric] != b.values[metric]
        }
    assert {key[:2] for key in changed} == {fault.key}
    assert all(fault.start <= timestamp < fault.end for *_, timestamp in changed)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, hours=st.integers(30, 46))
def test_the_timetable_can_be_attributed(seed: int, hours: int) -> None:
    """A timetable of a day and a half or two has a dozen faults or more, of every kind.

    They come in time order, are over by the end, and each has a series of its own.
    """
    plant, end = Plant(seed), START + hours * HOUR
    faults = list(plant.timetable(START, end))
    assert len(faults) >= 12
    assert {fault.kind for fault in faults} == set(Kind)
    assert len({fault.key for fault in faults}) == len(faults)
    assert [fault.start for fault in faults] == sorted(fault.start for fault in faults)
    assert all(START <= fault.start < fault.end <= end for fault in faults)
    assert faults == list(islice(plant.timetable(START, None), len(faults)))


def test_faults_of_one_series_lie_a_day_apart() -> None:
    """Two faults of a series lie a day apart, so that an episode has a single cause."""
    over: dict[SeriesKey, int] = {}
    for fault in islice(Plant().timetable(START, None), 500):
        assert fault.start - over.get(fault.key, 0) > DAY
        over[fault.key] = fault.end


@pytest.mark.parametrize("kind", list(Kind))
def test_each_kind_looks_like_itself(kind: Kind) -> None:
    """The effect of each kind of fault shows in the series' numbers."""
    plant = Plant()
    fault = next(fault for fault in plant.timetable(START, None) if fault.kind is kind)
    shown = plant.faulty(fault)
    clean = np.array(
        [
            row.values[fault.metric_name]
            for row in stream(plant, fault.start, fault.end)
            if row.device_id == fault.device_id
        ]
    )
    off = shown - clean
    noise = SIGNALS[fault.metric_name].noise
    seen = {
        Kind.SPIKE: off.min() > 6 * noise,
        Kind.LEVEL_SHIFT: np.ptp(off) < 0.01 * noise + 0.01 and abs(off[0]) > 5 * noise,
        Kind.DRIFT: abs(off[0]) < noise < abs(off[-1]) / 6,
        Kind.STUCK: np.ptp(shown) == 0 < np.ptp(clean),
        Kind.NOISE: off.std() > 4 * noise and abs(off.mean()) < off.std(),
        Kind.DROPOUT: not shown.any() and clean.all(),
    }
    assert seen[kind]


def test_an_endless_stream_takes_no_memory() -> None:
    """An endless stream yields rows and faults for as long as it is read, a day at a time."""
    plant = Plant()
    rows = plant.stream(START, None, plant.timetable(START, None))
    last = next(islice(rows, 4 * 1440 * len(DEVICES), None))
    assert abs(last.timestamp - START - 4 * DAY) <= MINUTE
