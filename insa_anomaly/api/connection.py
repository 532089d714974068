"""One connection of the admin port: a request that does not come whole in time ends it, and there are only so many of them.

uvicorn itself bounds the pause between two requests, but neither the wait for the first one nor the time that one may take to come.
"""

from asyncio import BaseTransport, TimerHandle, Transport
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from insa_anomaly import instrumentation

CONNECTIONS_MOST = 500  # each takes a file descriptor, which the log and the database need too
_WHOLE = frozenset({h11.DONE, h11.MUST_CLOSE, h11.CLOSED})  # of a request: its end has been read


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
            super().connection_made(transport)
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
            """The answer is out; some of the next request may have come behind the last one."""
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
