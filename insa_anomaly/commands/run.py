"""The command `run`: the daemon."""

import typer

from insa_anomaly.commands.options import Config, load_for_use
from insa_anomaly.processes import daemon


def run_command(config: Config = None) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    raise typer.Exit(daemon.run(*load_for_use(config)))
