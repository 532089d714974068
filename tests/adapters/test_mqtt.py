"""The connection against real brokers, and against a broker that misbehaves."""

import random
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.embedded import EmbeddedBroker as Broker
from insa_anomaly.adapters.embedded import Tools, free_port
from insa_anomaly.adapters.mqtt import Access, Backoff, Feeder, Listener, MqttConnection, Terms, Tls
from insa_anomaly.core.operations.certificate import expires
from insa_anomaly.errors import BrokerAway, BrokerRefused, ConfigError
from insa_anomaly.ports.broker import Delivery, Settled
from tests.adapters.scripted_broker import PUBLISH, SUBSCRIBE, ScriptedBroker, Wire
from tests.conftest import Server, wait_for

QUICK = Backoff(0.02, 0.1)
readers = pytest.mark.parametrize("reader", ["fast", "stock"])


def access(broker: Broker, client_id: str) -> Access:
    """Describe the access to a broker of ours."""
    return Access(broker.host, broker.port, client_id, broker.user, broker.password)


def to_script(server: ScriptedBroker) -> Access:
    """Describe the access to a scripted broker."""
    return Access("127.0.0.1", server.port, "daemon")


class Inbox:
    """A hand-over that stores each delivery, and acknowledges it where `acknowledging`."""

    def __init__(self, *, acknowledging: bool = True) -> None:
        self.deliveries: list[Delivery] = []
        self.acknowledging = acknowledging
        self.connection: MqttConnection | None = None

    def __call__(self, delivery: Delivery) -> bool:
        """Acknowledge the delivery, then store it.

        A stored delivery therefore has its acknowledgement under way.
        """
        if self.acknowledging and self.connection is not None:
            self.connection.acknowledge(delivery)
        self.deliveries.append(delivery)
        return True

    @property
    def payloads(self) -> list[bytes]:
        """All payloads that arrived, in order."""
        return [payload for delivery in self.deliveries for _, payload in delivery.messages]


def connect(
    place: Access, terms: Terms, inbox: Inbox, reader: str = "fast", backoff: Backoff = QUICK
) -> MqttConnection:
    """Open a connection that feeds the inbox."""
    connection = inbox.connection = MqttConnection(
        place, terms, inbox, reader=reader, backoff=backoff
    )
    assert connection.open(10), connection.trouble
    return connection


def settled(connection: MqttConnection, count: int) -> list[Settled]:
    """Return `count` answers, or fewer after 10 s."""
    answers: list[Settled] = []
    deadline = time.monotonic() + 10
    while len(answers) < count and time.monotonic() < deadline:
        answers += connection.settled(0.1)
    return answers


def feed(broker: Broker, name: str, messages: list[tuple[str, bytes]]) -> None:
    """Publish messages, and wait for their acknowledgement."""
    with Feeder(access(broker, f"{name}-feeder")) as feeder:
        assert feeder.open(10)
        for topic, payload in messages:
            feeder.publish(topic, payload)
        assert feeder.drain(20) == 0


