"""Options and steps that the commands share: the configuration, JSON, failure."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from insa_anomaly.errors import InsaError
from insa_anomaly.instrumentation.logger import set_up_logging
from insa_anomaly.settings.load import Settings, load
from insa_anomaly.wiring import storage

ALREADY_RUNNING = 75  # sysexits' EX_TEMPFAIL


# Typer takes and gives any type.
def option(text: str, *names: str, default: Any = None, **more: Any) -> Any:  # noqa: ANN401
    """Return an option of a command, with its help."""
    return typer.Option(default, *names, help=text, **more)


flag = partial(option, default=False)


def argument(text: str, default: Any = ..., **more: Any) -> Any:  # noqa: ANN401
    """Return an argument of a command, with its help."""
    return typer.Argument(default, help=text, **more)


def as_json(said: object) -> str:
    """Return JSON on a single line."""
    return msgspec.json.encode(said).decode()


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Configuration file [default: $INSA_CONFIG, else /etc/insa-anomaly/config.yaml, "
        "else built-in values].",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
FiguresJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the figures as one JSON object last; the rest goes to standard error."
    ),
]


def load_settings(path: Path | None) -> tuple[Settings, str]:
    """Load the configuration and set up logging as it says. Raises ConfigError."""
    settings, source = load(path)
    set_up_logging(settings.logging.level, settings.logging.form)
    return settings, source


def load_for_use(path: Path | None) -> tuple[Settings, str]:
    """Load the configuration for a command that writes into the storage directory."""
    settings, source = load_settings(path)
    storage.check_owner(settings.storage.directory)
    return settings, source


def fail(error: InsaError, status: int) -> NoReturn:
    """End the command with a line on standard error for each line of the error."""
    for line in str(error).splitlines():
        sys.stderr.write(f"insa-anomaly: {line}\n")
    sys.exit(status)
