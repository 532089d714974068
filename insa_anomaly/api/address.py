"""The admin port's socket and certificate; no code here needs the application behind the port."""

import socket
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from insa_anomaly.errors import AddressInUse, ConfigError
from insa_anomaly.instrumentation.admin_port import port_unprotected

WAITING_MOST = 2048  # connections that are not accepted yet


@dataclass(frozen=True)
class Certificate:
    """The port's own certificate and its key, files in PEM."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Raise ConfigError if the certificate or its key cannot be used."""
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                self.certificate, self.key
            )
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the HTTP port cannot speak TLS with {self.certificate} and {self.key}: {error}"
            ) from error


def is_loopback(host: str) -> bool:
    """Report whether `host` can be reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; connections wait until they are accepted.

    Raises AddressInUse.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, else asyncio leaves Nagle's 40 ms in every answer.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(WAITING_MOST)
    except OSError as error:
        bound.close()
        message = (
            f"the HTTP port {host}:{port} cannot be had ({error.strerror}):"
            " stop what holds it, or set http.port"
        )
        raise AddressInUse(message) from error
    return bound


def warn_unprotected(host: str, certificate: Certificate | None) -> None:
    """Warn if keys would cross the network unencrypted."""
    if certificate is None and not is_loopback(host):
        port_unprotected(host)
