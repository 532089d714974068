"""The models on disk, as the settings say."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.errors import ConfigError, ModelFileError
from insa_anomaly.files.sealing import Seal
from insa_anomaly.files.whole import write_whole
from insa_anomaly.settings import Settings, credential, secret


@contextmanager
def model_files(settings: Settings) -> Iterator[ModelFiles]:
    """Open, while the block runs. Raises ConfigError, ModelFileError."""
    models = settings.models
    keys = secret(models.encryption_key_file)
    if models.encryption_key_file and credential(
        models.encryption_key_file
    ).resolve().is_relative_to(models.directory.resolve()):
        raise ConfigError(
            f"models.encryption_key_file lies in {models.directory}, whose files it is to seal, and which backups copy"
        )
    with ModelFiles(
        models.directory, models.key_file, None if keys is None else Seal.of(keys)
    ) as files:
        yield files


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
