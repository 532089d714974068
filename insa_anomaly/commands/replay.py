"""The command `replay`: recordings published through the broker."""

import sys
from pathlib import Path

import typer

from insa_anomaly.commands.options import Config, argument, flag, load_for_use, option
from insa_anomaly.wiring.broker import feeder
from insa_anomaly.wiring.clock import clock
from insa_anomaly.workbench.progress import open_console
from insa_anomaly.workbench.recordings import recording
from insa_anomaly.workbench.recordings.replay import replay

INTERRUPTED = 130  # a shell's word for Ctrl-C


def replay_command(
    files: list[Path] = argument(
        "Recorded: `timestamp,value`, or a column per metric; `,` `;` or tab; .gz too."
    ),
    config: Config = None,
    device: str | None = option("Device the readings are published as [default: the file's name]."),
    metric: str | None = option("Metric of a file with one column of values."),
    speed: float | None = option(
        "Times as fast as recorded [default: as fast as possible].", min=0.001
    ),
    *,
    shift_to_now: bool = flag("Move all timestamps so that the last is now.", "--shift-to-now"),
    exclude: str = option(
        "Columns that are not readings, separated by commas.", default=",".join(recording.LABELS)
    ),
) -> None:
    """Publish recorded readings through the broker, keeping their timestamps."""
    settings, _ = load_for_use(config)
    excluded = [name.strip() for name in exclude.split(",") if name.strip()]
    recordings = recording.inspect_all(files, device, metric, excluded)
    console = open_console(sys.stderr)
    with feeder(settings.broker, "replay") as publisher:
        shift_to = clock.now() if shift_to_now else None
        counts = replay(recordings, publisher, console, speed=speed, shift_to=shift_to)
    raise typer.Exit(INTERRUPTED if counts.stopped else 1 if counts.unacknowledged else 0)
