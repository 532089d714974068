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
    directory, file = settings.models.directory, settings.models.encryption_key_file
    keys = secret(file)
    if file and credential(file).resolve().is_relative_to(directory.resolve()):
        raise ConfigError(
            f"models.encryption_key_file lies in {directory}, whose files it is to seal, "
            "and which backups copy"
        )
    seal = None if keys is None else Seal.of(keys)
    with ModelFiles(directory, settings.models.key_file, seal) as files:
        yield files
