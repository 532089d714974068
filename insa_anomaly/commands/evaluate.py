"""Evaluation on recorded files with detectors as configured."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from insa_anomaly.settings.load import Settings
from insa_anomaly.workbench.progress import progress
from insa_anomaly.workbench.recordings.evaluation import (
    Detector,
    EvaluationOutcome,
    MetricDetector,
    Split,
    WholeDevice,
    evaluate,
)
from insa_anomaly.workbench.recordings.labels import read_labels
from insa_anomaly.workbench.recordings.table import Table, load, recordings


def evaluate_files(
    settings: Settings,
    files: Sequence[Path],
    labels: Path | None,
    split: Split,
    *,
    device: bool,
    console: Console,
) -> EvaluationOutcome:
    """Every series of the files, or with `device` every file as one device. Raises FileFormatError before anything is learnt."""
    known = read_labels(labels) if labels else None
    found = recordings(files, labelled=known is not None)
    with progress(console, "files read", len(found)) as advance:
        tables = []
        for recording, mark in found:
            table = load(recording, mark, known)
            tables += [table] if device else table.series()
            advance(1)
    return evaluate(tables, _whole(settings) if device else _single(settings), split, console)


def _single(settings: Settings) -> Callable[[Table], Detector]:
    return partial(MetricDetector, parameters=asdict(settings.detection) | asdict(settings.verdict))


def _whole(settings: Settings) -> Callable[[Table], Detector]:
    shared = {
        name: value for name, value in asdict(settings.detection).items() if name != "alpha"
    }  # a device has a line of its own
    return partial(WholeDevice, parameters=shared | asdict(settings.verdict))
