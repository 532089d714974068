"""A wire that can be cut: TCP to a server, which may be reset, delayed or stalled."""

import selectors
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock, Thread

_CHUNK = 65_536
_TURN = 0.02
_ROOM = 1 << 20  # bytes that wait in one direction; the rest stays with the sender
Target = str | tuple[str, int]


@dataclass(eq=False)
class _Way:
    """A direction of a connection: the bytes that were read, and the time at which they are due."""

    source: socket.socket
    sink: socket.socket
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    bytes: int = 0
    ended: bool = False

    def give(self) -> None:
        """Write the bytes that are due."""
        while self.waiting and self.waiting[0][0] <= time.monotonic():
            due, data = self.waiting.popleft()
            try:
                sent = self.sink.send(data)
            except BlockingIOError:
                sent = 0
            self.bytes -= sent
            if sent < len(data):
                self.waiting.appendleft((due, data[sent:]))
                return


class Proxy:
    """A proxy on a port of its own; `target` is an address or the path of a unix socket."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ways: list[tuple[_Way, _Way]] = []
        self._lock = Lock()
        self._delay = 0.0
        self._swallow = False
        self._closing = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.port: int = self._listening.getsockname()[1]
        self._thread = Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def delay(self, seconds: float) -> None:
        """Delay everything by these seconds, in both directions."""
        self._delay = seconds

    def swallow(self, *, everything: bool) -> None:
        """Let no byte through, without an error; bytes sent meanwhile wait."""
        self._swallow = everything

    def reset(self) -> None:
        """Break every connection, as a network does that forgot it."""
        with self._lock:
            for pair in self._ways:
                self._break(pair)
            self._ways.clear()

    def close(self) -> None:
        """Close every connection and the port."""
        self._closing = True
        self._thread.join(5)
        self.reset()
        self._listening.close()

    # --------------------------------------------------------------------------------- the thread
    def _run(self) -> None:
        while not self._closing:
            with selectors.DefaultSelector() as selector:
                selector.register(self._listening, selectors.EVENT_READ)
                with self._lock:
                    for way in self._open():
                        selector.register(way.source, selectors.EVENT_READ)
                ready = selector.select(_TURN if self._pending() else 0.2)
            self._serve({key.fileobj for key, _ in ready})

    def _open(self) -> list[_Way]:
        """Return the directions to read from: none while stalled, nor where too much waits."""
        if self._swallow:
            return []
        return [way for pair in self._ways for way in pair if not way.ended and way.bytes < _ROOM]

    def _pending(self) -> bool:
        return self._swallow or any(way.waiting for pair in self._ways for way in pair)

    def _serve(self, ready: set[object]) -> None:
        if self._listening in ready:
            self._accept()
        with self._lock:
            for pair in list(self._ways):
                try:
                    for way in pair:
                        self._move(way, readable=way.source in ready)
                except OSError:
                    self._end(pair)
                    continue
                if any(way.ended and not way.waiting for way in pair):
                    self._end(pair)

    def _move(self, way: _Way, *, readable: bool) -> None:
        if readable and not self._swallow:
            with suppress(BlockingIOError):
                data = way.source.recv(_CHUNK)
                way.ended = not data
                way.waiting.append((time.monotonic() + self._delay, data))
                way.bytes += len(data)
        if not self._swallow:
            way.give()

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            client, _ = self._listening.accept()
            try:
                server = self._reach()
            except OSError:
                client.close()
                return
            for one in (client, server):
                one.setblocking(False)
            with self._lock:
                self._ways.append((_Way(client, server), _Way(server, client)))

    def _reach(self) -> socket.socket:
        if not isinstance(self._target, str):
            return socket.create_connection(self._target, 2.0)
        server = socket.socket(socket.AF_UNIX)
        server.settimeout(2.0)
        try:
            server.connect(self._target)
        except OSError:
            server.close()
            raise
        return server

    def _end(self, pair: tuple[_Way, _Way]) -> None:
        self._ways.remove(pair)
        for way in pair:
            way.source.close()

    def _break(self, pair: tuple[_Way, _Way]) -> None:
        for way in pair:
            with suppress(OSError):  # a lingering time of 0 makes a reset of the close
                way.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            way.source.close()