@pytest.fixture(autouse=True)
def _no_thread_dies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the test if an exception ends a thread."""
    failures: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    yield
    assert not failures


# ---------------------------------------------------------------------------- with mosquitto
@readers
def test_what_comes_while_we_are_away_waits_for_us(
    mosquitto: Broker, unique: str, reader: str
) -> None:
    """The session outlives the process: messages published meanwhile are delivered in order.

    Each is delivered once.
    """
    terms = Terms([f"{unique}/#"], expiry=100)
    with connect(access(mosquitto, unique), terms, Inbox(), reader):
        pass
    messages = [(f"{unique}/{i}", b"%d" % i) for i in range(3000)]
    feed(mosquitto, unique, messages)
    inbox = Inbox()
    with connect(access(mosquitto, unique), terms, inbox, reader) as connection:
        wait_for(lambda: len(inbox.payloads) >= 3000)
        assert [
            message for delivery in inbox.deliveries for message in delivery.messages
        ] == messages
        assert connection.sessions_lost == 0
        connection.publish(f"other/{unique}", b"")
        # mosquitto has read all acknowledgements; an unread one would cause a redelivery
        assert settled(connection, 1)
    inbox = Inbox()
    with connect(access(mosquitto, unique), terms, inbox, reader):
        feed(mosquitto, unique, [(f"{unique}/last", b"last")])
        wait_for(lambda: b"last" in inbox.payloads)
        assert inbox.payloads == [b"last"]


@readers
def test_what_was_not_acknowledged_comes_again(mosquitto: Broker, unique: str, reader: str) -> None:
    """Deliveries of an earlier connection are delivered again.

    Acknowledging the old deliveries does not swallow the new ones.
    """
    terms = Terms([f"{unique}/#"], expiry=100)
    first, second, third = Inbox(acknowledging=False), Inbox(acknowledging=False), Inbox()
    expected = [b"%d" % i for i in range(100)]
    with connect(access(mosquitto, unique), terms, first, reader):
        feed(mosquitto, unique, [(f"{unique}/{i}", b"%d" % i) for i in range(100)])
        wait_for(lambda: len(first.payloads) >= 100)
    with connect(access(mosquitto, unique), terms, second, reader) as connection:
        wait_for(lambda: len(second.payloads) >= 100)
        for delivery in first.deliveries:
            connection.acknowledge(replace_generation(delivery, -1))
        time.sleep(0.1)
    with connect(access(mosquitto, unique), terms, third, reader):
        wait_for(lambda: len(third.payloads) >= 100)
    assert first.payloads == second.payloads == third.payloads == expected


def replace_generation(delivery: Delivery, generation: int) -> Delivery:
    """Return the same messages as a delivery of another connection."""
    return Delivery(generation, delivery.messages, delivery.mids)


@readers
def test_shedding_gives_messages_back_and_gets_them_again(
    mosquitto: Broker, unique: str, reader: str
) -> None:
    """A message that found no room is delivered again on a new connection; none is lost."""
    had: list[bytes] = []
    refusals = [False, False]

    def take(delivery: Delivery) -> bool:
        if refusals:
            return refusals.pop()
        had.extend(payload for _, payload in delivery.messages)
        connection.acknowledge(delivery)
        return True

    terms = Terms([f"{unique}/#"], expiry=100)
    with MqttConnection(
        access(mosquitto, unique), terms, take, reader=reader, backoff=QUICK
    ) as connection:
        assert connection.open(10)
        feed(mosquitto, unique, [(f"{unique}/{i}", b"%d" % i) for i in range(500)])
        wait_for(lambda: len(set(had)) >= 500)
        assert connection.generation == 5
        assert connection.sessions_lost == 0


@readers
def test_a_hand_over_that_raises_ends_the_connection_not_the_thread(
    mosquitto: Broker, unique: str, reader: str
) -> None:
    """The reason is logged, and the messages come again."""
    had: list[bytes] = []
    faults: list[Exception] = [KeyError("a bug"), RecursionError("another")]

    def take(delivery: Delivery) -> bool:
        if faults:
            raise faults.pop()
        had.extend(payload for _, payload in delivery.messages)
        connection.acknowledge(delivery)
        return True

    terms = Terms([f"{unique}/#"], expiry=100)
    with (
        capture_logs() as logs,
        MqttConnection(
            access(mosquitto, unique), terms, take, reader=reader, backoff=QUICK
        ) as connection,
    ):
        assert connection.open(10)
        feed(mosquitto, unique, [(f"{unique}/a", b"1")])
        wait_for(lambda: had == [b"1"])
    assert [log["reason"] for log in logs if log["action"] == "broker_disconnected"] == [
        "RecursionError: another",
        "KeyError: 'a bug'",
    ]


@readers
def test_waiting_for_room_holds_the_broker_back(
    mosquitto: Broker, unique: str, reader: str
) -> None:
    """While the hand-over waits, no further message is handed over.

    The connection lasts, and all messages come afterwards.
    """
    gate, seen = threading.Event(), Inbox()

    def take(delivery: Delivery) -> bool:
        seen(delivery)
        return gate.wait(10)

    with MqttConnection(
        access(mosquitto, unique), Terms([f"{unique}/#"], expiry=100), take, reader=reader
    ) as connection:
        assert connection.open(10)
        seen.connection = connection
        feed(mosquitto, unique, [(f"{unique}/{i}", b"x" * 1000) for i in range(5000)])
        count = len(seen.deliveries)
        time.sleep(0.2)
        assert len(seen.deliveries) == count == 1
        gate.set()
        wait_for(lambda: len(seen.payloads) >= 5000)
        assert connection.generation == 1


@readers
def test_subscriptions_of_an_earlier_run_are_given_up(
    mosquitto: Broker, unique: str, reader: str
) -> None:
    """A stored session retains its subscriptions; filters no longer configured are undone."""
    place = access(mosquitto, unique)
    with connect(place, Terms([f"{unique}/old/#", f"{unique}/new/#"], expiry=100), Inbox(), reader):
        pass
    inbox = Inbox()
    with connect(
        place,
        Terms([f"{unique}/new/#"], [f"{unique}/old/#", f"{unique}/new/#"], expiry=100),
        inbox,
        reader,
    ):
        feed(mosquitto, unique, [(f"{unique}/old/a", b"old"), (f"{unique}/new/a", b"new")])
        wait_for(lambda: inbox.payloads)
        time.sleep(0.1)
        assert inbox.payloads == [b"new"]


@readers
def test_retained_messages_are_not_sent_again_at_every_reconnect(
    mosquitto: Broker, unique: str, reader: str
) -> None:
    """A retained message comes with the first subscription of a session only."""
    with MqttConnection(access(mosquitto, f"{unique}-other"), Terms(), lambda _: True) as other:
        assert other.open(10)
        other.publish(f"{unique}/a", b"kept", retain=True)
        assert [answer.refused for answer in other.settled(5)] == [None]
    first, second = Inbox(), Inbox()
    for inbox in (first, second):
        with connect(access(mosquitto, unique), Terms([f"{unique}/#"], expiry=100), inbox, reader):
            time.sleep(0.1)
    assert (first.payloads, second.payloads) == ([b"kept"], [])


@readers
def test_more_publishes_than_the_broker_allows_at_once(
    short_path: Path, tools: Tools, unique: str, reader: str
) -> None:
    """A broker that allows 5 publishes under way gets 5 at a time.

    300 publishes are settled, and the connection lasts.
    """
    with embedded.mosquitto(
        short_path / "m", tools, settings={"max_inflight_messages": "5"}
    ) as broker:
        with connect(access(broker, unique), Terms(), Inbox(), reader) as connection:
            tokens = {connection.publish(f"{unique}/{i}", b"x") for i in range(300)}
            assert {answer.token for answer in settled(connection, 300)} == tokens
            assert connection.generation == 1
        feed(broker, unique, [(f"{unique}/{i}", b"x") for i in range(300)])


@readers
def test_two_with_one_client_id_wage_no_war(mosquitto: Broker, unique: str, reader: str) -> None:
    """A takeover of the client id is recognised after a few reconnects, logged and waited out.

    mosquitto just hangs up on a client that another client replaces.
    """
    backoff = Backoff(0.02, 60.0)
    place, terms = access(mosquitto, unique), Terms(expiry=100)
    with (
        capture_logs() as logs,
        connect(place, terms, Inbox(), reader, backoff) as first,
        connect(place, terms, Inbox(), reader, backoff) as second,
    ):
        wait_for(lambda: any(log["action"] == "broker_taken_over" for log in logs))
        time.sleep(0.3)
        generations = first.generation, second.generation
        assert max(generations) <= 10
        time.sleep(0.3)
        assert (first.generation, second.generation) == generations
        assert first.alive
        assert second.alive
    taken = [log for log in logs if log["action"] == "broker_taken_over"]
    assert taken[0]["client_id"] == unique
    assert taken[0]["retry_seconds"] >= 8


def test_a_takeover_that_is_named_is_waited_out_at_once() -> None:
    """A broker that reports 0x8E once is believed."""

    def script(wire: Wire) -> None:
        wire.accept()
        wire.send(0xE0, b"\x8e")
        wire.serve()

    with (
        capture_logs() as logs,
        ScriptedBroker(script) as server,
        connect(to_script(server), Terms(), Inbox(), backoff=Backoff(0.02, 60)),
    ):
        wait_for(lambda: any(log["action"] == "broker_taken_over" for log in logs))
        time.sleep(0.2)
        assert len(server.wires) == 1


@readers
def test_a_wrong_password_is_one_clear_error(mosquitto: Broker, unique: str, reader: str) -> None:
    """A wrong password is refused at once, with the broker's address and reason.

    The error does not contain the password.
    """
    place = replace(access(mosquitto, unique), password="wrong-secret")  # noqa: S106 - it is none
    connection = MqttConnection(place, Terms(), lambda _: True, reader=reader)
    with pytest.raises(
        BrokerRefused, match=rf"{place.host}:{place.port} refuses us: Not authorized"
    ) as refused:
        connection.open(10)
    assert not connection.alive
    assert "wrong-secret" not in str(refused.value) + repr(place)


def test_a_password_changed_under_way_is_logged_once(unique: str) -> None:
    """A connection that is refused under way keeps trying, and logs a single line.

    The connection returns when the broker admits it again.
    """

    def script(wire: Wire) -> None:
        if 1 < wire.number < 6:
            wire.accept(code=0x87)
            return
        wire.accept()
        wire.serve(until=SUBSCRIBE)
        if wire.number >= 6:
            wire.serve()

    with (
        capture_logs() as logs,
        ScriptedBroker(script) as server,
        connect(to_script(server), Terms(["t"], expiry=9), Inbox()) as it,
    ):
        wait_for(lambda: len(server.wires) >= 6 and it.connected)
    assert [log["reason"] for log in logs if log["action"] == "broker_refused"] == [
        "Not authorized"
    ]


@readers
def test_the_will_is_published_when_we_are_gone_without_a_word(
    mosquitto: Broker, unique: str, reader: str
) -> None:
    """The will is published when the connection is cut, and not when the client disconnects.

    The will is retained, so that later subscribers receive it too.
    """
    heard: list[bytes] = []
    terms = Terms(will=(f"{unique}/status", b"offline"), expiry=100)
    with Listener(
        access(mosquitto, f"{unique}-l"),
        [f"{unique}/status"],
        lambda _, payload, __: heard.append(payload),
    ) as listener:
        assert listener.open(10)
        with connect(access(mosquitto, unique), terms, Inbox(), reader) as connection:
            connection.publish(f"{unique}/status", b"online", retain=True)
            wait_for(lambda: heard == [b"online"])
        time.sleep(0.1)
        with connect(
            access(mosquitto, unique), terms, Inbox(), reader, Backoff(9, 9)
        ) as connection:
            assert connection._trying is not None
            connection._trying.cut()
            wait_for(lambda: heard == [b"online", b"offline"])


def test_a_feeder_outlives_a_restart_of_the_broker(
    own_mosquitto: Server[Broker], unique: str
) -> None:
    """Unacknowledged messages are sent again, so that each arrives at least once.

    The same holds when the broker was killed in between.
    """
    inbox = Inbox()
    with (
        connect(access(own_mosquitto.address, unique), Terms([f"{unique}/#"], expiry=100), inbox),
        Feeder(access(own_mosquitto.address, f"{unique}-f"), backoff=QUICK) as feeder,
    ):
        assert feeder.open(10)
        for i in range(20_000):
            feeder.publish(f"{unique}/{i % 100}", b"%d" % i)
            if i == 10_000:
                own_mosquitto.kill()
                assert feeder.unacknowledged()
                own_mosquitto.start()
        assert feeder.drain(20) == 0
        assert feeder.count_acknowledged == 20_000
        wait_for(lambda: inbox.connection and inbox.connection.connected)
    # messages that the broker lost in its crash cannot be recovered
    assert len(set(inbox.payloads)) > 15_000


def test_a_feeder_says_when_the_broker_is_lost_for_good(
    own_mosquitto: Server[Broker], unique: str
) -> None:
    """A feeder waits for its patience, then raises BrokerAway.

    A topic that no client can publish to is refused at once.
    """
    with Feeder(
        access(own_mosquitto.address, unique), window=10, patience=0.2, backoff=QUICK
    ) as feeder:
        assert feeder.open(10)
        with pytest.raises(BrokerRefused, match="topic name invalid"):
            feeder.publish("a/+", b"x")
        own_mosquitto.stop()
        for _ in range(10):
            feeder.publish("a", b"x")
        with pytest.raises(BrokerAway, match="acknowledges nothing"):
            feeder.publish("a", b"x")
        assert feeder.drain(0.1) == 10


def test_a_listener_hears_with_the_time(mosquitto: Broker, unique: str) -> None:
    """A listener receives topic, payload and time of arrival."""
    heard: list[tuple[str, bytes, float]] = []
    with Listener(
        access(mosquitto, unique), [f"{unique}/#"], lambda *message: heard.append(message)
    ) as listener:
        assert listener.open(10)
        before = time.monotonic()
        feed(mosquitto, unique, [(f"{unique}/ä", b"x")])
        wait_for(lambda: heard)
    assert heard[0][:2] == (f"{unique}/ä", b"x")
    assert before <= heard[0][2] <= time.monotonic()


@readers
def test_over_tls(short_path: Path, tools: Tools, unique: str, reader: str) -> None:
    """Both readers work over TLS, with small and large messages.

    The certificate of the broker can be inspected.
    """
    files = certificates(short_path)
    settings = {
        "cafile": str(files / "ca.crt"),
        "certfile": str(files / "server.crt"),
        "keyfile": str(files / "server.key"),
    }
    messages = [
        (f"{unique}/{i}", bytes([i % 256]) * size)
        for i, size in enumerate([0, 1, 100, 20_000, 200_000] * 20)
    ]
    with embedded.mosquitto(short_path / "m", tools, settings=settings) as broker:
        place = replace(access(broker, unique), tls=Tls(ca=files / "ca.crt"))
        inbox = Inbox()
        terms = Terms([f"{unique}/#"], expiry=100)
        with (
            connect(place, terms, inbox, reader) as connection,
            Feeder(replace(place, client_id="f")) as feeder,
        ):
            assert feeder.open(10)
            for message in messages:
                feeder.publish(*message)
            assert feeder.drain(20) == 0
            wait_for(lambda: len(inbox.payloads) >= len(messages))
            assert [
                message for delivery in inbox.deliveries for message in delivery.messages
            ] == messages
            assert connection.generation == 1
            end = expires(connection.certificate or b"")
            assert end is not None
            assert 1.9 < (end / 1e6 - time.time()) / 86_400 < 2.1


@readers
# paho lets go of a socket without closing it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_certificate_of_an_unknown_authority_is_refused(
    short_path: Path, tools: Tools, unique: str, reader: str
) -> None:
    """The error states the reason, and no password has been sent."""
    files = certificates(short_path)
    settings = {"certfile": str(files / "server.crt"), "keyfile": str(files / "server.key")}
    with embedded.mosquitto(short_path / "m", tools, settings=settings) as broker:
        place = replace(access(broker, unique), tls=Tls())
        with pytest.raises(BrokerRefused, match="certificate is not accepted"):
            MqttConnection(place, Terms(), lambda _: True, reader=reader).open(10)


def certificates(folder: Path) -> Path:
    """Create an authority, and a certificate for 127.0.0.1 that the broker's account can read."""

    def openssl(arguments: str) -> None:
        argv = ["openssl", *shlex.split(arguments)]
        subprocess.run(argv, cwd=folder, check=True, capture_output=True)

    new = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    openssl(f"{new} -x509 -keyout ca.key -out ca.crt -subj '/CN=test authority'")
    openssl(f"{new} -keyout server.key -out server.csr -subj /CN=127.0.0.1")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    signed = "-CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names"
    openssl(f"x509 -req -in server.csr {signed} -out server.crt")
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(0o644)
    return folder


