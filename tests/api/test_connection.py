"""The admin port limits connections and the time of a request."""

import asyncio
import socket
import time
from asyncio import Transport
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import cast

import pytest
from fastapi import FastAPI, Request

from insa_anomaly.api import app, connection
from insa_anomaly.api.address import listen
from tests.api.office import well

PATIENCE = 0.4
HEAD = b"POST /echo HTTP/1.1\r\nHost: plant\r\nContent-Length: 10\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Serve a port of little patience, where /echo returns the body it was sent."""
    application: FastAPI = app.create("1.2.3", well, hosts=["plant"])

    @application.post("/echo")
    async def echo(request: Request) -> str:
        return (await request.body()).decode()

    with app.served(application, listen("127.0.0.1", 0), request_seconds=PATIENCE) as served:
        yield served


def ended_after(line: socket.socket, drop: bytes) -> float:
    """Return the seconds until the other side ends a connection that sends a drop now and then."""
    line.settimeout(0.1)
    began = time.monotonic()
    while time.monotonic() < began + 10.0:
        try:
            line.sendall(drop)
            if not line.recv(100):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


def answer(line: socket.socket) -> bytes:
    """Return the body of the next answer, which comes after its head."""
    said = b""
    while not said.endswith(b'"'):
        said += line.recv(1000)
    return said.rpartition(b"\r\n")[2]


@pytest.mark.parametrize(
    ("head", "drop"),
    [(b"", b""), (b"POST /ec", b"h"), (HEAD, b"x-a: b\r\n"), (HEAD + b"\r\n", b"1")],
)
def test_who_sends_drop_by_drop_is_cut_off(port: int, head: bytes, drop: bytes) -> None:
    """A slow client is cut off at any point of its request.

    Examples are no byte at all, a line without end, headers without end and a slow body.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(head)
        assert PATIENCE / 2 < ended_after(line, drop) < 5.0


def test_who_is_slow_between_requests_is_not(port: int) -> None:
    """Each request has its own time, and a request that came in two parts is answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        for _ in range(3):
            line.sendall(HEAD + b"\r\n12345")
            time.sleep(PATIENCE / 2)
            line.sendall(b"67890")
            assert answer(line) == b'"1234567890"'
            time.sleep(PATIENCE)


def test_the_part_of_a_request_that_came_with_the_one_before_counts(port: int) -> None:
    """A second request in the same packet, without its end, has a limited time."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(HEAD + b"\r\n1234567890" + HEAD + b"\r\n1")
        assert answer(line) == b'"1234567890"'
        assert ended_after(line, b"") < 5.0


def test_there_are_only_so_many(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection beyond the limit is closed at once, and the others continue."""
    time.sleep(0.2)  # the connections of other tests are gone
    monkeypatch.setattr(connection, "CONNECTIONS_MOST", 2)
    with ExitStack() as stack:
        lines = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(3)
        ]
        assert lines[2].recv(1) == b""
        for line in lines[:2]:
            line.sendall(HEAD + b"\r\n1234567890")
            assert answer(line) == b'"1234567890"'


class Wire:
    """A transport that records the calls it receives."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        """Record the data."""
        self.told.append(bytes(data))

    def close(self) -> None:
        """Record the end."""
        self.told.append("closed")


def told(write: Callable[[connection.Gathering], None]) -> list[bytes | str]:
    """Return the calls that the transport behind `Gathering` receives, by turn of the loop."""
    wire = Wire()

    async def written() -> None:
        write(connection.Gathering(cast("Transport", wire), asyncio.get_running_loop()))
        wire.told.append("next turn")
        await asyncio.sleep(0)

    asyncio.run(written())
    return wire.told


def test_head_and_body_are_sent_at_once() -> None:
    """A whole answer is sent at once, in a single write.

    A part of an answer is not held beyond the turn, nor is an answer that grows too long.
    """

    def whole(line: connection.Gathering) -> None:
        line.write(b"head ")
        line.write(b"body")
        line.write(b"")
        line.flush()

    def long(line: connection.Gathering) -> None:
        line.write(b"head")
        line.write(bytes(connection.HELD_MOST))

    assert told(whole) == [b"head body", "next turn"]
    assert told(lambda line: line.write(b"head")) == ["next turn", b"head"]
    assert told(long) == [b"head" + bytes(connection.HELD_MOST), "next turn"]


def test_what_is_written_before_the_end_is_sent() -> None:
    """Closing sends the held bytes first."""

    def ending(line: connection.Gathering) -> None:
        line.write(b"last words")
        line.close()

    assert told(ending) == [b"last words", "closed", "next turn"]
