"""The command `replay`: recordings published through the broker."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from insa_anomaly.commands.options import Config, load_for_use
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring.broker import feeder
from insa_anomaly.wiring.clock import clock
from insa_anomaly.workbench.progress import open_console
from insa_anomaly.workbench.recordings import recording
from insa_anomaly.workbench.recordings.recording import Recording
from insa_anomaly.workbench.recordings.replay import ReplayCounts, replay


def replay_recordings(
    settings: Settings,
    recordings: Sequence[Recording],
    speed: float | None,
    *,
    shift_to_now: bool,
    console: Console,
) -> ReplayCounts:
    """Publish the recordings; return the counts."""
    with feeder(settings.broker, "replay") as publisher:
        return replay(
            recordings,
            publisher,
            console,
            speed=speed,
            shift_to=clock.now() if shift_to_now else None,
        )


INTERRUPTED = 130  # a shell's word for Ctrl-C


def replay_command(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Recorded: `timestamp,value`, or a column per metric; `,` `;` or tab; .gz too."
        ),
    ],
    config: Config = None,
    device: Annotated[
        str | None,
        typer.Option(help="Device the readings are published as [default: the file's name]."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Metric of a file with one column of values.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.001, help="Times as fast as recorded [default: as fast as possible]."),
    ] = None,
    *,
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="Move all timestamps so that the last is now.")
    ] = False,
    exclude: Annotated[
        str, typer.Option(help="Columns that are not readings, separated by commas.")
    ] = ",".join(recording.LABELS),
) -> None:
    """Publish recorded readings through the broker, keeping their timestamps."""
    settings, _ = load_for_use(config)
    recordings = recording.inspect_all(
        files, device, metric, [name.strip() for name in exclude.split(",") if name.strip()]
    )
    counts = replay_recordings(
        settings, recordings, speed, shift_to_now=shift_to_now, console=open_console(sys.stderr)
    )
    raise typer.Exit(INTERRUPTED if counts.stopped else 1 if counts.unacknowledged else 0)
