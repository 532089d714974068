"""The certificates in use: the broker's, as it showed it last, and our own, as they were when the daemon started.

A file that was renewed since counts from the next start on: that is when it is read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from insa_anomaly.core.operations.certificate import ends_of_pem, expires
from insa_anomaly.errors import ConfigError
from insa_anomaly.runtime.certificates import Certificates
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring import clock


class Peer(Protocol):
    """A connection to the broker."""

    @property
    def certificate(self) -> bytes | None:
        """What the broker showed last, in DER."""


def certificates(settings: Settings, peer: Peer) -> Certificates:
    """All that are configured. Raises ConfigError for a file that cannot be read."""
    ends: dict[str, Callable[[], int | None]] = {
        "broker": lambda: None if peer.certificate is None else expires(peer.certificate)
    }
    for of, file in (
        ("client", settings.broker.certificate_file),
        ("http", settings.http.certificate_file),
    ):
        if file is not None:
            ends[of] = _known(_first_end(file))
    return Certificates(ends, clock.now)


def _known(end: int | None) -> Callable[[], int | None]:
    return lambda: end


def _first_end(file: Path) -> int | None:
    """Of a chain, the link that ends first."""
    try:
        return min(ends_of_pem(file.read_bytes()), default=None)
    except OSError as error:
        raise ConfigError(f"the certificate {file} cannot be read: {error.strerror}") from error