def test_tls_files_that_are_missing_are_a_matter_of_configuration(tmp_path: Path) -> None:
    """A missing TLS file raises an error that names the file."""
    with pytest.raises(ConfigError, match=r"ca\.crt"):
        MqttConnection(
            Access("localhost", 1, "x", tls=Tls(ca=tmp_path / "ca.crt")), Terms(), lambda _: True
        )


# ---------------------------------------------------------------- with amqtt, and with scripts
@readers
def test_with_amqtt_it_falls_back_to_mqtt_3(
    tmp_path: Path, unique: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker without MQTT 5 that does not report so is used in 3.1.1, and delivery works."""
    monkeypatch.setattr("insa_anomaly.adapters.mqtt.link._ANSWER_SECONDS", 0.5)
    with embedded.amqtt(tmp_path / "amqtt") as broker:
        inbox = Inbox()
        with (
            capture_logs() as logs,
            connect(
                access(broker, unique), Terms([f"{unique}/#"], expiry=100), inbox, reader
            ) as connection,
        ):
            feed(broker, unique, [(f"{unique}/{i}", b"%d" % i) for i in range(200)])
            wait_for(lambda: len(inbox.payloads) >= 200)
            token = connection.publish(f"other/{unique}", b"x")
            assert connection.settled(5) == [Settled(token, None)]
    assert [log["protocol"] for log in logs if log["action"] == "broker_connected"] == ["3.1.1"]


@readers
@pytest.mark.parametrize("answer", [None, b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00"])
def test_a_broker_without_mqtt_5_is_spoken_to_in_3(reader: str, answer: bytes | None) -> None:
    """A broker without MQTT 5 hangs up, or refuses in the words of 3.1.1 or of 5.

    A later connection does not try 5 again.
    """

    def script(wire: Wire) -> None:
        if wire.number == 1:
            wire.connect()
            if answer:
                wire.socket.sendall(answer)
            return
        wire.accept()
        wire.serve(until=SUBSCRIBE if wire.number == 2 else None)

    with (
        ScriptedBroker(script) as server,
        connect(to_script(server), Terms(["t"], expiry=9), Inbox(), reader),
    ):
        wait_for(lambda: len(server.wires) >= 3 and server.wires[2].protocol)
        assert [wire.protocol for wire in server.wires[:3]] == [5, 4, 4]


@readers
def test_a_broker_that_once_spoke_mqtt_5_is_not_spoken_down_to(reader: str) -> None:
    """A broker that has spoken MQTT 5 and hangs up later is still addressed in MQTT 5.

    A broker that is just starting does so.
    """

    def script(wire: Wire) -> None:
        if wire.number in {2, 3}:
            wire.connect()
            return
        wire.accept()
        wire.serve(until=SUBSCRIBE if wire.number == 1 else None)

    with (
        ScriptedBroker(script) as server,
        connect(to_script(server), Terms(["t"], expiry=9), Inbox(), reader),
    ):
        wait_for(lambda: len(server.wires) >= 4 and server.wires[3].protocol)
        assert {wire.protocol for wire in server.wires} == {5}


@readers
def test_a_session_the_broker_forgot_is_counted(reader: str) -> None:
    """A session is lost at every later connection that finds none, and not at the very first."""

    def script(wire: Wire) -> None:
        wire.accept(session_present=wire.number == 2)
        wire.serve(until=SUBSCRIBE if wire.number < 3 else None)

    with (
        capture_logs() as logs,
        ScriptedBroker(script) as server,
        connect(to_script(server), Terms(["t"], expiry=9), Inbox(), reader) as connection,
    ):
        wait_for(lambda: connection.generation == 5)
        assert connection.sessions_lost == 1
    assert sum(log["action"] == "session_lost" for log in logs) == 1


@readers
@pytest.mark.parametrize(
    ("reason", "refused"), [(0x10, None), (0x87, "not authorized"), (0x97, "quota exceeded")]
)
def test_the_broker_s_reason_is_passed_on(reader: str, reason: int, refused: str | None) -> None:
    """A publish is accepted below 0x80, also without subscribers, and refused above.

    A refusal carries the reason.
    """

    def script(wire: Wire) -> None:
        wire.accept()
        wire.serve(puback=reason)

    with (
        ScriptedBroker(script) as server,
        connect(to_script(server), Terms(), Inbox(), reader) as connection,
    ):
        token = connection.publish("t", b"x")
        assert connection.settled(5) == [Settled(token, refused)]


def test_a_reason_that_paho_does_not_know_is_passed_on_too() -> None:
    """Reason 0x95, too large, makes paho end the connection; the fast reader reports it."""

    def script(wire: Wire) -> None:
        wire.accept()
        wire.serve(puback=0x95)

    with (
        ScriptedBroker(script) as server,
        connect(to_script(server), Terms(), Inbox()) as connection,
    ):
        token = connection.publish("t", b"x")
        assert connection.settled(5) == [Settled(token, "packet too large")]


@readers
def test_what_the_broker_would_not_take_is_not_sent(reader: str) -> None:
    """A packet above the size that the broker announced is settled as refused, and not sent."""

    def script(wire: Wire) -> None:
        wire.accept(properties=b"\x27\x00\x00\x03\xe8")
        wire.serve()

    with (
        ScriptedBroker(script) as server,
        connect(to_script(server), Terms(), Inbox(), reader) as connection,
    ):
        large, small = connection.publish("t", b"x" * 1000), connection.publish("t", b"x" * 900)
        assert settled(connection, 2) == [Settled(large, "packet too large"), Settled(small, None)]
        assert [len(body) for head, body in server.wires[0].packets if head & 0xF0 == PUBLISH] == [
            906
        ]


@readers
def test_stale_acknowledgements_cannot_swallow_messages_of_a_new_session(reader: str) -> None:
    """An acknowledgement of a lost session is not sent, neither before CONNECT nor after.

    Packet ids start again at 1 in the new session.
    """

    def script(wire: Wire) -> None:
        wire.accept()
        wire.serve(until=SUBSCRIBE)
        for mid in range(1, 21):
            wire.publish("t", b"%d" % wire.number, mid)
        if wire.number == 1:
            handed.wait(5)
            return
        wire.serve()

    handed = threading.Event()
    inbox, terms = Inbox(acknowledging=False), Terms(["t"], expiry=9)
    with (
        ScriptedBroker(script) as server,
        connect(to_script(server), terms, inbox, reader, Backoff(0.2, 0.2)) as connection,
    ):
        wait_for(lambda: inbox.payloads.count(b"1") == 20)
        old = list(inbox.deliveries)
        handed.set()
        while inbox.payloads.count(b"2") < 20:
            for delivery in old:
                connection.acknowledge(delivery)
        for delivery in old:
            connection.acknowledge(delivery)
        time.sleep(0.1)
        assert [wire.pubacks for wire in server.wires] == [[], []]
        for delivery in inbox.deliveries[len(old) :]:
            connection.acknowledge(delivery)
        wait_for(lambda: server.wires[1].pubacks == list(range(1, 21)))


@readers
def test_a_subscription_that_is_denied_stops_the_start(reader: str) -> None:
    """The error names the denied subscription and the reason."""

    def script(wire: Wire) -> None:
        wire.accept()
        while True:
            head, body = wire.packet()
            if head & 0xF0 == SUBSCRIBE:
                wire.send(0x90, body[:2] + b"\0\1\x87")

    with ScriptedBroker(script) as server:
        connection = MqttConnection(
            to_script(server), Terms(["good/#", "secret/#"]), lambda _: True, reader=reader
        )
        with pytest.raises(BrokerRefused, match="subscription to secret/#: Not authorized"):
            connection.open(10)


@readers
def test_with_nobody_there_it_keeps_trying(reader: str) -> None:
    """`open` returns False in its time, and the connection is made once there is a broker."""
    port = free_port()
    with MqttConnection(
        Access("127.0.0.1", port, "x"), Terms(["t"]), lambda _: True, reader=reader, backoff=QUICK
    ) as connection:
        assert not connection.open(0.1)
        assert "refused" in connection.trouble

        def script(wire: Wire) -> None:
            wire.accept()
            wire.serve()

        with ScriptedBroker(script, port):
            wait_for(lambda: connection.connected)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "", "a" * 70 + ".example", "xn--\udcff"])
def test_a_name_that_does_not_resolve_is_no_end(host: str) -> None:
    """A host name that does not resolve is tried again; the thread lives."""
    with MqttConnection(
        Access(host, 1883, "x"), Terms(), lambda _: True, backoff=QUICK
    ) as connection:
        assert not connection.open(0.3)
        assert connection.alive
        assert connection.trouble != "not connected yet"


@readers
@pytest.mark.parametrize("frozen", ["before CONNACK", "after CONNACK", "full"])
def test_a_frozen_broker_does_not_hold_up_the_end(
    reader: str, frozen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that stops reading delays `close` by no more than its own deadline.

    The same holds with much data on its way to the broker.
    """
    monkeypatch.setattr("insa_anomaly.adapters.mqtt.session._LEAVE_SECONDS", 0.5)
    release = threading.Event()

    def script(wire: Wire) -> None:
        if frozen == "before CONNACK":
            release.wait(20)
            return
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.accept()
        release.wait(20)

    with ScriptedBroker(script) as server:
        connection = MqttConnection(to_script(server), Terms(), lambda _: True, reader=reader)
        assert connection.open(0.5) == (frozen != "before CONNACK")
        if frozen == "full":
            for _ in range(100):
                connection.publish("t", b"x" * 200_000)
        began = time.monotonic()
        connection.close()
        assert time.monotonic() - began < 2
        assert not connection.alive
        release.set()


@readers
@pytest.mark.parametrize("seed", range(3))
def test_nothing_a_broker_sends_kills_the_thread(reader: str, seed: int) -> None:
    """Noise and broken packets at any moment, on many connections in a row, end no thread.

    The connection is made again each time, and works when the broker does.
    """
    noise = random.Random(seed)
    rounds = 40

    def script(wire: Wire) -> None:
        if wire.number > rounds:
            wire.accept()
            wire.serve(until=SUBSCRIBE)
            wire.publish("t", b"good", 1)
            wire.serve()
            return
        if noise.random() < 0.8:
            wire.accept()
        head = noise.choice(
            [
                0x20,
                0x30,
                0x32,
                0x34,
                0x40,
                0x50,
                0x62,
                0x90,
                0xB0,
                0xD0,
                0xE0,
                0xF0,
                0x00,
                noise.randrange(256),
            ]
        )
        body = noise.randbytes(noise.choice([0, 1, 2, 3, 4, 8, 40, 300]))
        wire.send(head, body)
        wire.socket.sendall(noise.randbytes(noise.choice([0, 1, 5, 100])))
        wire.socket.shutdown(socket.SHUT_WR)
        wire.serve()

    inbox = Inbox()
    with ScriptedBroker(script) as server:
        terms, backoff = Terms(["t"], expiry=9), Backoff(0.001, 0.002)
        connection = inbox.connection = MqttConnection(
            to_script(server), terms, inbox, reader=reader, backoff=backoff
        )
        with connection:
            try:
                connection.open(0.01)
            except BrokerRefused:
                # noise can look like a refusal; the caller at start gets the error, so ask again
                pytest.skip("the first noise read as a refusal")
            wait_for(lambda: b"good" in inbox.payloads or not connection.alive, 30)
            assert b"good" in inbox.payloads
            assert connection.alive


@readers
def test_an_idle_connection_is_kept_alive(
    mosquitto: Broker, unique: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pings are sent and answered, so that the broker does not give up the client."""
    # far below the keepalive, as else
    monkeypatch.setattr("insa_anomaly.adapters.mqtt.link._TURN_SECONDS", 0.1)
    with connect(
        replace(access(mosquitto, unique), keepalive=4), Terms([unique]), Inbox(), reader
    ) as connection:
        # the broker gives up 6 s after the last packet: a busy machine has 2 s to answer in time
        time.sleep(7)
        assert connection.connected
        assert connection.generation == 1


@readers
def test_a_connection_that_is_dead_is_noticed(reader: str) -> None:
    """A broker that answers no ping is given up after the keepalive, and connected to anew."""

    def script(wire: Wire) -> None:
        wire.accept()
        if wire.number > 1:
            wire.serve()
        while True:
            wire.packet()

    with (
        ScriptedBroker(script) as server,
        connect(replace(to_script(server), keepalive=1), Terms(), Inbox(), reader) as connection,
    ):
        wait_for(lambda: connection.generation == 3)


@readers
def test_reconnecting_leaves_nothing_behind(reader: str) -> None:
    """Open files and threads after a hundred connections are no more than after ten."""
    counts: list[tuple[int, int]] = []

    def script(wire: Wire) -> None:
        counts.append((len(list(Path("/proc/self/fd").iterdir())), threading.active_count()))
        wire.accept()
        wire.serve(until=SUBSCRIBE)

    with (
        ScriptedBroker(script) as server,
        connect(to_script(server), Terms(["t"], expiry=9), Inbox(), reader, Backoff(0.001, 0.001)),
    ):
        wait_for(lambda: len(counts) >= 100, 20)
    assert max(files for files, _ in counts[10:]) <= max(files for files, _ in counts[:10]) + 4
    assert (
        max(threads for _, threads in counts[10:]) <= max(threads for _, threads in counts[:10]) + 2
    )


def test_closing_before_opening_is_harmless() -> None:
    """A connection that never opened can be closed."""
    connection = MqttConnection(Access("127.0.0.1", 1, "x"), Terms(), lambda _: True)
    connection.close()
    with pytest.raises(BrokerAway):
        connection.publish("t", b"x")
