"""The certificates in use: the broker's last, and the daemon's own as read at its start.

A file that was renewed since counts from the next start on, which reads it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from insa_anomaly.core.operations.certificate import ends_of_pem, expires
from insa_anomaly.errors import ConfigError
from insa_anomaly.runtime.certificates import Certificates
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring.clock import clock


class Peer(Protocol):
    """A connection to the broker."""

    @property
    def certificate(self) -> bytes | None:
        """The broker's last certificate, in DER."""


def certificates(settings: Settings, peer: Peer) -> Certificates:
    """Return the watch over all configured certificates.

    Raises ConfigError for a file that cannot be read.
    """
    ends: dict[str, Callable[[], int | None]] = {
        "broker": lambda: None if peer.certificate is None else expires(peer.certificate)
    }
    own = {"client": settings.broker.certificate_file, "http": settings.http.certificate_file}
    for use, file in own.items():
        if file is not None:
            ends[use] = partial(_unchanged, _first_end(file))
    return Certificates(ends, clock)


def _unchanged(end: int | None) -> int | None:
    return end


def _first_end(file: Path) -> int | None:
    """Return the end of the certificate in a chain that ends first."""
    try:
        return min(ends_of_pem(file.read_bytes()), default=None)
    except OSError as error:
        raise ConfigError(f"the certificate {file} cannot be read: {error.strerror}") from error
