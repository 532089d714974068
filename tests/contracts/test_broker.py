"""The contract of every broker: in memory, and on a wire with both readers and MQTT 4 and 5."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import pytest

from insa_anomaly.adapters.mqtt import Access, Backoff, MqttConnection, Terms
from insa_anomaly.errors import BrokerAway
from insa_anomaly.ports.broker import Broker, Delivery, Settled
from insa_anomaly.testing.broker import MemoryBroker
from tests.adapters.scripted_broker import ScriptedBroker, Wire
from tests.conftest import wait_for


class Openable(Broker, Protocol):
    """A broker that a test opens."""

    def open(self, patience: float) -> bool:
        """Connect."""


@dataclass
class Taken:
    """A hand-over that records deliveries. It returns the prepared `answers`, and then True."""

    deliveries: list[Delivery] = field(default_factory=list)
    answers: list[bool] = field(default_factory=list)

    def __call__(self, delivery: Delivery) -> bool:
        """Record the delivery."""
        self.deliveries.append(delivery)
        return self.answers.pop(0) if self.answers else True


@dataclass
class Stage:
    """A broker that is not connected yet, and both ends of its connection."""

    broker: Openable
    deliver: Callable[[list[tuple[str, bytes]]], object]
    end: Callable[[], None]  # ends the connection, which comes back
    acknowledged: Callable[[], list[int]]  # packet ids, on any connection
    taken: Taken

    @property
    def deliveries(self) -> list[Delivery]:
        """Deliveries handed over so far."""
        return self.taken.deliveries


@contextmanager
def in_memory() -> Iterator[Stage]:
    """Yield a broker in memory."""
    taken = Taken()
    broker = MemoryBroker(taken)

    def end() -> None:
        broker.close()
        broker.open()

    yield Stage(
        broker,
        broker.deliver,
        end,
        lambda: [mid for delivery in broker.acknowledged for mid in delivery.mids],
        taken,
    )


@contextmanager
def on_a_wire(reader: str, protocol: int) -> Iterator[Stage]:
    """Yield a broker connected to a scripted server."""

    def script(wire: Wire) -> None:
        if protocol == 4 and wire.number == 1:
            return  # sends no CONNACK, like a broker without MQTT 5
        wire.accept(session_present=wire.number > 1)
        wire.serve()

    def deliver(messages: list[tuple[str, bytes]]) -> None:
        for mid, (topic, payload) in enumerate(messages, 1):
            server.wires[-1].publish(topic, payload, mid)

    def end() -> None:
        server.wires[-1].socket.shutdown(socket.SHUT_RDWR)

    with ScriptedBroker(script) as server:
        access = Access("127.0.0.1", server.port, "daemon")
        terms = Terms(["t/#"], expiry=100)
        taken = Taken()
        with MqttConnection(
            access, terms, taken, reader=reader, backoff=Backoff(0.01, 0.05)
        ) as broker:
            yield Stage(
                broker,
                deliver,
                end,
                lambda: [mid for wire in server.wires for mid in wire.pubacks],
                taken,
            )


BODIES: dict[str, Callable[[], AbstractContextManager[Stage]]] = {
    "memory": in_memory,
    **{
        f"{reader}-{protocol}": partial(on_a_wire, reader, protocol)
        for reader in ("fast", "stock")
        for protocol in (5, 4)
    },
}


@pytest.fixture(params=BODIES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Yield a broker of each kind."""
    with BODIES[request.param]() as stage:
        yield stage


def settled(broker: Broker, count: int) -> list[Settled]:
    """Wait for `count` settled publications."""
    answers: list[Settled] = []
    deadline = time.monotonic() + 10
    while len(answers) < count and time.monotonic() < deadline:
        answers += broker.settled(0.1)
    return answers


def test_nothing_goes_out_unconnected(stage: Stage) -> None:
    """A publication without a connection raises `BrokerAway`."""
    assert not stage.broker.connected
    with pytest.raises(BrokerAway):
        stage.broker.publish("out", b"x")


