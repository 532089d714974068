"""Packets as bytes: our own encoding and decoding agree with paho's."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from insa_anomaly.adapters.mqtt.access import Backoff
from insa_anomaly.adapters.mqtt.packets import (
    Malformed,
    Publishes,
    encode_length,
    encode_pubacks,
    encode_publish,
    refusal,
    take_pubacks,
    unpublishable,
    variable,
)

topics = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60
)
mids = st.integers(1, 0xFFFF)
protocols = st.sampled_from([4, 5])
user_properties = st.lists(
    st.tuples(st.text("ab", max_size=90), st.text("cd", max_size=90)), max_size=4
)
published = st.lists(st.tuples(topics, st.binary(max_size=400), mids), max_size=12)


def publish_packet(
    topic: str, payload: bytes, qos: int, mid: int, properties: bytes, *, flags: int = 0
) -> bytes:
    """Build a PUBLISH from any parts."""
    name = topic.encode()
    body = (
        len(name).to_bytes(2, "big")
        + name
        + (mid.to_bytes(2, "big") if qos else b"")
        + properties
        + payload
    )
    return bytes([0x30 | qos << 1 | flags]) + encode_length(len(body)) + body


@given(published, protocols, st.data())
def test_law_what_is_written_is_read_up_to_any_cut(
    messages: list[tuple[str, bytes, int]], protocol: int, data: st.DataObject
) -> None:
    """Only whole packets are read, up to the first broken packet or the cut."""
    packets = [encode_publish(*message, protocol) for message in messages]
    stream = b"".join(packets)
    cut = data.draw(st.integers(0, len(stream)))
    read: list[tuple[str, bytes]] = []
    ids: list[int] = []
    at = Publishes(protocol).take(stream[:cut], 0, read, ids)
    assert [
        (topic, payload, mid) for (topic, payload), mid in zip(read, ids, strict=True)
    ] == messages[: len(read)]
    assert at == sum(map(len, packets[: len(read)]))
    assert len(read) == len(packets) or at + len(packets[len(read)]) > cut


@settings(max_examples=300)
@given(st.binary(max_size=60), protocols)
def test_law_no_bytes_are_read_otherwise_than_paho_reads_them(noise: bytes, protocol: int) -> None:
    """Any bytes, dressed as a PUBLISH, are left to paho or read as paho reads them.

    No error but Malformed is ever raised.
    """
    for head in (0x30, 0x31, 0x32, 0x3B, 0x34):
        packet = bytes([head]) + encode_length(len(noise)) + noise
        read: list[tuple[str, bytes]] = []
        ids: list[int] = []
        if Publishes(protocol).take(packet, 0, read, ids) == 0:
            continue
        start = packet.index(noise, 2)
        size = int.from_bytes(noise[:2], "big")
        assert read[0][0].encode() == noise[2 : 2 + size]
        assert ids == [int.from_bytes(noise[2 + size : 4 + size], "big") if head & 2 else 0]
        if protocol == 4:
            theirs = _packet.decode_publish(head, packet[start:], MQTTProtocolVersion.MQTTv311)
            assert (theirs.topic, theirs.payload, theirs.mid) == (
                read[0][0].encode(),
                read[0][1],
                ids[0],
            )


@given(topics, st.binary(max_size=50), mids, st.sampled_from([0, 1]), user_properties)
def test_properties_of_any_length_are_passed_over(
    topic: str, payload: bytes, mid: int, qos: int, pairs: list[tuple[str, str]]
) -> None:
    """User properties, also of 128 bytes and more, do not affect topic, packet id and payload."""
    properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if pairs:
        properties.UserProperty = pairs
    packet = publish_packet(topic, payload, qos, mid, properties.pack())
    read: list[tuple[str, bytes]] = []
    ids: list[int] = []
    assert Publishes(5).take(packet, 0, read, ids) == len(packet)
    assert (read, ids) == ([(topic, payload)], [mid if qos else 0])


@pytest.mark.parametrize(
    "packet",
    [
        publish_packet("t", b"x", 2, 7, b"\0"),
        publish_packet("", b"x", 1, 7, b"\x03\x23\x00\x01"),
        b"\x32\x05\x00\x09t\x00\x07",
        b"\x32\x05\x00\x01t\x00\x07"[:6],
        b"\x32\x06\x00\x01t\x00\x07\x7f",
        b"\x32\x07\x00\x01t\x00\x07\xff\xff",
        b"\x32\x08\x00\x01t\x00\x07\xff\xff\xff\xff\xff",
        b"\x30\x06\x00\x02\xff\xfe\x00x",
        b"\x90\x04\x00\x01\x00\x01",
        b"\x32",
        b"",
    ],
)
def test_what_is_unusual_is_left_alone(packet: bytes) -> None:
    """An unusual packet is neither taken nor does it raise.

    Examples are QoS 2, topic aliases, lengths that do not add up, topics that are no text and other
    packets.
    """
    read: list[tuple[str, bytes]] = []
    assert Publishes(5).take(packet, 0, read, []) == 0
    assert read == []


@given(st.lists(mids, max_size=50))
def test_pubacks_in_one_piece_are_pubacks(ids: list[int]) -> None:
    """Joined PUBACKs are the same bytes as single PUBACKs, and are read back in order."""
    stream = encode_pubacks(ids)
    assert stream == b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid in ids)
    answers: list[tuple[int, int]] = []
    assert take_pubacks(stream, 0, answers) == len(stream)
    assert answers == [(mid, 0) for mid in ids]


def test_pubacks_carry_their_reason() -> None:
    """A PUBACK is read with its reason, with and without properties; a cut PUBACK is left."""
    stream = b"\x40\x03\x00\x01\x10\x40\x04\x00\x02\x87\x00\x40\x02\x00\x03\x40\x02\x00"
    answers: list[tuple[int, int]] = []
    assert take_pubacks(stream, 0, answers) == 15
    assert answers == [(1, 0x10), (2, 0x87), (3, 0)]


@given(st.integers(0, 268_435_455))
def test_lengths_read_back(length: int) -> None:
    """A length is read as it was written."""
    encoded = encode_length(length)
    assert variable(encoded, 0) == (length, len(encoded))


def test_a_length_of_five_bytes_is_malformed() -> None:
    """MQTT has no length of five bytes."""
    with pytest.raises(Malformed):
        variable(b"\xff\xff\xff\xff\x01", 0)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "a+b",
        "a/#",
        "a\0b",
        "a\nb",
        "a\x9fb",
        "a\ud800",
        "a\ufdd0",
        "a\uffff",
        "a\U0001fffe",
        "x" * 65_536,
    ],
)
def test_topics_a_broker_would_end_the_connection_over(topic: str) -> None:
    """Wildcards, control characters, noncharacters and overlong topics are refused."""
    assert unpublishable(topic, b"", 262_144) == "topic name invalid"


def test_what_may_be_published() -> None:
    """Any other topic may be published, and payloads up to the broker's limit."""
    assert unpublishable("insa/iiot/ml/anomaly/Öl-Pumpe 🛢", b"{}", 262_144) is None
    assert unpublishable("t", b"x" * 990, 1000) == "packet too large"
    assert unpublishable("t", b"x" * 980, 1000) is None


def test_reasons_have_words() -> None:
    """A reason below 0x80 is accepted, also without subscribers; above, the reason is named.

    Unknown reasons are named by their number.
    """
    assert (refusal(0), refusal(0x10), refusal(0x87), refusal(0xC3)) == (
        None,
        None,
        "not authorized",
        "reason 0xc3",
    )


def test_backing_off_doubles_up_to_its_limit() -> None:
    """The delays are 1, 2, 4 ... 30 s after any number of failures, less up to half by chance."""
    backoff = Backoff(1.0, 30.0)
    assert [backoff.delay(failures, 0.0) for failures in (1, 2, 3, 6, 10_000)] == [
        1.0,
        2.0,
        4.0,
        30.0,
        30.0,
    ]
    assert backoff.delay(3, 0.5) == 3.0
