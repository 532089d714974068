"""Passwords and keys: read from files that settings name, never shown."""

import os
import re
from pathlib import Path

from insa_anomaly.errors import ConfigError

SYSTEM_CONFIG = Path("/etc/insa-anomaly/config.yaml")


_CREDENTIAL = "secret_"  # what systemd puts before the names of files of a folder; the units' `LoadCredential=secret:`


_NAMED = re.compile(r"(?<=://)[^/\s]*@")  # before the host of an address


_WORD = re.compile(r"(password\s*=\s*)('(\\.|[^'\\])*'|(\\.|[^\s\\])+)")  # among PostgreSQL's


_PARAMETER = re.compile(r"(password=)([^&\s]*)")  # after the path of an address


def without_secret(address: str) -> str:
    """An address as it may be shown: `***` where a password, or a name with one, stands."""
    if "://" in address:
        return _PARAMETER.sub(r"\1***", _NAMED.sub("***@", address))
    return _WORD.sub(r"\1***", address)


def credential(path: Path) -> Path:
    """Where a secret file is: one named by its name alone is what systemd hands over, else it lies with the system's configuration."""
    if len(path.parts) != 1:
        return path
    handed = os.environ.get("CREDENTIALS_DIRECTORY")
    return (
        Path(handed) / f"{_CREDENTIAL}{path}" if handed else SYSTEM_CONFIG.parent / "secrets" / path
    )


def secret(path: Path | None) -> str | None:
    """The secret in a file, without the line end. Raises ConfigError."""
    if path is None:
        return None
    path = credential(path)
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the secret in {path} cannot be read: {error}") from error
