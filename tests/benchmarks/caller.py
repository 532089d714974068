"""Who asks the admin API, as a process: requests over a few connections that stay open, at a pace or one after the other.

Orders come a line each on standard input, each answered by one `Heard`. A request that is due while its connection still waits counts
from when it was due, so that a slow answer is not hidden by the requests it holds back.
"""

import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

_HEAD_END = b"\r\n\r\n"
_ROUNDING = 1e-6  # seconds: what many steps added up may miss the end by


class Call(msgspec.Struct):
    """POST these bodies to the path, round and round: `rate` a second over so many `lines` (None: as fast as answers come)."""

    port: int
    token: str
    path: str
    bodies: list[str]
    seconds: float
    rate: float | None = None
    lines: int = 1


class Heard(msgspec.Struct):
    """Seconds from when each request was due to its answer, ascending; how many answers were no success; seconds of all."""

    latencies: list[float]
    refused: int
    seconds: float


class Line:
    """One connection."""

    def __init__(self, call: Call) -> None:
        self._socket = socket.create_connection(("127.0.0.1", call.port), 30.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._packets = [_packet(call, body.encode()) for body in call.bodies]
        self._asked = 0

    def ask(self) -> bool:
        """One request; whether its answer is a success."""
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
        """Hang up."""
        self._socket.close()


def _packet(call: Call, body: bytes) -> bytes:
    head = (
        f"POST {call.path} HTTP/1.1\r\nHost: plant\r\nAuthorization: Bearer {call.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def one_line(call: Call, number: int) -> tuple[list[float], int]:
    """What one of the lines hears: seconds of each answer, and how many were no success."""
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
    """What all lines hear."""
    began = time.perf_counter()
    with ThreadPoolExecutor(call.lines) as pool:
        heard = list(pool.map(one_line, [call] * call.lines, range(call.lines)))
    latencies = sorted(latency for line, _ in heard for latency in line)
    return Heard(latencies, sum(refused for _, refused in heard), time.perf_counter() - began)


def main() -> None:
    """Be it."""
    for order in sys.stdin.buffer:
        heard = obeyed(msgspec.json.decode(order, type=Call))
        sys.stdout.buffer.write(msgspec.json.encode(heard) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
