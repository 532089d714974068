"""Names of the port: a request that was meant for another host is refused on every route.

A page of a stranger's site can let its own name resolve to this machine (DNS rebinding), and a
browser inside the plant then asks the port in that page's name. The Host header tells such a
request from others, because a page cannot change it.
"""

from collections.abc import Collection
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from insa_anomaly.api.problems import answer

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Hosts:
    """Middleware that passes on requests to one of `names`, or to the address they arrived at."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        self._names = {name.lower().rstrip(".") for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).getlist("host")
        host = host_name(given[0]) if len(given) == 1 else None
        if host is not None and (host in self._names or host == _arrived_at(scope)):
            await self._app(scope, receive, send)
            return
        named = repr(host) if host else "no host"
        detail = f"this port does not answer for {named}; http.hosts lists the names it answers for"
        await answer(421, detail)(scope, receive, send)


def host_name(header: str) -> str | None:
    """Return the host of a Host header, without port and brackets, in lower case; None if unfit."""
    host, bracket, port = header.partition("]")
    if not bracket:
        host, _, port = header.partition(":")
    elif not host.startswith("["):
        return None
    elif port:
        port = port[1:] if port.startswith(":") else "unfit"
    if port and not port.isdecimal():
        return None
    return _canonical(host.removeprefix("[")) or None


def _canonical(host: str) -> str:
    try:
        return ip_address(host).compressed
    except ValueError:
        return host.lower().rstrip(".")


def _arrived_at(scope: Scope) -> str | None:
    """Return the address of this end of the connection: no name of a stranger resolves to it."""
    server = scope.get("server")
    return None if server is None else _canonical(str(server[0]))
