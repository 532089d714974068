"""The broker's address, our identity there, and the terms of a connection."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from insa_anomaly.errors import ConfigError

Version = Literal["5", "3.1.1"]


@dataclass(frozen=True)
class Tls:
    """Files in PEM: an authority, and our own certificate and key.

    The authority signed the broker's certificate; None: the authorities of the system.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return a context that verifies the broker and its name. Raises ConfigError."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(file) for file in (self.ca, self.certificate, self.key) if file)
            raise ConfigError(f"TLS cannot be set up from {files}: {error}") from error
        return context


@dataclass(frozen=True)
class Access:
    """The broker's address and our credentials there.

    `client_id` must be ours alone: the broker knows the session by it. `versions` of MQTT are tried
    in this order until the broker answers to a version; that version is then used throughout.
    """

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    keepalive: int = 15
    versions: tuple[Version, ...] = ("5", "3.1.1")


@dataclass(frozen=True)
class Terms:
    """The purpose and limits of a connection.

    `filters`: subscriptions, at QoS 1. `stale_filters`: subscriptions of an earlier run, cancelled
    if they are not in `filters`, because a stored session keeps its subscriptions too. `expiry`:
    seconds for which the broker keeps session and queue while we are disconnected, 0: no session.
    `will`: topic and payload that the broker publishes, retained, when we vanish without a
    DISCONNECT. `linger`: seconds in which messages gather between two reads, which costs as much
    delay and saves most of the reading. `canary`: a topic to which we publish at intervals, to see
    that the message comes back (`Canary`).
    """

    filters: Sequence[str] = ()
    stale_filters: Sequence[str] = ()
    will: tuple[str, bytes] | None = None
    expiry: int = 0
    receive_maximum: int = 1000
    linger: float = 0.002
    canary: str | None = None


@dataclass(frozen=True)
class Backoff:
    """Seconds to wait before the next attempt.

    The wait begins at `first`, doubles up to `most`, and is shortened at random by up to half.
    """

    first: float = 0.25
    most: float = 30.0

    def delay(self, failures: int, chance: float) -> float:
        """Return the wait after `failures` (at least 1) in a row.

        `chance` in [0, 1) prevents many clients from returning all at once.
        """
        return min(self.most, self.first * 2.0 ** min(failures - 1, 30)) * (1.0 - chance / 2)
