"""A connection to the broker, from CONNECT to its end."""

import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from threading import Event
from time import monotonic
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from insa_anomaly.adapters.mqtt.access import Access, Terms, Version
from insa_anomaly.adapters.mqtt.client import StockClient
from insa_anomaly.adapters.mqtt.packets import MOST, Message

_ANSWER_SECONDS = 5.0  # for the broker to answer CONNECT
_TURN_SECONDS = 1.0  # how long a turn waits for traffic
_WORTH = 500  # messages and answers in a turn that make reading on without a pause worthwhile
_PROTOCOLS = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}
_TAKEN_OVER = 0x8E


class EndReason(Enum):
    """Why a connection ended, in the kinds that lead to different next steps."""

    LOST = auto()  # without a DISCONNECT
    ENDED = auto()  # with the broker's reason or an error; or it was never established
    UNANSWERED = auto()  # no answer to CONNECT, or the broker lacks this version of the protocol
    REFUSED = auto()
    TAKEN_OVER = auto()  # by another client with our id
    SHED = auto()  # by us: there was no room for the messages that came
    CLOSED = auto()  # by us, for good


# Client id, name or password, not authorized, banned, authentication method; version of MQTT.
_REFUSALS = dict.fromkeys((0x85, 0x86, 0x87, 0x8A, 0x8C), EndReason.REFUSED)
_REFUSALS[0x84] = EndReason.UNANSWERED


@dataclass(frozen=True)
class End:
    """How a connection ended."""

    cause: EndReason
    reason: str


class Owner(Protocol):
    """The receiver of a connection's events, called in the thread that runs it."""

    def granted(self, link: "Link", *, session_present: bool) -> None:
        """Note that the broker granted the connection."""

    def subscribed(self, link: "Link", refused: str | None) -> None:
        """Note that every subscription is answered.

        `refused` names the subscriptions that were not granted, and why.
        """

    def delivered(self, link: "Link", messages: list[Message], mids: list[int]) -> bool:
        """Take messages; False if there is no room and they must come again."""

    def answered(self, link: "Link", answers: list[tuple[int, int]]) -> None:
        """Take PUBACKs as (packet id, reason code)."""

    def turned(self, link: "Link") -> None:
        """Act once a second or more often, while the connection stands."""


