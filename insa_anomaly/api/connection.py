"""One connection of the admin port: a request that does not come whole in time ends it, and there are only so many of them.

uvicorn itself bounds the pause between two requests, but neither the wait for the first one nor the time that one may take to come.
"""

from asyncio import AbstractEventLoop, BaseTransport, Handle, TimerHandle, Transport
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from insa_anomaly import instrumentation

CONNECTIONS_MOST = 500  # each takes a file descriptor, which the log and the database need too
HELD_MOST = 65_536  # bytes of an answer that wait for the rest of it
_WHOLE = frozenset({h11.DONE, h11.MUST_CLOSE, h11.CLOSED})  # of a request: its end has been read


class Gathering:
    """A transport that sends the head of an answer and its body at once, within the same turn of the loop.

    uvicorn writes them apart. Every call of the system lets another thread have the interpreter, and beside a busy stream it comes back
    milliseconds later.
    """

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = bytearray()
        self._due: Handle | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - all else is the transport's
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it with what follows, if that comes soon."""
        self._held += data
        if len(self._held) > HELD_MOST:
            self.flush()
        elif data and self._due is None:
            self._due = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is held."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        held, self._held = self._held, bytearray()
        if held:
            self._transport.write(held)

    def close(self) -> None:
        """Hang up after that."""
        self.flush()
        self._transport.close()


def impatient(seconds: float) -> type[H11Protocol]:
    """The class of connections on which a request must have come whole within so many seconds of the connection, or of its first byte."""

    class Impatient(H11Protocol):
        """Such a connection."""

        def __init__(self, *given: Any, **named: Any) -> None:  # noqa: ANN401 - what uvicorn gives
            super().__init__(*given, **named)
            self._overdue: TimerHandle | None = None

        def connection_made(self, transport: BaseTransport) -> None:
            """Take it, if there are not too many."""
            assert isinstance(transport, Transport)  # noqa: S101 - of a stream
            self._gathering = Gathering(transport, self.loop)
            super().connection_made(cast("Transport", self._gathering))
            if len(self.connections) > CONNECTIONS_MOST:
                transport.abort()
            else:
                self._wait()

        def data_received(self, data: bytes) -> None:
            """Some of a request, or all of it."""
            super().data_received(data)
            if self.conn.their_state in _WHOLE:
                self._calm()
            else:
                self._wait()

        def on_response_complete(self) -> None:
            """The answer is whole; some of the next request may have come behind the last one."""
            self._gathering.flush()
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            """It is over."""
            self._calm()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._overdue = self._overdue or self.loop.call_later(seconds, self._give_up)

        def _calm(self) -> None:
            if self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None

        def _give_up(self) -> None:
            instrumentation.request_too_slow(self.client[0] if self.client else "", seconds)
            self.transport.abort()

    return Impatient
