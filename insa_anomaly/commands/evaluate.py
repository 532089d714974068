"""The command `evaluate`: recorded files, judged with the detectors as configured."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from insa_anomaly.commands.options import Config, FiguresJson, load_settings
from insa_anomaly.settings.load import Settings
from insa_anomaly.workbench.progress import open_console, progress
from insa_anomaly.workbench.recordings.evaluation import (
    Detector,
    EvaluationOutcome,
    MetricDetector,
    Split,
    WholeDevice,
    evaluate,
)
from insa_anomaly.workbench.recordings.evaluation_report import tell, to_json
from insa_anomaly.workbench.recordings.labels import read_labels
from insa_anomaly.workbench.recordings.plot import check_plots, write_plots
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
    """Evaluate every series of the files, or with `device` every file as a device.

    Raises FileFormatError before any series is learnt.
    """
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


def evaluate_command(
    files: Annotated[
        list[Path],
        typer.Argument(
            help=(
                "Recorded: `timestamp,value`, or a column per metric; a column `anomaly` of 0 "
                "and 1 is its labels."
            )
        ),
    ],
    config: Config = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Events: JSON as NAB's combined_windows.json, or CSV with start,end and maybe file."
            )
        ),
    ] = None,
    train: Annotated[
        str,
        typer.Option(
            help="Learn from the first part: a share, rows, or both, whichever is less (0.15,750).",
            metavar="SHARE|ROWS",
        ),
    ] = "0.3",
    *,
    device: Annotated[
        bool, typer.Option("--device", help="Take all columns of a file together, as one device.")
    ] = False,
    recovery: Annotated[
        int,
        typer.Option(
            min=0,
            help="Readings after an event that still belong to it: no alarm in them is false.",
        ),
    ] = 60,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw series, bands, labels, episodes and scores into this HTML file."),
    ] = None,
    json: FiguresJson = False,
) -> None:
    """Run the detector over recorded data and state how good its alarms are.

    Without labels, the number of alarms and their reasons are printed.
    """
    settings, _ = load_settings(config)
    if plot:
        check_plots(plot)
    outcome = evaluate_files(
        settings, files, labels, _split(train), device=device, console=open_console(sys.stderr)
    )
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
