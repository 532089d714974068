"""The client of the admin API, as a process: requests over open connections, at a pace or in turn.

Orders come as lines on standard input, and each is answered by a `Heard`. A request that is due
while its connection still waits counts from the time at which it was due, so that a slow answer is
not hidden by the requests that it delays.
"""

import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

_HEAD_END = b"\r\n\r\n"
_ROUNDING = 1e-6  # seconds: the largest error of many added steps at the end


class Call(msgspec.Struct):
    """An order to POST these bodies to the path in turn, over a number of `lines`.

    `rate` is requests a second, or None: as fast as answers come.
    """

    port: int
    token: str
    path: str
    bodies: list[str]
    seconds: float
    rate: float | None = None
    lines: int = 1


class Heard(msgspec.Struct):
    """Result of an order: seconds from the due time of each request to its answer, ascending.

    `refused` counts the answers that are no success; `seconds` is the duration of the whole order.
    """

    latencies: list[float]
    refused: int
    seconds: float


class Line:
    """A connection to the admin API."""

    def __init__(self, call: Call) -> None:
        self._socket = socket.create_connection(("127.0.0.1", call.port), 30.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._packets = [_packet(call, body.encode()) for body in call.bodies]
        self._asked = 0

    def ask(self) -> bool:
        """Send a request; return whether its answer is a success."""
        self._socket.sendall(self._packets[self._asked % len(self._packets)])
        self._asked += 1
        head, _, said = self._until(_HEAD_END).partition(_HEAD_END)
        left = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]) - len(said)
        while left > 0:
            left -= len(self._socket.recv(min(left, 1 << 20)))
        return head.startswith(b"HTTP/1.1 200")

    def _until(self, mark: bytes) -> bytes:
        said = b""
        while mark not in said:
            more = self._socket.recv(1 << 16)
            if not more:
                message = "the daemon hung up"
                raise ConnectionError(message)
            said += more
        return said

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _packet(call: Call, body: bytes) -> bytes:
    head = (
        f"POST {call.path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {call.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def one_line(call: Call, number: int) -> tuple[list[float], int]:
    """Return the seconds of each answer on a line, and the number of unsuccessful answers."""
    line, found, refused = Line(call), list[float](), 0
    step = call.lines / call.rate if call.rate else 0.0
    began = time.perf_counter() + step * number / call.lines
    due, end = began, began + call.seconds - _ROUNDING
    while due < end:
        time.sleep(max(0.0, due - time.perf_counter()))
        refused += not line.ask()
        now = time.perf_counter()
        found.append(now - due)
        due = due + step if step else now
    line.close()
    return found, refused


def obeyed(call: Call) -> Heard:
    """Carry out an order over all its lines."""
    began = time.perf_counter()
    with ThreadPoolExecutor(call.lines) as pool:
        heard = list(pool.map(one_line, [call] * call.lines, range(call.lines)))
    latencies = sorted(latency for line, _ in heard for latency in line)
    return Heard(latencies, sum(refused for _, refused in heard), time.perf_counter() - began)


def main() -> None:
    """Carry out the orders from standard input."""
    for order in sys.stdin.buffer:
        heard = obeyed(msgspec.json.decode(order, type=Call))
        sys.stdout.buffer.write(msgspec.json.encode(heard) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
