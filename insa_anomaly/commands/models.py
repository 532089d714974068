"""The commands `models` and `export`: list the models, and copy the files of a model."""

from datetime import UTC, datetime
from pathlib import Path

import typer

from insa_anomaly.commands.options import Config, Json, argument, as_json, load_for_use
from insa_anomaly.errors import ModelFileError
from insa_anomaly.files.whole import write_whole
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring.models import model_files


def export_model(settings: Settings, model_id: str, target: Path) -> list[Path]:
    """Copy the files of a model into a folder, verified and unsealed; return their paths.

    Raises ConfigError or ModelFileError.
    """
    with model_files(settings) as files:
        contents = files.contents(model_id)
    paths = [target / name for name in contents]
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in paths:
            write_whole(path, contents[path.name])
    except OSError as error:
        raise ModelFileError(f"{target} cannot be written: {error}") from error
    return paths


def models_command(config: Config = None, *, json: Json = False) -> None:
    """List the models on disk, newest first."""
    settings, _ = load_for_use(config)
    with model_files(settings) as files:
        found = files.rows()
    if json:
        typer.echo(as_json(found))
        return
    for row in found:
        trained = datetime.fromtimestamp(row.trained_at / 1e6, UTC)
        known = f"{row.status}  {trained:%Y-%m-%d %H:%M}  {row.training_samples:,} readings"
        typer.echo(f"{row.device_id}/{row.metric_name}  v{row.version}  {known}  {row.id}")
    if not found:
        typer.echo(
            "no models yet: series train themselves once they have readings enough, or use "
            "`insa-anomaly train`"
        )


def export_command(
    model_id: str = argument("Its id, as `insa-anomaly models` prints it.", metavar="MODEL"),
    target: Path = argument(
        "Where its files go; made if need be.", metavar="FOLDER", file_okay=False
    ),
    config: Config = None,
) -> None:
    """Copy the files of a model, verified and unsealed.

    Open a pickle from there, never from the folder of the models.
    """
    settings, _ = load_for_use(config)
    for path in export_model(settings, model_id, target):
        typer.echo(path)
