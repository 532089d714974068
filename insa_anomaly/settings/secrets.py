"""Passwords and keys: read from files that settings name, never shown."""

import os
import re
from pathlib import Path

from insa_anomaly.errors import ConfigError

SYSTEM_CONFIG = Path("/etc/insa-anomaly/config.yaml")
_CREDENTIAL = "secret_"  # prefix of a credential's file: the units say `LoadCredential=secret:`
_NAMED = re.compile(r"(?<=://)[^/\s]*@")  # before the host of an address
_WORD = re.compile(r"(password\s*=\s*)('(\\.|[^'\\])*'|(\\.|[^\s\\])+)")  # among PostgreSQL's
_PARAMETER = re.compile(r"(password=)([^&\s]*)")  # after the path of an address


def without_secret(address: str) -> str:
    """Return an address as it may be shown: `***` stands for a password."""
    if "://" in address:
        return _PARAMETER.sub(r"\1***", _NAMED.sub("***@", address))
    return _WORD.sub(r"\1***", address)


def credential(path: Path) -> Path:
    """Return where a secret file is.

    A file named without a folder is a credential of systemd, or lies beside the system's
    configuration.
    """
    if len(path.parts) != 1:
        return path
    handed = os.environ.get("CREDENTIALS_DIRECTORY")
    return (
        Path(handed) / f"{_CREDENTIAL}{path}" if handed else SYSTEM_CONFIG.parent / "secrets" / path
    )


def secret(path: Path | None) -> str | None:
    """Return the secret in a file, without the line end. Raises ConfigError."""
    if path is None:
        return None
    path = credential(path)
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the secret in {path} cannot be read: {error}") from error
