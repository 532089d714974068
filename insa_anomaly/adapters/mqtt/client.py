"""paho in two clients that behave alike: unchanged, and with its reading replaced.

paho reads every packet with two `recv` of a byte each and a third for the rest, and handles packets
singly: 31 us a message. The fast client reads all available bytes, takes PUBLISH and PUBACK packets
in a single loop, and passes every other packet to paho: 1.3 us. It uses private names of paho
(`_packet_read`, `_packet_handle`, `_packet_queue`, `_in_packet`, `_sock_recv`, `_mid_generate`,
`_msgtime_mutex`, `_last_bytes_received`); the stock client uses none of them, and is there for the
day they change.

A client serves a single connection and is then discarded. Its queued packets, acknowledgements
above all, can thus never reach another connection, where their packet ids mean other messages.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.enums import MQTTProtocolVersion as Version
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from insa_anomaly.adapters.mqtt import packets
from insa_anomaly.adapters.mqtt.packets import MOST, Malformed, Message, Publishes

# Added to the packet id of a message that came at QoS 2: another packet acknowledges it.
QOS_2 = 0x10000
_AT_ONCE = 500  # messages the stock client reads before it delivers them
_READ = 262_144
# Bytes kept of an overlong packet: the longest topic, and more payload than is allowed.
_CUT = MOST + 65_600
_OK = MQTTErrorCode.MQTT_ERR_SUCCESS

Deliver = Callable[[list[Message], list[int]], None]
Settle = Callable[[list[tuple[int, int]]], None]


def _nobody(*_: object) -> None:
    """Drop a client's notifications after its end."""


