"""The plant of the benchmark as a process: it publishes rounds of readings over a bare socket.

The publisher works at a pace or as fast as it may. It costs 2 us of CPU a message, so that the two
cores are left to the broker, the database and the daemon.

Orders come as lines on standard input. The first line names the broker (`Place`), then come
`Order`s, each answered by a `Done`. While an order runs, lines `{"dealt_with": n}` report how many
of all messages sent have come out at the other end.
"""

import os
import select
import socket
import sys
import time
from io import FileIO

import msgspec
import numpy as np

from tests.benchmarks.packets import Packets, connect
from tests.benchmarks.signals import SERIES, SPIKE, Stream, keys

_UNANSWERED = 20_000  # messages without PUBACK, at most
_TOGETHER = 250  # messages in one piece, at most
_TICK = 0.001  # seconds between two checks of the clock where there is a pace


class Place(msgspec.Struct):
    """Address of the broker, and a user that it admits."""

    host: str
    port: int
    user: str
    password: str


class Order(msgspec.Struct):
    """An order to publish `messages`, with a share of `spikes` among them.

    `rate` is messages a second, or None: as fast as possible, at most `window` messages ahead of
    progress. A series that had a spike has no other for `quiet` readings: by default enough for
    each spike to open an episode of its own.
    """

    messages: int
    rate: float | None = None
    window: int | None = None
    spikes: float = 0.0
    quiet: int = 40


class Done(msgspec.Struct):
    """A report that all messages are acknowledged; times are microseconds since the epoch."""

    messages: int
    spikes: int
    began: int
    ended: int
    cpu_seconds: float


class Progress(msgspec.Struct):
    """Number of all sent messages that have come out at the other end."""

    dealt_with: int


class Publisher:
    """A connection to the broker."""

    def __init__(self, place: Place, orders: FileIO, series: int = SERIES) -> None:
        self._orders = orders
        self._packets = Packets(keys(series))
        self._stream = Stream(series)
        self._series = series
        self._values = np.zeros(series)
        self._since_spike = np.full(series, 1 << 30)
        self._random = np.random.default_rng(4)
        self._sent = self._answered = self._dealt_with = self._spikes = self._last = 0
        self._half = 0  # bytes of a PUBACK that is not complete
        self._socket = socket.create_connection((place.host, place.port), 10.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(connect(f"plant-{os.getpid()}", place.user, place.password))
        answer = self._socket.recv(4)
        if answer != b"\x20\x02\x00\x00":
            message = f"the broker answers {answer!r}"
            raise ConnectionError(message)

    def obey(self, order: Order) -> Done:
        """Publish the ordered messages."""
        cpu, began, before, spikes = (
            time.process_time(),
            time.time_ns() // 1000,
            self._sent,
            self._spikes,
        )
        start, ahead = time.monotonic(), self._sent
        while self._answered < before + order.messages:
            due = (
                order.messages
                if order.rate is None
                else min(order.messages, int((time.monotonic() - start) * order.rate) + 1)
            )
            room = min(
                before + due,
                self._answered + _UNANSWERED,
                (order.window or 1 << 62) + max(self._dealt_with, ahead),
            )
            self._publish(min(room - self._sent, _TOGETHER), order)
            self._rest(paced=order.rate is not None, more=self._sent < room)
        return Done(
            order.messages,
            self._spikes - spikes,
            began,
            time.time_ns() // 1000,
            time.process_time() - cpu,
        )

    def _rest(self, *, paced: bool, more: bool) -> None:
        """Read PUBACKs.

        A pace is kept by the clock alone, because every PUBACK would end a wait for them.
        """
        if paced and not more:
            time.sleep(_TICK)
        self._listen(0.0 if paced or more else _TICK)

    def _publish(self, most: int, order: Order) -> None:
        place = self._sent % self._series
        rows = slice(place, min(place + most, self._series))
        if most <= 0:
            return
        self._last = now = max(self._last + 1, time.time_ns() // 1000)
        if place == 0:
            self._values = self._stream.round(now)
            self._since_spike += 1
        packets = self._packets.built(rows, self._with_spikes(rows, order), now, self._sent % 65535)
        self._socket.sendall(packets)
        self._sent += rows.stop - place

    def _with_spikes(
        self, rows: slice, order: Order
    ) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        values = self._values[rows]
        chosen = (self._random.random(len(values)) < order.spikes) & (
            self._since_spike[rows] >= order.quiet
        )
        if chosen.any():
            self._since_spike[rows][chosen] = 0
            self._spikes += int(chosen.sum())
            values = values + SPIKE * chosen
        return values

    def _listen(self, seconds: float) -> None:
        """Read PUBACKs, of four bytes each, and reports of progress."""
        ready, _, _ = select.select([self._socket.fileno(), self._orders.fileno()], [], [], seconds)
        if self._socket.fileno() in ready:
            data = self._socket.recv(1 << 18)
            if not data:
                message = "the broker ended the connection"
                raise ConnectionError(message)
            whole, self._half = divmod(self._half + len(data), 4)
            self._answered += whole
        if self._orders.fileno() in ready:
            line = self._orders.readline()
            if not line:
                sys.exit("nobody is there any more")
            self._dealt_with = msgspec.json.decode(line, type=Progress).dealt_with


def main() -> None:
    """Carry out the orders from standard input."""
    # Unbuffered, because `select` would not see lines that a buffer has read ahead.
    orders = FileIO(0, closefd=False)
    publisher = Publisher(msgspec.json.decode(orders.readline(), type=Place), orders)
    for line in iter(orders.readline, b""):
        if b"dealt_with" in line:
            continue  # of an order that is done
        sys.stdout.buffer.write(
            msgspec.json.encode(publisher.obey(msgspec.json.decode(line, type=Order))) + b"\n"
        )
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
