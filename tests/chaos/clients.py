"""The two ends of the plant on plain paho: devices, which repeat messages, and an operator."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from secrets import token_hex
from threading import Event, Thread
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from insa_anomaly.adapters.embedded import EmbeddedBroker as Address
from tests.chaos.plant import Message

_NOBODY = 0x10  # a PUBACK's reason: there is no subscriber
_KEPT = 20_000  # messages that a device can repeat
# A message is safe once the broker has lived this long after acknowledging it: it is on its disk.
_SAFE_SECONDS = 5.0
_WINDOW = 400  # unacknowledged messages
_RETRY_SECONDS = 0.1


def _client(address: Address, name: str) -> paho.Client:
    client = paho.Client(
        CallbackAPIVersion.VERSION2, f"{name}-{token_hex(4)}", protocol=MQTTProtocolVersion.MQTTv5
    )
    client.username_pw_set(address.user, address.password)
    client.reconnect_delay_set(0.1, 0.5)  # type: ignore[arg-type]  # paho waits for fractions as well
    client.max_inflight_messages_set(_WINDOW)
    return client


def _connect(client: paho.Client, address: Address) -> None:
    properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    properties.ReceiveMaximum = 1000
    client.connect(
        address.host, address.port, keepalive=15, clean_start=False, properties=properties
    )


class Devices:
    """Publish messages at a pace and in order, whatever happens to the broker.

    With `replay` the devices keep the device contract: they repeat the messages that the broker may
    have forgotten. These are the messages acknowledged in the last seconds before the connection
    ended, or all stored messages where the broker begins without the devices' session.

    All of it happens in one thread, because paho would let a message of another thread overtake
    messages that are repeated on a new connection.
    """

    def __init__(
        self, address: Address, messages: Iterator[Message], rate: float, *, replay: bool
    ) -> None:
        self.said: list[Message] = []
        self.said_at: list[float] = []  # monotonic
        self.failure: BaseException | None = None
        self._address = address
        self._messages = messages
        self._rate = rate
        self._replay = replay
        self._unanswered: dict[int, Message] = {}
        self._again: deque[Message] = deque()
        # Messages with the time of their acknowledgement, on connections that ended soon after.
        self._unsafe: deque[tuple[float, Message]] = deque()
        self._silent = Event()
        self._closing = Event()
        self._client = _client(address, "devices")
        self._client.on_publish = self._on_publish
        self._client.on_connect = self._on_connect
        self._thread = Thread(target=self._run, name="devices", daemon=True)
        self._thread.start()

    @property
    def puback(self) -> int:
        """Messages of the stream that the broker has acknowledged."""
        return len(self.said) - len(self._unanswered) - len(self._again)

    def stop(self, seconds: float) -> None:
        """Publish no new messages, and wait for the acknowledgements of the published ones."""
        self._silent.set()
        until = time.monotonic() + seconds
        while self.puback < len(self.said) and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.05)

    def again(self) -> None:
        """Repeat all stored messages."""
        self._again.extend(self.said[-_KEPT:])

    def close(self) -> None:
        """Disconnect."""
        self._closing.set()
        self._thread.join(10)

    # --------------------------------------------------------------------------------- the thread
    def _run(self) -> None:
        try:
            _connect(self._client, self._address)
            began = time.monotonic()
            while not self._closing.is_set():
                if self._client.loop(0.005) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    self._reconnect()
                elif self._client.is_connected():
                    self._speak(int((time.monotonic() - began) * self._rate) - len(self.said))
            self._client.disconnect()
        except BaseException as error:  # noqa: BLE001 - the run must see it at its end
            self.failure = error

    def _reconnect(self) -> None:
        with suppress(OSError):
            self._client.reconnect()
            return
        time.sleep(_RETRY_SECONDS)

    def _speak(self, due: int) -> None:
        while self._unsafe and self._unsafe[0][0] < time.monotonic() - _SAFE_SECONDS:
            self._unsafe.popleft()
        room = _WINDOW - len(self._unanswered)
        for _ in range(min(len(self._again), room)):
            self._publish(self._again.popleft())
        for message in islice(
            self._messages, 0 if self._silent.is_set() else max(0, min(due, room))
        ):
            self.said.append(message)
            self.said_at.append(time.monotonic())
            self._publish(message)

    def _publish(self, message: Message) -> None:
        self._unanswered[self._client.publish(*message, qos=1).mid] = message

    def _on_publish(
        self,
        client: paho.Client,
        userdata: object,
        mid: int,
        reason: Any,  # noqa: ANN401
        properties: object,
    ) -> None:
        del client, userdata, properties
        message = self._unanswered.pop(mid)
        if reason.value >= 0x80 or (self._replay and reason.value == _NOBODY):
            self._again.append(message)
        elif self._replay:
            self._unsafe.append((time.monotonic(), message))

    def _on_connect(
        self,
        client: paho.Client,
        userdata: object,
        flags: Any,  # noqa: ANN401
        reason: object,
        properties: object,
    ) -> None:
        del client, userdata, reason, properties
        # The broker may have stored the session and lost the last messages.
        if self._replay and flags.session_present:
            self._again.extend(message for _, message in self._unsafe)
        elif self._replay:
            self.again()
        self._unsafe.clear()


@contextmanager
def operator(
    address: Address, topics: str, heard: Callable[[str, bytes, float], None]
) -> Iterator[None]:
    """Subscribe with a session that outlives connections; acknowledge each handled message."""
    ready = Event()
    client = _client(address, "operator")

    def connected(*_: object) -> None:
        client.subscribe(topics, options=SubscribeOptions(qos=1, retainHandling=1))

    client.on_connect = connected
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _client, _userdata, message: heard(
        message.topic, bytes(message.payload), time.monotonic()
    )
    _connect(client, address)
    client.loop_start()
    try:
        assert ready.wait(20)
        yield
    finally:
        client.disconnect()
        client.loop_stop()