def _without_delay(_: paho.Client, __: object, opened: Any) -> None:  # noqa: ANN401 - a socket, plain or TLS
    """Send at once: a packet must not wait 40 ms for the peer's delayed acknowledgement.

    Packets are joined by the clients where that saves work.
    """
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Link:
    """A connection with a client of its own; `generation` numbers the connections of an owner."""

    def __init__(
        self,
        reader: type[StockClient],
        access: Access,
        terms: Terms,
        context: ssl.SSLContext | None,
        *,
        version: Version,
        generation: int,
        owner: Owner,
    ) -> None:
        self.generation = generation
        self.protocol = _PROTOCOLS[version]
        self.most = MOST  # bytes of a packet that the broker takes
        self.receive_maximum = 0xFFFF  # publishes that may be unacknowledged by the broker
        self.deaf: str | None = None  # why the canary's subscription was not granted
        self.certificate: bytes | None = None  # the broker's, in DER
        self._access = access
        self._terms = terms
        self._owner = owner
        self.beat = monotonic()  # when its thread last showed activity
        self._granted = False
        self._end: End | None = None
        self._closing = Event()
        self._wake = Event()
        self.client = reader(
            access.client_id, self.protocol, self._deliver, self._settle, clean=terms.expiry == 0
        )
        self._set_up(context)

    def _set_up(self, context: ssl.SSLContext | None) -> None:
        client, access, wake = self.client, self._access, self._wake
        client.connect_timeout = _ANSWER_SECONDS
        if access.username is not None:
            client.username_pw_set(access.username, access.password)
        if context is not None:
            client.tls_set_context(context)
        if self._terms.will is not None:
            client.will_set(*self._terms.will, qos=1, retain=True)
        client.on_socket_open = _without_delay
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        # With this callback set, paho leaves all writing to our thread.
        client.on_socket_register_write = lambda *_: wake.set()

    # ---------------------------------------------------------------------------- in its own thread
    def run(self) -> End:
        """Connect, and serve the connection to its end.

        Never raises: a fault here ends this connection, not the thread.
        """
        try:
            end = self._serve()
        except ssl.SSLCertVerificationError as error:
            end = End(EndReason.REFUSED, f"its certificate is not accepted: {error.verify_message}")
        except OSError as error:
            end = End(EndReason.ENDED, str(error))
        except Exception as error:  # noqa: BLE001 - in a callback, or in paho on a malformed packet
            end = End(EndReason.ENDED, f"{type(error).__name__}: {error}")
        self.client.release()
        return End(EndReason.CLOSED, "closed") if self._closing.is_set() else self._end or end

    def _serve(self) -> End:
        self._connect()
        deadline = monotonic() + _ANSWER_SECONDS
        while self._end is None:
            self.beat = monotonic()
            rc = self.client.step(_TURN_SECONDS)
            if rc != MQTTErrorCode.MQTT_ERR_SUCCESS or self.client.socket() is None:
                if self._granted:
                    return End(EndReason.LOST, "connection lost")
                return End(EndReason.UNANSWERED, "closed without an answer to CONNECT")
            if not self._granted and (monotonic() > deadline or self._closing.is_set()):
                return End(EndReason.UNANSWERED, "no answer to CONNECT")
            if self._granted:
                self._owner.turned(self)
            if 0 < self.client.took < _WORTH:
                self._linger(monotonic() + self._terms.linger)
        return self._end

    def _linger(self, until: float) -> None:
        """Write pending packets without reading until `until`."""
        while (left := until - monotonic()) > 0 and self._wake.wait(left):
            self._wake.clear()
            self.client.loop_write()

    def _connect(self) -> None:
        address = (self._access.host, self._access.port, self._access.keepalive)
        if self.protocol != MQTTProtocolVersion.MQTTv5:
            self.client.connect(*address)
            return
        properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._terms.expiry
        properties.ReceiveMaximum = self._terms.receive_maximum
        properties.MaximumPacketSize = MOST
        clean = self._terms.expiry == 0
        self.client.connect(*address, clean_start=clean, properties=properties)

    def _connected(
        self, _: object, __: object, flags: paho.ConnectFlags, reason: ReasonCode, limits: object
    ) -> None:
        if reason.is_failure:
            self._end = End(_REFUSALS.get(reason.value, EndReason.ENDED), str(reason))
            return
        self._granted = True
        self.most = min(MOST, getattr(limits, "MaximumPacketSize", MOST))
        self.receive_maximum = getattr(limits, "ReceiveMaximum", 0xFFFF)
        self.client.allow(self.receive_maximum)
        opened: object = self.client.socket()
        if isinstance(opened, ssl.SSLSocket):
            self.certificate = opened.getpeercert(binary_form=True)
        self._owner.granted(self, session_present=flags.session_present)
        self._subscribe(session_present=flags.session_present)

    def _subscribe(self, *, session_present: bool) -> None:
        canary = [] if self._terms.canary is None else [(self._terms.canary, 0)]
        wanted = [*((name, 1) for name in self._terms.filters), *canary]
        stale = [name for name in self._terms.stale_filters if name not in dict(wanted)]
        if stale and session_present:
            self.client.unsubscribe(stale)
        if not wanted:
            self._owner.subscribed(self, None)
            return
        try:
            if self.protocol == MQTTProtocolVersion.MQTTv5:
                self.client.subscribe(
                    [(name, SubscribeOptions(qos=qos, retainHandling=1)) for name, qos in wanted]
                )
            else:
                self.client.subscribe(wanted)
        except ValueError as error:
            self._owner.subscribed(self, f"{', '.join(self._terms.filters)}: {error}")

    def _subscribed(
        self, _: paho.Client, __: object, ___: int, reasons: Sequence[ReasonCode], ____: object
    ) -> None:
        wrong = [
            f"{name}: {reason}"
            for name, reason in zip(self._terms.filters, reasons, strict=False)
            if reason.value != 1
        ]
        # The canary has QoS 0, so that none is queued for us while we are disconnected.
        canary = reasons[len(self._terms.filters) :]
        self.deaf = str(canary[0]) if canary and canary[0].value > 2 else None
        self._owner.subscribed(self, ", ".join(wrong) or None)

    def _disconnected(
        self, _: object, __: object, flags: paho.DisconnectFlags, reason: ReasonCode, ___: object
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            taken_over = reason.value == _TAKEN_OVER
            kind = EndReason.TAKEN_OVER if taken_over else EndReason.ENDED
            self._end = End(kind, str(reason))

    def _deliver(self, messages: list[Message], mids: list[int]) -> None:
        if self._granted and not self._owner.delivered(self, messages, mids):
            self._end = End(EndReason.SHED, "no room for what came")

    def _settle(self, answers: list[tuple[int, int]]) -> None:
        self._owner.answered(self, answers)

    # ------------------------------------------------------------------------------ from any thread
    def close(self) -> None:
        """Disconnect from the broker after pending acknowledgements and publishes; `run` ends."""
        self._closing.set()
        self.client.disconnect()
        self._wake.set()

    def cut(self) -> None:
        """Shut the socket down if disconnecting takes too long."""
        with suppress(OSError, AttributeError):
            self.client.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
