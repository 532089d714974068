"""The command `export`: the files of a model, verified and unsealed."""

from pathlib import Path

from insa_anomaly.errors import ModelFileError
from insa_anomaly.files.whole import write_whole
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring.models import model_files


def export_model(settings: Settings, model_id: str, target: Path) -> list[Path]:
    """Copy the files of a model into a folder, verified and unsealed; answers where they are. Raises ConfigError, ModelFileError."""
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