def test_every_publish_is_settled_once_under_its_token(stage: Stage) -> None:
    """Every publication has a token of its own and is settled once, with the broker's answer."""
    stage.broker.open(5)
    tokens = [stage.broker.publish(f"out/{i}", b"x" * i, retain=i % 2 == 0) for i in range(50)]
    assert len(set(tokens)) == 50
    answers = settled(stage.broker, 50)
    assert sorted(answer.token for answer in answers) == sorted(tokens)
    assert {answer.refused for answer in answers} == {None}
    assert stage.broker.settled(0.0) == []


def test_waiting_for_answers_ends(stage: Stage) -> None:
    """`settled` returns an empty list in time if no message was published."""
    stage.broker.open(5)
    began = time.monotonic()
    assert stage.broker.settled(0.05) == []
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("topic", ["out/+", "out/#", "out/\0", "out/\n", ""])
def test_a_topic_nobody_can_publish_to_is_refused_not_fatal(stage: Stage, topic: str) -> None:
    """An invalid topic is settled as refused, and the connection stays open."""
    stage.broker.open(5)
    generation = stage.broker.generation
    token = stage.broker.publish(topic, b"x")
    assert settled(stage.broker, 1) == [Settled(token, "topic name invalid")]
    after = stage.broker.publish("out", b"x")
    assert settled(stage.broker, 1) == [Settled(after, None)]
    assert stage.broker.generation == generation


def test_deliveries_come_in_order_and_acknowledgements_go_out_in_order(stage: Stage) -> None:
    """Messages are delivered in order, and acknowledgements are sent in the same order."""
    stage.broker.open(5)
    messages = [(f"t/{i}", b"%d" % i) for i in range(200)]
    stage.deliver(messages)
    wait_for(lambda: sum(len(delivery.messages) for delivery in stage.deliveries) >= 200)
    assert [message for delivery in stage.deliveries for message in delivery.messages] == messages
    for delivery in stage.deliveries:
        assert delivery.generation == stage.broker.generation
        stage.broker.acknowledge(delivery)
    wait_for(lambda: len(stage.acknowledged()) >= 200)
    assert stage.acknowledged() == [mid for delivery in stage.deliveries for mid in delivery.mids]


def test_a_new_connection_has_a_new_generation(stage: Stage) -> None:
    """The generation increases at the end and at the start of a connection.

    A late reader of it still sees the interruption.
    """
    stage.broker.open(5)
    generation = stage.broker.generation
    stage.end()
    wait_for(lambda: stage.broker.connected and stage.broker.generation >= generation + 2)
    token = stage.broker.publish("out", b"x")
    assert settled(stage.broker, 1) == [Settled(token, None)]


def test_acknowledgements_never_reach_another_connection(stage: Stage) -> None:
    """A late acknowledgement is ignored, because its packet id now means another message."""
    stage.broker.open(5)
    stage.deliver([("t/a", b"1"), ("t/b", b"2")])
    wait_for(lambda: sum(len(delivery.messages) for delivery in stage.deliveries) >= 2)
    late, generation = list(stage.deliveries), stage.broker.generation
    stage.taken.deliveries.clear()
    stage.end()
    for _ in range(100):  # before, during and after the reconnection
        for delivery in late:
            stage.broker.acknowledge(delivery)
        time.sleep(0.001)
    wait_for(lambda: stage.broker.connected and stage.broker.generation >= generation + 2)
    for delivery in late:
        stage.broker.acknowledge(delivery)
    stage.deliver([("t/c", b"3")])
    wait_for(lambda: stage.deliveries)
    stage.broker.acknowledge(stage.deliveries[0])
    wait_for(stage.acknowledged)
    assert stage.acknowledged() == stage.deliveries[0].mids


def test_what_finds_no_room_ends_the_connection(stage: Stage) -> None:
    """A delivery without room ends the connection unacknowledged, and the broker repeats it."""
    stage.broker.open(5)
    generation = stage.broker.generation
    stage.taken.answers.append(False)
    stage.deliver([("t/a", b"1")])
    wait_for(lambda: stage.broker.connected and stage.broker.generation >= generation + 2)
    stage.deliver([("t/a", b"1")])
    wait_for(lambda: len(stage.deliveries) == 2)
    stage.broker.acknowledge(stage.deliveries[0])
    stage.broker.acknowledge(stage.deliveries[1])
    wait_for(stage.acknowledged)
    assert stage.acknowledged() == stage.deliveries[1].mids
