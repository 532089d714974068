"""Rules for every request: bodies are limited, answers not cached, their types not guessed."""

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from insa_anomaly.api.problems import answer

BODY_BYTES = 1_000_000
_TOO_LARGE = f"a body may have {BODY_BYTES} bytes"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'",
}
_TLS_HEADERS = {"Strict-Transport-Security": "max-age=31536000"}


class Shell:
    """Middleware that applies the limit on bodies and the common headers to an application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        marked = _Marked(
            send, _HEADERS if scope.get("scheme") == "http" else {**_HEADERS, **_TLS_HEADERS}
        )
        if _announced(scope) > BODY_BYTES:
            await answer(413, _TOO_LARGE)(scope, receive, marked)
        else:
            await self._app(scope, _Limited(receive), marked)


class _Limited:
    """Receiver that refuses a body beyond the limit."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._had = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._had += len(message.get("body", b""))
        if self._had > BODY_BYTES:
            raise HTTPException(413, _TOO_LARGE)
        return message


class _Marked:
    """Sender that adds the common headers to every answer."""

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send = send
        self._headers = headers

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(self._headers)
        await self._send(message)


def _announced(scope: Scope) -> int:
    said = dict(scope["headers"]).get(b"content-length", b"0")
    return int(said) if said.isdigit() else 0
