"""A broker that a test scripts down to the byte, for behaviour that no real broker shows."""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from insa_anomaly.adapters.mqtt.packets import encode_length

CONNECT, PUBLISH, PUBACK, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT = (
    0x10,
    0x30,
    0x40,
    0x80,
    0xA0,
    0xC0,
    0xE0,
)


@dataclass
class Wire:
    """A connection as the broker sees it; `packets` holds every (head, body) that arrived."""

    number: int
    socket: socket.socket
    protocol: int = 0
    packets: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def pubacks(self) -> list[int]:
        """Packet ids of the PUBACKs that arrived."""
        return [
            int.from_bytes(body[:2], "big") for head, body in self.packets if head & 0xF0 == PUBACK
        ]

    def exactly(self, count: int) -> bytes:
        """Read exactly `count` bytes. Raises EOFError."""
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def packet(self) -> tuple[int, bytes]:
        """Read the next packet. Raises EOFError."""
        head, length, shift = self.exactly(1)[0], 0, 0
        while True:
            (byte,) = self.exactly(1)
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        self.packets.append((head, self.exactly(length)))
        return self.packets[-1]

    def send(self, head: int, body: bytes) -> None:
        """Send a packet."""
        self.socket.sendall(bytes([head]) + encode_length(len(body)) + body)

    def connect(self) -> None:
        """Read CONNECT.

        Raises EOFError if the client sends DISCONNECT instead, because it was closed as soon as it
        was connected.
        """
        head, body = self.packet()
        if head == DISCONNECT:
            raise EOFError
        assert head == CONNECT
        self.protocol = body[6]

    def accept(
        self, *, session_present: bool = False, code: int = 0, properties: bytes = b""
    ) -> None:
        """Read CONNECT, answer CONNACK."""
        self.connect()
        tail = encode_length(len(properties)) + properties if self.protocol == 5 else b""
        self.send(0x20, bytes([session_present, code]) + tail)

    def publish(self, topic: str, payload: bytes, mid: int) -> None:
        """Deliver a message at QoS 1."""
        name = topic.encode()
        properties = b"\0" if self.protocol == 5 else b""
        self.send(
            0x32,
            len(name).to_bytes(2, "big") + name + mid.to_bytes(2, "big") + properties + payload,
        )

    def serve(self, *, until: int | None = None, puback: int = 0) -> None:
        """Answer packets up to the first of the kind `until`, or until the connection ends.

        A PUBLISH is answered with the reason code `puback`.
        """
        while True:
            try:
                head, body = self.packet()
            except (EOFError, OSError):
                return
            self._answer(head, body, puback)
            if head & 0xF0 == until:
                return

    def _answer(self, head: int, body: bytes, puback: int) -> None:
        five = self.protocol == 5
        kind = head & 0xF0
        if kind in {SUBSCRIBE, UNSUBSCRIBE}:
            self.send(
                kind + 0x10,
                body[:2]
                + (b"\0" if five else b"")
                + (b"\1" if kind == SUBSCRIBE else b"\0" if five else b""),
            )
        elif kind == PUBLISH:
            size = int.from_bytes(body[:2], "big")
            self.send(
                PUBACK, body[2 + size : 4 + size] + (bytes([puback]) if five and puback else b"")
            )
        elif kind == PINGREQ:
            self.send(0xD0, b"")


class ScriptedBroker:
    """A broker that runs `script` for every connection, in a thread for each.

    `wires` holds the connections so far.
    """

    def __init__(self, script: Callable[[Wire], None], port: int = 0) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.wires: list[Wire] = []
        self._threads = [threading.Thread(target=self._listen, daemon=True)]

    def _listen(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            accepted.settimeout(20)
            self.wires.append(Wire(len(self.wires) + 1, accepted))
            self._threads.append(
                threading.Thread(target=self._run, args=(self.wires[-1],), daemon=True)
            )
            self._threads[-1].start()

    def _run(self, wire: Wire) -> None:
        try:
            self._script(wire)
        except (EOFError, OSError):
            pass
        finally:
            wire.socket.close()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)
        for wire in self.wires:
            try:
                wire.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(5)
