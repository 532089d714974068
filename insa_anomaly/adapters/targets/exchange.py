"""A request and its answer over HTTP, bounded in time, bytes and reach.

The addresses come from a configuration. A name is resolved once, every address is checked, and the
connection goes to a checked address: later answers of the name server do not count. No redirect is
followed and no proxy of the environment is used. The standard library is used, because only there
another thread can cut off the whole exchange, however slowly the other side sends.
"""

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

from insa_anomaly.adapters.targets.deadline import bounded
from insa_anomaly.errors import TargetAway

_MOST_BYTES = 4 << 20  # of an answer
# IPv6 addresses that end with an IPv4 address: NAT64 (RFC 6052), compatible (RFC 4291),
# translated (RFC 2765).
_ENDING_IN_IPV4 = [
    ipaddress.IPv6Network(f"{prefix}/96") for prefix in ("64:ff9b::", "::", "::ffff:0:0:0")
]
# Addresses inside a site that the standard library of some Python versions takes for public: local
# NAT64 (RFC 8215), site-local (RFC 3879), documentation (RFC 9637), segment routing (RFC 9602).
_INSIDE = [
    ipaddress.IPv6Network(network)
    for network in ("64:ff9b:1::/48", "fec0::/10", "3fff::/20", "5f00::/16")
]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class HttpResponse:
    """Status, headers with lower-case names, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Exchange:
    """Requests, sent singly. Only public addresses and addresses in `networks` are reached."""

    networks: Sequence[Network] = ()
    deadline: float = 10.0
    ca_file: Path | None = None
    _lock: Lock = field(default_factory=Lock)
    _socket: socket.socket | None = None

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> HttpResponse:
        """Send a request and return the answer.

        Raises TargetAway if no answer comes in time or the address is not allowed.
        """
        try:
            with bounded(self.deadline, self.interrupt):
                return self._send(method, url, headers, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TargetAway(
                f"{urlsplit(url).hostname}: {error or type(error).__name__}"
            ) from error

    def interrupt(self) -> None:
        """End the exchange under way, from another thread."""
        with self._lock:
            if self._socket is not None:
                with suppress(OSError):
                    # On the raw socket: no closing handshake of TLS waits for the other side.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> HttpResponse:
        parts = urlsplit(url)
        if (
            parts.scheme not in {"http", "https"}
            or not parts.hostname
            or parts.username is not None
        ):
            raise ValueError("an address is http(s)://host/path, without a name or password in it")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=self.deadline)
        try:
            connection.sock = self._connected(parts.hostname, port, secure=parts.scheme == "https")
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            host = parts.netloc  # as written in the address, with its port if that is unusual
            connection.request(method, path, body, {"Host": host, "Connection": "close", **headers})
            answer = connection.getresponse()
            content = answer.read(_MOST_BYTES + 1)
            if len(content) > _MOST_BYTES:
                raise ValueError("the answer is too long")
            return HttpResponse(
                answer.status, {name.lower(): value for name, value in answer.getheaders()}, content
            )
        finally:
            connection.close()
            with self._lock:
                connected, self._socket = self._socket, None
            if connected is not None:
                connected.close()

    def _connected(self, host: str, port: int, *, secure: bool) -> socket.socket:
        plain = socket.create_connection(
            (reachable(host, port, self.networks), port), self.deadline
        )
        self._watch(plain)
        if not secure:
            return plain
        plain.settimeout(self.deadline)
        wrapped = ssl.create_default_context(cafile=self.ca_file).wrap_socket(
            plain, server_hostname=host, do_handshake_on_connect=False
        )
        self._watch(wrapped)
        wrapped.do_handshake()
        return wrapped

    def _watch(self, connected: socket.socket) -> None:
        with self._lock:
            self._socket = connected


def reachable(host: str, port: int, networks: Sequence[Network]) -> str:
    """Return the first address of a name.

    Raises ValueError if any of its addresses is not allowed.
    """
    found = [str(where[0]) for *_, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not allowed(ipaddress.ip_address(address.partition("%")[0]), networks):
            raise ValueError(f"{address} is no public address, and none of alerts.allowed_networks")
    return found[0]


def allowed(address: Address, networks: Sequence[Network]) -> bool:
    """Return whether an address may be reached: it is public or in a listed network."""
    meant = _meant(address)
    listed = any(
        one in network
        for one in (address, meant)
        for network in networks
        if one.version == network.version
    )
    inside = meant.is_multicast or any(meant in network for network in _INSIDE)
    return listed or (meant.is_global and not inside)


def _meant(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if address.version == 4:
        return address
    if any(address in network for network in _ENDING_IN_IPV4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)
