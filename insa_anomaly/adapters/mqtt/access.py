"""Where the broker is, who we are to it, and what we want of it."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from insa_anomaly.errors import ConfigError

Version = Literal["5", "3.1.1"]


@dataclass(frozen=True)
class Tls:
    """Files in PEM: the authority that signed the broker's certificate (None: those of the system), and our own certificate and key."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """A context that verifies the broker and its name. Raises ConfigError."""
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
    """The broker's address, and what we present there. `client_id` must be ours alone: the broker knows the session by it.

    `versions` of MQTT are tried in this order until the broker answers to one, which is then kept to.
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
    """What a connection is for.

    `filters`: what to subscribe to, at QoS 1; `stale_filters`: what an earlier run subscribed to, to be given up where it is not
    in `filters`: a kept session keeps its subscriptions too. `expiry`: seconds the broker keeps session and queue while we are
    away, 0: no session. `will`: topic and payload the broker publishes, retained, when we are gone without a word.
    `linger`: seconds to let messages gather between two reads, which costs as much delay and saves most of the reading.
    `canary`: a topic to which we publish now and then, to see that it comes back (`Canary`).
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
    """Seconds to wait before the next attempt: from `first`, doubled each time, up to `most`, less up to half of it by chance."""

    first: float = 0.25
    most: float = 30.0

    def delay(self, failures: int, chance: float) -> float:
        """After so many failures in a row (at least 1); `chance` in [0, 1) keeps many clients from coming back all at once."""
        return min(self.most, self.first * 2.0 ** min(failures - 1, 30)) * (1.0 - chance / 2)
