"""The two ways of reading, side by side on the same bytes."""

import random
import socket
import threading
import time
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion

from insa_anomaly.adapters.mqtt.client import QOS_2, FastClient, StockClient
from insa_anomaly.adapters.mqtt.packets import MOST, Message, encode_length, encode_pubacks

READERS = [FastClient, StockClient]
PROTOCOLS = {4: MQTTProtocolVersion.MQTTv311, 5: MQTTProtocolVersion.MQTTv5}

topics = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40
)
large = st.builds(
    lambda size, byte: bytes([byte]) * size,
    st.sampled_from([127, 128, 16_384, 70_000, 200_000]),
    st.integers(0, 255),
)
qos, mids = st.sampled_from([0, 1, 1, 1]), st.integers(1, 0xFFFF)
flag_bits, property_bytes = st.sampled_from([0, 1, 8, 9]), st.sampled_from([0, 0, 5, 140])
sent = st.tuples(topics, st.binary(max_size=300) | large, qos, mids)
publishes = st.lists(st.tuples(sent, flag_bits, property_bytes), max_size=8)


class Fed:
    """A client that reads the bytes that a test writes; `got` holds all it handed over."""

    def __init__(self, reader: type[StockClient], protocol: int) -> None:
        self.got: list[tuple[str, bytes, int]] = []
        self.answers: list[tuple[int, int]] = []
        self.client = reader(
            "fed", PROTOCOLS[protocol], self._deliver, self.answers.extend, clean=True
        )
        ours, self.far = socket.socketpair()
        ours.setblocking(False)
        inside: Any = self.client
        inside._sock = ours
        inside._state = vars(paho)["_ConnectionState"].MQTT_CS_CONNECTED
        self.client.on_socket_register_write = lambda *_: None
        self.client.allow(100)

    def _deliver(self, messages: list[Message], mids: list[int]) -> None:
        self.got += [
            (topic, payload, mid) for (topic, payload), mid in zip(messages, mids, strict=True)
        ]

    def feed(self, chunks: list[bytes]) -> MQTTErrorCode:
        """Write the chunks, read to the end, and return how it ended."""
        writer = threading.Thread(target=self._write, args=(chunks,), daemon=True)
        writer.start()
        rc = MQTTErrorCode.MQTT_ERR_SUCCESS
        deadline = time.monotonic() + 20
        try:
            while (
                rc == MQTTErrorCode.MQTT_ERR_SUCCESS
                and self.client.socket() is not None
                and time.monotonic() < deadline
            ):
                rc = self.client.step(0.2)
        finally:
            self.far.close()
            writer.join(5)
            self.client.release()
        return rc

    def _write(self, chunks: list[bytes]) -> None:
        try:
            for chunk in chunks:
                self.far.sendall(chunk)
            self.far.shutdown(socket.SHUT_WR)
        except OSError:
            return


def packet(
    topic: str,
    payload: bytes,
    qos: int,
    mid: int,
    *,
    flags: int = 0,
    properties: int = 0,
    protocol: int = 5,
) -> bytes:
    """Build a PUBLISH with user properties of about `properties` bytes."""
    name = topic.encode()
    pair = (
        b"\x26\x00\x01k" + max(0, properties - 6).to_bytes(2, "big") + b"v" * max(0, properties - 6)
        if properties
        else b""
    )
    tail = encode_length(len(pair)) + pair if protocol == 5 else b""
    body = (
        len(name).to_bytes(2, "big")
        + name
        + (mid.to_bytes(2, "big") if qos else b"")
        + tail
        + payload
    )
    return bytes([0x30 | qos << 1 | flags & (9 if qos else 1)]) + encode_length(len(body)) + body


def cut(stream: bytes, seed: int) -> list[bytes]:
    """Cut the stream into pieces of 1 byte and more."""
    sizes, pieces, at = random.Random(seed), [], 0
    while at < len(stream):
        size = sizes.choice([1, 2, 7, 100, 5000, 100_000])
        pieces.append(stream[at : at + size])
        at += size
    return pieces


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(publishes, st.sampled_from([4, 5]), st.integers(0, 2**32))
def test_law_both_deliver_the_same_bytes(
    messages: list[tuple[tuple[str, bytes, int, int], int, int]], protocol: int, seed: int
) -> None:
    """Both readers deliver the bytes that were sent.

    The same holds for any topics, sizes, flags and properties, wherever the network cuts.
    """
    stream = b"".join(
        packet(*message, flags=flags, properties=properties, protocol=protocol)
        for message, flags, properties in messages
    )
    expected = [(topic, payload, mid if qos else 0) for (topic, payload, qos, mid), *_ in messages]
    for reader in READERS:
        fed = Fed(reader, protocol)
        fed.feed(cut(stream, seed))
        assert fed.got == expected, reader


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([4, 5]), st.booleans())
def test_law_noise_ends_a_connection_and_nothing_else(
    noise: bytes, protocol: int, leading: bool
) -> None:
    """Both readers deliver a good message before any noise.

    They then continue to read or end the connection.
    """
    good = packet("t", b"good", 1, 1, protocol=protocol) if leading else b""
    for reader in READERS:
        fed = Fed(reader, protocol)
        try:
            ended = fed.feed([good + noise]) != MQTTErrorCode.MQTT_ERR_SUCCESS
        except Exception:  # noqa: BLE001 - paho's way to end it, and taken as that by `Link.run`
            ended = True
        assert ended or fed.client.socket() is None
        if leading and reader is FastClient:
            assert fed.got[:1] == [("t", b"good", 1)]


