"""MQTT packets as bytes: the few kinds that are handled without a library.

Thousands of them arrive every second. An unusual packet is left to paho: `take_publishes` and
`take_pubacks` stop in front of it.
"""

import re
import struct
from collections.abc import Sequence

import numpy as np

PUBLISH = 0x30
PUBACK = 0x40
MOST = 262_144  # bytes of a packet that is taken or sent: a larger packet is no reading
_TOPICS_KEPT = 10_000  # of at most `_TOPIC_KEPT` bytes
_TOPIC_KEPT = 256

_BAD = re.compile(r"[\x00-\x1f\x7f-\x9f+#\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_REASONS = {
    0x80: "unspecified error",
    0x83: "implementation specific error",
    0x87: "not authorized",
    0x90: "topic name invalid",
    0x91: "packet identifier in use",
    0x95: "packet too large",
    0x97: "quota exceeded",
    0x99: "payload format invalid",
}

Message = tuple[str, bytes]


class Malformed(Exception):
    """Bytes that are no MQTT packet."""


class Publishes:
    """Reader of PUBLISH packets of QoS 0 and 1.

    Topics are remembered: the same topic is the same string, already hashed.
    """

    def __init__(self, protocol: int) -> None:
        self._with_properties = protocol == 5
        self._topics: dict[bytes, str] = {}

    def take(self, buffer: bytes, at: int, messages: list[Message], mids: list[int]) -> int:
        """Append (topic, payload) and packet id (0 at QoS 0) of the packets from `at` on.

        Returns where it stopped: at the end of the buffer, or at a packet that is incomplete, of
        another kind, of QoS 2, or in any way odd.
        """
        size, topics, five = len(buffer), self._topics, self._with_properties
        while at + 1 < size:
            head, length, start = buffer[at], buffer[at + 1], at + 2
            if head & 0xF4 != PUBLISH:
                return at
            if length > 127:
                try:
                    length, start = variable(buffer, at + 1)
                except IndexError:
                    return at
            stop = start + length
            if stop > size or length < 3:
                return at
            name = start + 2
            here = name + (buffer[start] << 8 | buffer[start + 1])
            if here == name or here + (head & 2) + five > stop:
                return at
            topic = topics.get(raw := buffer[name:here]) or self._topic(raw)
            if not topic:
                return at
            mid = 0
            if head & 2:
                mid = buffer[here] << 8 | buffer[here + 1]
                here += 2
            if five:
                here = here + 1 + buffer[here] if buffer[here] < 128 else _past(buffer, here, stop)
                if here > stop:
                    return at
            messages.append((topic, buffer[here:stop]))
            mids.append(mid)
            at = stop
        return at

    def _topic(self, raw: bytes) -> str:
        try:
            topic = raw.decode()
        except UnicodeDecodeError:
            return ""
        if len(self._topics) < _TOPICS_KEPT and len(raw) <= _TOPIC_KEPT:
            self._topics[raw] = topic
        return topic


def _past(buffer: bytes, at: int, stop: int) -> int:
    """Return where the properties at `at` end; a place beyond `stop` if they are malformed."""
    try:
        length, start = variable(buffer, at)
    except (IndexError, Malformed):
        return stop + 1
    return start + length


def take_pubacks(buffer: bytes, at: int, answers: list[tuple[int, int]]) -> int:
    """Append (packet id, reason code) of whole PUBACKs from `at` on; return where it stopped."""
    size = len(buffer)
    while at + 1 < size and buffer[at] == PUBACK:
        stop = at + 2 + buffer[at + 1]
        if stop > size or not 4 <= stop - at < 130:
            return at
        reason = buffer[at + 4] if stop - at > 4 else 0
        answers.append((buffer[at + 2] << 8 | buffer[at + 3], reason))
        at = stop
    return at


def variable(buffer: bytes, at: int) -> tuple[int, int]:
    """Return the variable byte integer at `at`, and where it ends.

    Raises IndexError if it is incomplete, Malformed if it is too long.
    """
    value = shift = 0
    for here in range(at, at + 4):
        value |= (buffer[here] & 127) << shift
        shift += 7
        if buffer[here] < 128:
            return value, here + 1
    raise Malformed("a length of more than four bytes")


def encode_length(length: int) -> bytes:
    """Encode a variable byte integer."""
    out = bytearray()
    while length > 127:
        out.append(length & 127 | 128)
        length >>= 7
    out.append(length)
    return bytes(out)


def encode_publish(
    topic: str, payload: bytes, mid: int, protocol: int, *, retain: bool = False
) -> bytes:
    """Encode a PUBLISH at QoS 1 without properties."""
    name = topic.encode()
    properties = b"\x00" if protocol == 5 else b""
    about = struct.pack(">H", len(name)) + name + struct.pack(">H", mid) + properties
    head = b"\x33" if retain else b"\x32"
    return b"".join((head, encode_length(len(about) + len(payload)), about, payload))


def encode_pubacks(mids: Sequence[int]) -> bytes:
    """Encode PUBACKs of all these packet ids, in order, joined."""
    pairs = np.empty((len(mids), 2), ">u2")
    pairs[:, 0] = PUBACK << 8 | 2
    pairs[:, 1] = mids
    return pairs.tobytes()


def unpublishable(topic: str, payload: bytes, most: int) -> str | None:
    """Return why a message must not be published, None if it may be.

    A broker ends the connection over such a packet rather than answer.
    """
    if not topic or _BAD.search(topic) or any(ord(sign) & 0xFFFE == 0xFFFE for sign in topic):
        return "topic name invalid"
    size = len(topic.encode())
    if size > 0xFFFF:
        return "topic name invalid"
    return "packet too large" if size + len(payload) + 10 > most else None


def refusal(reason: int) -> str | None:
    """Return the refusal that a PUBACK's reason code states, None if it accepts.

    A message without subscribers (0x10) is accepted.
    """
    return _REASONS.get(reason, f"reason 0x{reason:02x}") if reason >= 0x80 else None
