"""The state on MQTT: retained, published when it changes and on every new connection only."""

import msgspec

from insa_anomaly.runtime.status import TOPIC, StatusMessage, StatusPublisher, last_will
from insa_anomaly.testing.broker import MemoryBroker


def said(broker: MemoryBroker) -> list[tuple[str, list[str]]]:
    """Return state and reasons of all announcements."""
    assert {(topic, retained) for _, topic, _, retained in broker.published} <= {(TOPIC, True)}
    found = [
        msgspec.json.decode(payload, type=StatusMessage) for _, _, payload, _ in broker.published
    ]
    assert {(one.instance, one.version) for one in found} <= {("line-1", "1.2.3")}
    return [(one.state, list(one.reasons)) for one in found]


def test_it_is_said_once_and_again_when_it_changes() -> None:
    """The state is running, degraded with its reasons, running again, and stopped at an end."""
    broker = MemoryBroker()
    status = StatusPublisher(broker, "line-1", "1.2.3")
    broker.open()
    for troubles in ([], [], ["no database"], ["no database"], []):
        status.publish(troubles)
    status.publish_stopped()
    assert said(broker) == [
        ("running", []),
        ("degraded", ["no database"]),
        ("running", []),
        ("stopped", []),
    ]


def test_a_new_connection_hears_it_again() -> None:
    """The state is published again on a new connection: the last will may have replaced it.

    Without a connection no publish is tried.
    """
    broker = MemoryBroker()
    status = StatusPublisher(broker, "line-1", "1.2.3")
    status.publish([])
    broker.open()
    status.publish([])
    broker.close()
    status.publish([])
    broker.open()
    status.publish([])
    assert said(broker) == [("running", []), ("running", [])]


def test_the_last_will_is_of_the_same_form() -> None:
    """The last will has the form of an announcement, so that the same client can read both."""
    topic, payload = last_will("line-1", "1.2.3")
    assert topic == TOPIC
    assert msgspec.json.decode(payload, type=StatusMessage).state == "offline"
