"""The command `evaluate`: recorded files, judged with the detectors as configured."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import typer
from rich.console import Console

from insa_anomaly.commands.options import Config, FiguresJson, argument, flag, load_settings, option
from insa_anomaly.settings.load import Settings
from insa_anomaly.workbench.progress import open_console, progress
from insa_anomaly.workbench.recordings.evaluation import (
    Detector,
    MetricDetector,
    Split,
    WholeDevice,
    evaluate,
)
from insa_anomaly.workbench.recordings.evaluation_report import tell, to_json
from insa_anomaly.workbench.recordings.labels import read_labels
from insa_anomaly.workbench.recordings.plot import check_plots, write_plots
from insa_anomaly.workbench.recordings.table import Table, load, recordings


def _tables(
    files: Sequence[Path], labels: Path | None, console: Console, *, device: bool
) -> list[Table]:
    """Return every series of the files, or with `device` every file. Raises FileFormatError."""
    known = read_labels(labels) if labels else None
    found = recordings(files, labelled=known is not None)
    with progress(console, "files read", len(found)) as advance:
        tables: list[Table] = []
        for recording, mark in found:
            table = load(recording, mark, known)
            tables += [table] if device else table.series()
            advance(1)
    return tables


def _detector(settings: Settings, *, device: bool) -> Callable[[Table], Detector]:
    parameters = asdict(settings.detection) | asdict(settings.verdict)
    if not device:
        return partial(MetricDetector, parameters=parameters)
    del parameters["alpha"]  # a device has a line of its own
    return partial(WholeDevice, parameters=parameters)


def evaluate_command(
    files: list[Path] = argument(
        "Recorded: `timestamp,value`, or a column per metric; a column `anomaly` of 0 "
        "and 1 is its labels."
    ),
    config: Config = None,
    labels: Path | None = option(
        "Events: JSON as NAB's combined_windows.json, or CSV with start,end and maybe file."
    ),
    train: str = option(
        "Learn from the first part: a share, rows, or both, whichever is less (0.15,750).",
        metavar="SHARE|ROWS",
        default="0.3",
    ),
    *,
    device: bool = flag("Take all columns of a file together, as one device.", "--device"),
    recovery: int = option(
        "Readings after an event that still belong to it: no alarm in them is false.",
        min=0,
        default=60,
    ),
    plot: Path | None = option(
        "Draw series, bands, labels, episodes and scores into this HTML file."
    ),
    json: FiguresJson = False,
) -> None:
    """Run the detector over recorded data and state how good its alarms are.

    Without labels, the number of alarms and their reasons are printed.
    """
    settings, _ = load_settings(config)
    if plot:
        check_plots(plot)
    split, progressing = _split(train), open_console(sys.stderr)
    tables = _tables(files, labels, progressing, device=device)
    outcome = evaluate(tables, _detector(settings, device=device), split, progressing)
    tell(open_console(sys.stderr if json else sys.stdout), outcome, settings.verdict, recovery)
    if plot:
        write_plots(plot, outcome.runs)
    if json:
        typer.echo(to_json(outcome, settings.verdict, recovery))
    raise typer.Exit(1 if outcome.refused else 0)


def _split(text: str) -> Split:
    try:
        return Split.parse(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"--train {text}: {error}; say a share (0.3), rows (400), or both (0.15,750)"
        ) from error
