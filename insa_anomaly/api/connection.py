"""Limits on the admin port's connections: their number, and the time in which a request arrives.

uvicorn bounds the pause between two requests, but neither the wait for the first request nor the
time that a request may take to arrive.
"""

from asyncio import AbstractEventLoop, BaseTransport, Handle, TimerHandle, Transport
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from insa_anomaly.instrumentation.admin_port import request_too_slow

CONNECTIONS_MOST = 500  # each takes a file descriptor, which the log and the database need too
HELD_MOST = 65_536  # bytes of an answer that wait for its rest
_WHOLE = frozenset({h11.DONE, h11.MUST_CLOSE, h11.CLOSED})  # states after the end of a request


class Gathering:
    """A transport that sends the head and the body of an answer together, in a single loop turn.

    uvicorn writes the two separately. Every system call lets another thread take the interpreter,
    and beside a busy stream the interpreter comes back milliseconds later.
    """

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = bytearray()
        self._due: Handle | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - all else is the transport's
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data`, together with the data that follows in the same turn of the loop."""
        self._held += data
        if len(self._held) > HELD_MOST:
            self.flush()
        elif data and self._due is None:
            self._due = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send the held data."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        held, self._held = self._held, bytearray()
        if held:
            self._transport.write(held)

    def close(self) -> None:
        """Send the held data, then close the connection."""
        self.flush()
        self._transport.close()


def impatient(seconds: float) -> type[H11Protocol]:
    """Return the class of connections on which a request must arrive within `seconds`.

    The time starts with the connection or, for a later request, with its first byte.
    """

    class Impatient(H11Protocol):
        """A connection with a time limit for every request."""

        def __init__(self, *given: Any, **named: Any) -> None:  # noqa: ANN401 - uvicorn's own
            super().__init__(*given, **named)
            self._overdue: TimerHandle | None = None

        def connection_made(self, transport: BaseTransport) -> None:
            """Accept the connection, unless there are too many."""
            assert isinstance(transport, Transport)  # noqa: S101 - TCP has no other
            self._gathering = Gathering(transport, self.loop)
            super().connection_made(cast("Transport", self._gathering))
            if len(self.connections) > CONNECTIONS_MOST:
                transport.abort()
            else:
                self._wait()

        def data_received(self, data: bytes) -> None:
            """Process a part of a request, and run the timer until the request is whole."""
            super().data_received(data)
            if self.conn.their_state in _WHOLE:
                self._calm()
            else:
                self._wait()

        def on_response_complete(self) -> None:
            """Send the held answer, and time the next request if a part of it has arrived."""
            self._gathering.flush()
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            """Stop the timer of a closed connection."""
            self._calm()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._overdue = self._overdue or self.loop.call_later(seconds, self._give_up)

        def _calm(self) -> None:
            if self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None

        def _give_up(self) -> None:
            request_too_slow(self.client[0] if self.client else "", seconds)
            self.transport.abort()

    return Impatient