class StockClient(paho.Client):
    """paho unchanged.

    `deliver` gets messages and their packet ids, `settle` the (packet id, reason code) of published
    messages.
    """

    def __init__(
        self, client_id: str, protocol: Version, deliver: Deliver, settle: Settle, *, clean: bool
    ) -> None:
        clean_session = clean if protocol != Version.MQTTv5 else None
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session,
            protocol=protocol,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._deliver = deliver
        self._settle = settle
        self._messages: list[Message] = []
        self._mids: list[int] = []
        self._answers: list[tuple[int, int]] = []
        self.took = 0
        self.on_message = self._note_message
        self.on_publish = self._note_answer

    def step(self, timeout: float) -> MQTTErrorCode:
        """Run a turn of the connection, waiting up to `timeout` seconds for traffic.

        `took` is the number of messages and answers that came.
        """
        rc = self.loop(timeout)
        had = 0
        # paho reads a single packet a turn: repeat while more arrive.
        while rc == _OK and had < len(self._messages) < _AT_ONCE:
            had = len(self._messages)
            rc = self.loop_read()
        self._hand_over()
        return rc

    def _hand_over(self) -> None:
        self.took = len(self._messages) + len(self._answers)
        if self._answers:
            answers, self._answers = self._answers, []
            self._settle(answers)
        if self._messages:
            messages, self._messages = self._messages, []
            mids, self._mids = self._mids, []
            self._deliver(messages, mids)

    def _note_message(self, _: paho.Client, __: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError as error:
            # No broker should pass such a topic on; the message is refused later, with its reason.
            topic = error.object.decode(errors="replace")
        # A longer payload is refused all the same.
        self._messages.append((topic, bytes(message.payload[: MOST + 1])))
        mid = message.mid if message.qos else 0
        self._mids.append(mid + QOS_2 if message.qos == 2 else mid)

    def _note_answer(
        self, _: paho.Client, __: object, mid: int, reason: ReasonCode, ___: Properties
    ) -> None:
        self._answers.append((mid, reason.value))

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Acknowledge messages in this order; an id of 0 needs no acknowledgement."""
        for mid in filter(None, mids):
            self.ack(mid % QOS_2, 2 if mid > QOS_2 else 1)

    def allow(self, under_way: int) -> None:
        """Leave paho's limit of 20 unanswered publishes, which cannot be changed by now."""

    def release(self) -> None:
        """Close the socket and drop all references, so that this client can be freed."""
        socket = self.socket()
        if socket is not None:
            socket.close()
        self._deliver, self._settle = _nobody, _nobody
        self.on_connect = self.on_disconnect = self.on_subscribe = None
        self.on_message = self.on_publish = None

    def send(self, topic: str, payload: bytes, *, retain: bool) -> int:
        """Publish at QoS 1 and return the packet id. Raises ConnectionError."""
        info = self.publish(topic, payload, 1, retain)
        if info.rc != _OK:
            raise ConnectionError(paho.error_string(info.rc))
        return info.mid


class FastClient(StockClient):
    """paho with its reading replaced, and PUBACKs joined; `protocol` must not change in use."""

    def __init__(
        self, client_id: str, protocol: Version, deliver: Deliver, settle: Settle, *, clean: bool
    ) -> None:
        super().__init__(client_id, protocol, deliver, settle, clean=clean)
        self._publishes = Publishes(protocol)
        self._chunks: list[bytes] = []  # bytes read of packets that are incomplete
        self._had = 0
        self._need = 0
        self._skip = 0  # bytes of an overlong packet still to come
        self._sent = Lock()  # guards `_room` and `_held`, and is held with no other lock
        self._room = 0
        self._held: deque[bytes] = deque()

    def step(self, timeout: float) -> MQTTErrorCode:
        """Run a turn of the connection, waiting up to `timeout` seconds for traffic.

        `took` is the number of messages and answers that came.
        """
        rc = self.loop(timeout)
        if self._answers:
            self._send_held(len(self._answers))
        self._hand_over()
        return rc

    def _packet_read(self) -> MQTTErrorCode:
        try:
            data = self._sock_recv(_READ)
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_AGAIN
        except OSError:
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        if not data:
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        with self._msgtime_mutex:
            self._last_bytes_received = time.monotonic()
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._chunks.append(data)
        self._had += len(data)
        if self._had < self._need:
            return _OK
        buffer = b"".join(self._chunks)
        try:
            return self._take(buffer)
        except Malformed:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL

    def _take(self, buffer: bytes) -> MQTTErrorCode:
        """Take all complete packets and keep the remaining bytes."""
        at = 0
        rc = _OK
        while rc == _OK:
            at = self._publishes.take(buffer, at, self._messages, self._mids)
            at = packets.take_pubacks(buffer, at, self._answers)
            try:
                length, start = packets.variable(buffer, at + 1)
            except IndexError:
                self._keep(buffer[at:], 0)
                return rc
            stop = start + length
            if length > MOST:
                return self._take_overlong(buffer, at, start, stop)
            if stop > len(buffer):
                self._keep(buffer[at:], stop - at)
                return rc
            rc = self._hand_to_paho(buffer[at], buffer[start:stop])
            at = stop
        self._keep(b"", 0)
        return rc

    def _keep(self, rest: bytes, need: int) -> None:
        self._chunks, self._had, self._need = [rest] if rest else [], len(rest), need

    def _take_overlong(self, buffer: bytes, at: int, start: int, stop: int) -> MQTTErrorCode:
        """Take the beginning of an overlong packet, so that the message is refused later.

        MQTT 5 forbids the broker to send such a packet to us, MQTT 3.1.1 does not.
        """
        if buffer[at] & 0xF4 != 0x30:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        if len(buffer) - at < min(stop - at, _CUT):
            self._keep(buffer[at:], min(stop - at, _CUT))
            return _OK
        body = buffer[start : min(stop, at + _CUT)]
        whole = buffer[at : at + 1] + packets.encode_length(len(body)) + body
        if self._publishes.take(whole, 0, self._messages, self._mids) != len(whole):
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        topic, payload = self._messages[-1]
        self._messages[-1] = topic, payload[: MOST + 1]
        self._keep(b"", 0)
        self._skip = max(0, stop - len(buffer))
        return self._take(buffer[stop:])

    def _hand_to_paho(self, command: int, body: bytes) -> MQTTErrorCode:
        self._in_packet = {
            "command": command,
            "have_remaining": 1,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(body),
            "packet": bytearray(body),
            "to_process": 0,
            "pos": 0,
        }
        try:
            return self._packet_handle()
        except MalformedPacket:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Acknowledge messages in this order, in one piece; an id of 0 needs none."""
        plain = [mid for mid in mids if 0 < mid < QOS_2]
        if plain:
            self._packet_queue(paho.PUBACK, packets.encode_pubacks(plain), 0, 0)
        super().acknowledge([mid for mid in mids if mid > QOS_2])

    def allow(self, under_way: int) -> None:
        """Allow `under_way` unanswered publishes at a time; further publishes wait."""
        self._room = under_way

    def send(self, topic: str, payload: bytes, *, retain: bool) -> int:
        """Publish at QoS 1 and return the packet id. Raises ConnectionError."""
        mid = self._mid_generate()
        packet = packets.encode_publish(topic, payload, mid, self._protocol, retain=retain)
        with self._sent:
            if self._room <= 0:
                self._held.append(packet)
                return mid
            self._room -= 1
        self.send_raw(packet)
        return mid

    def _send_held(self, answers: int) -> None:
        with self._sent:
            self._room += answers
            due = [self._held.popleft() for _ in range(min(self._room, len(self._held)))]
            self._room -= len(due)
        if due:
            self.send_raw(b"".join(due))

    def send_raw(self, publishes: bytes) -> None:
        """Send whole PUBLISH packets as they are. Raises ConnectionError."""
        if self.socket() is None:
            raise ConnectionError
        self._packet_queue(paho.PUBLISH, publishes, 0, 1)
