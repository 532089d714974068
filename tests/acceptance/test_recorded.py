"""The main job on recorded plants: each row is stored once, and a labelled fault is published."""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from insa_anomaly.core.reading.parser import microseconds
from tests.acceptance.site import Site
from tests.conftest import ROOT, wait_for

DATA = ROOT.parent / "shared" / "data"
NAB = DATA / "NAB" / "data" / "realKnownCause" / "machine_temperature_system_failure.csv.gz"
WINDOWS = DATA / "NAB" / "labels" / "combined_windows.json"
SKAB = DATA / "SKAB" / "data" / "valve1" / "0.csv.gz"

Rows = Sequence[dict[str, str]]


def rows(path: Path, separator: str) -> Rows:
    """Return the rows of the file, unchanged."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=separator))


def time(text: str) -> int:
    """Return a naive UTC time in microseconds."""
    found = microseconds(datetime.fromisoformat(text).isoformat())
    assert found is not None
    return found


def nab_labels(_: Rows) -> list[tuple[int, int]]:
    """Return the windows drawn around the incidents."""
    windows = json.loads(WINDOWS.read_text(encoding="utf-8"))[
        "realKnownCause/machine_temperature_system_failure.csv"
    ]
    return [(time(begin), time(end)) for begin, end in windows]


def skab_labels(found: Rows) -> list[tuple[int, int]]:
    """Return the labelled rows, a span for each."""
    times = [time(row["datetime"]) for row in found if float(row["anomaly"]) == 1]
    return [(at, at) for at in times]


@dataclass(frozen=True)
class Case:
    """A recorded set: its file, its format and its labels."""

    path: Path
    separator: str
    time: str
    excluded: tuple[str, ...]
    training: Callable[[int], int]
    labels: Callable[[Rows], list[tuple[int, int]]]


CASES = {
    "NAB": Case(
        NAB,
        ",",
        "timestamp",
        excluded=(),
        training=lambda n: min(750, int(0.15 * n)),
        labels=nab_labels,
    ),
    "SKAB": Case(
        SKAB,
        ";",
        "datetime",
        excluded=("anomaly", "changepoint"),
        training=lambda _: 400,
        labels=skab_labels,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_fault_is_told_and_every_row_is_stored_once(site: Site, name: str) -> None:
    """A model of the set's own prefix finds a fault in the rows replayed through the broker.

    All rows are stored once, an episode begins in a labelled span, and its event is published.
    """
    case = CASES[name]
    if not case.path.exists():
        pytest.skip(f"there are no recorded sets here: {DATA} is absent")
    recorded = rows(case.path, case.separator)
    trained = site.run(
        "train", "--csv", str(case.path), "--rows", str(case.training(len(recorded)))
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    expected = Counter(
        (metric, time(row[case.time]), float(value))
        for row in recorded
        for metric, value in row.items()
        if metric not in (case.time, *case.excluded)
    )
    daemon = site.daemon()
    with site.listen() as heard:
        daemon.start()
        replayed = site.run("replay", str(case.path))
        assert replayed.returncode == 0, replayed.stdout + replayed.stderr
        wait_for(lambda: site.stored() >= expected.total(), 90)
        daemon.wait_idle()
        opened = {str(one) for (one,) in site.query("SELECT id FROM anomaly_episodes")}
        wait_for(
            lambda: (
                opened <= {event.episode_id for event in heard.events if event.kind == "opened"}
            ),
            30,
        )
    assert daemon.terminate() == 0
    stored = site.query(
        "SELECT metric_name, (extract(epoch FROM timestamp) * 1000000)::bigint, value "
        "FROM telemetry_readings"
    )
    assert Counter(stored) == expected
    spans = case.labels(recorded)
    begun = {
        event.episode_id
        for event in heard.events
        if event.kind == "opened" and lies_in(spans, microseconds(event.started_at))
    }
    assert begun & opened, f"{len(opened)} episodes, none of them begins in a labelled span"


def lies_in(spans: list[tuple[int, int]], at: int | None) -> bool:
    """Return whether a time lies in a span."""
    assert at is not None
    return any(begin <= at <= end for begin, end in spans)
