"""The models on disk, opened as configured."""

from collections.abc import Iterator
from contextlib import contextmanager

from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.errors import ConfigError
from insa_anomaly.files.sealing import Seal
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.secrets import credential, secret


@contextmanager
def model_files(settings: Settings) -> Iterator[ModelFiles]:
    """Open the models while the block runs. Raises ConfigError or ModelFileError."""
    models = settings.models
    keys = secret(models.encryption_key_file)
    if models.encryption_key_file and credential(
        models.encryption_key_file
    ).resolve().is_relative_to(models.directory.resolve()):
        raise ConfigError(
            f"models.encryption_key_file lies in {models.directory}, whose files it is to seal, "
            "and which backups copy"
        )
    with ModelFiles(
        models.directory, models.key_file, None if keys is None else Seal.of(keys)
    ) as files:
        yield files