@pytest.mark.parametrize("reader", READERS)
def test_a_topic_that_is_no_text_is_delivered_to_be_refused(reader: type[StockClient]) -> None:
    """The invalid bytes of a topic are replaced, and the message is delivered.

    The place where all messages are judged rejects it; hanging up would repeat for ever.
    """
    fed = Fed(reader, 5)
    fed.feed([b"\x32\x08\x00\x02\xff\xfe\x00\x07\x00x" + packet("t", b"y", 1, 8)])
    assert fed.got == [("\ufffd\ufffd", b"x", 7), ("t", b"y", 8)]


@pytest.mark.parametrize("reader", READERS)
def test_a_payload_beyond_all_bounds_is_cut(reader: type[StockClient]) -> None:
    """An oversized payload is cut just above the limit, which shows that it is too large.

    The messages around it are whole. A client of 3.1.1 cannot limit the size of packets.
    """
    fed = Fed(reader, 4)
    huge = packet("t/huge", b"\1" * 3_000_000, 1, 2, protocol=4)
    before, after = (
        packet("t", payload, 1, mid, protocol=4) for payload, mid in ((b"a", 1), (b"b", 3))
    )
    fed.feed(cut(before + huge + after, 1))
    assert [(topic, len(payload), mid) for topic, payload, mid in fed.got] == [
        ("t", 1, 1),
        ("t/huge", MOST + 1, 2),
        ("t", 1, 3),
    ]


@pytest.mark.parametrize("reader", READERS)
def test_qos_2_is_served_where_an_old_session_has_it(reader: type[StockClient]) -> None:
    """QoS 2 is served: PUBREC, delivery on PUBREL, then PUBCOMP on acknowledgement.

    The client never subscribes at QoS 2, but an old session may hold such messages.
    """
    fed = Fed(reader, 5)
    fed.far.sendall(b"\x34\x06\x00\x01t\x00\x09\x00" + b"\x62\x02\x00\x09")
    for _ in range(4):
        fed.client.step(0.1)
    assert fed.got == [("t", b"", 9 + QOS_2)]
    fed.client.acknowledge([9 + QOS_2])
    fed.client.step(0.1)
    assert fed.far.recv(100) == b"\x50\x02\x00\x09" + b"\x70\x02\x00\x09"
    fed.feed([])


@pytest.mark.parametrize("reader", READERS)
def test_acknowledgements_are_the_same_on_the_wire(reader: type[StockClient]) -> None:
    """Packet ids are acknowledged in their order, none for QoS 0."""
    fed = Fed(reader, 5)
    fed.client.acknowledge([5, 0, 0xFFFF, 1])
    for _ in range(3):
        fed.client.step(0.05)
    assert fed.far.recv(100) == encode_pubacks([5, 0xFFFF, 1])
    fed.feed([])


@pytest.mark.parametrize("reader", READERS)
def test_publishes_wait_for_room(reader: type[StockClient]) -> None:
    """Only the allowed number of 300 publishes is under way.

    Every answer admits another publish, and all are sent in the end, in order.
    """
    fed = Fed(reader, 5)
    fed.client.allow(20)
    mids = [fed.client.send("t", b"%d" % i, retain=False) for i in range(300)]
    seen = b""
    fed.far.settimeout(5)
    for round_ in range(15):
        while seen.count(b"\x00\x01t") < 20 * (round_ + 1):
            fed.client.step(0.01)
            seen += fed.far.recv(65536)
        assert seen.count(b"\x00\x01t") == 20 * (round_ + 1)
        fed.far.sendall(encode_pubacks(mids[20 * round_ : 20 * round_ + 20]))
        fed.client.step(0.01)
    while len(fed.answers) < 300:
        fed.client.step(0.01)
    assert fed.answers == [(mid, 0) for mid in mids]
    fed.feed([])
