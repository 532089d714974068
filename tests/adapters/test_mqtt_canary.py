"""Whether the broker delivers to us: as a machine of its own, and through real brokers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.embedded import EmbeddedBroker, Tools
from insa_anomaly.adapters.mqtt import Access, Backoff, MqttConnection, Terms
from insa_anomaly.adapters.mqtt import canary as canaries
from insa_anomaly.adapters.mqtt.canary import (
    DEADLINE_SECONDS,
    DENIED_SECONDS,
    EVERY_SECONDS,
    Canary,
)
from tests.conftest import wait_for
from tests.contracts.test_broker import Taken

TOPIC = "canary/daemon"


def begun() -> tuple[Canary, bytes]:
    """Return a canary that was sent at 0, under packet id 7, and its payload."""
    canary = Canary(TOPIC)
    canary.begin(None, 0.0)
    due = canary.due(0.0)
    assert due is not None
    assert due[0] == TOPIC
    canary.sent(7)
    return canary, due[1]


def test_one_that_comes_back_is_proof() -> None:
    """A canary that returns is not handed over, and the next is sent a minute later."""
    canary, payload = begun()
    assert canary.answered(7, None, 0.5)
    assert canary.heard([("a", b"1"), (TOPIC, payload), ("b", b"2")], [1, 0, 2], 1.0) == (
        [("a", b"1"), ("b", b"2")],
        [1, 2],
        [],
    )
    assert canary.due(EVERY_SECONDS - 1) is None
    assert canary.trouble is None
    assert canary.due(EVERY_SECONDS) is not None


def test_one_that_does_not_come_back_is_said_until_something_comes() -> None:
    """A canary that is late is reported after its deadline, until a message arrives.

    Another canary is sent.
    """
    canary, _ = begun()
    assert canary.due(DEADLINE_SECONDS) is None
    assert canary.trouble is None
    canary.due(DEADLINE_SECONDS + 1)
    assert canary.trouble is not None
    assert TOPIC in canary.trouble
    assert canary.due(EVERY_SECONDS) is not None
    assert canary.trouble is not None
    canary.heard([("a", b"1")], [1], EVERY_SECONDS + 1)
    assert canary.trouble is None


def test_behind_a_long_queue_it_is_late_and_nothing_is_wrong() -> None:
    """A late canary is no trouble as long as any message arrives."""
    canary, payload = begun()
    for second in range(50):
        assert canary.heard([("a", b"1")], [1], float(second)) == ([("a", b"1")], [1], [])
        assert canary.due(second + 0.5) is None
        assert canary.trouble is None
    assert canary.heard([(TOPIC, payload)], [9], 50.0) == ([], [], [9])


def test_what_is_denied_is_said_plainly() -> None:
    """A denial to publish or to subscribe is reported, with the topic and the cure.

    A message that arrives proves that the broker delivers, and ends the report.
    """
    canary, _ = begun()
    assert not canary.answered(8, None, 0.5)
    assert canary.answered(7, "not authorized", 0.5)
    assert canary.trouble is not None
    assert f"does not let us publish to {TOPIC} (not authorized)" in canary.trouble
    canary.heard([("a", b"1")], [1], 1.0)
    assert canary.trouble is None
    canary = Canary(TOPIC)
    canary.begin("Not authorized", 2.0)
    assert canary.trouble is not None
    assert f"does not let us subscribe to {TOPIC} (Not authorized)" in canary.trouble
    assert canary.due(3.0) is None


def test_a_denial_is_remembered_for_an_hour() -> None:
    """A denial is remembered on later connections too, because some brokers hang up over a canary.

    A new canary is sent after an hour, and may succeed.
    """
    canary, _ = begun()
    canary.answered(7, "not authorized", 0.0)
    canary.end(1.0, lost=True)
    canary.begin(None, 2.0)
    assert canary.trouble is not None
    assert canary.due(DENIED_SECONDS - 1) is None
    due = canary.due(DENIED_SECONDS)
    assert due is not None
    canary.heard([due], [0], DENIED_SECONDS + 1)
    assert canary.trouble is None
    canary.end(DENIED_SECONDS + 2, lost=False)
    canary.begin(None, DENIED_SECONDS + 3)
    assert canary.trouble is None


def test_a_broker_that_hangs_up_over_it_is_left_in_peace() -> None:
    """Two hang-ups in a row right after a canary are a denial; a single hang-up may be the network.

    A connection that is found dead later is none, however often.
    """
    canary, _ = begun()
    for second in range(10, 60, 10):
        canary.end(second - 1.0, lost=True)
        canary.begin(None, second)
        assert canary.due(second) is not None
    canary, _ = begun()
    canary.end(1.0, lost=True)
    assert canary.trouble is None
    canary.begin(None, 2.0)
    assert canary.due(2.0) is not None
    canary.end(3.0, lost=True)
    assert canary.trouble is not None
    assert f"hangs up when we publish to {TOPIC}" in canary.trouble
    canary.begin(None, 4.0)
    assert canary.due(1000.0) is None


def test_without_a_topic_there_is_none() -> None:
    """A canary without a topic sends no message, holds none back and reports no trouble."""
    canary = Canary(None)
    canary.begin(None, 0.0)
    assert canary.due(100.0) is None
    assert canary.heard([(TOPIC, b"")], [1], 1.0) == ([(TOPIC, b"")], [1], [])
    assert canary.trouble is None


# ---------------------------------------------------------------------------- with mosquitto
@contextmanager
def guarded(folder: Path, tools: Tools, rules: str) -> Iterator[EmbeddedBroker]:
    """Run a mosquitto with this access list."""
    access = folder / "access"
    access.write_text(f"user insa\n{rules}")
    access.chmod(0o644)
    with embedded.mosquitto(folder / "broker", tools, settings={"acl_file": str(access)}) as broker:
        yield broker


def settled(connection: MqttConnection, seconds: float) -> bool:
    """Return whether the connection lasts for `seconds`."""
    generation = connection.generation
    time.sleep(seconds)
    return connection.connected and connection.generation == generation


@pytest.mark.parametrize("reader", ["fast", "stock"])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("topic readwrite #\n", None),
        ("topic read #\n", "publish to"),
        ("topic write #\n", "did not come back|subscribe to"),
    ],
)
def test_through_a_broker_with_an_access_list(
    short_path: Path,
    tools: Tools,
    monkeypatch: pytest.MonkeyPatch,
    *,
    rules: str,
    words: str | None,
    version: str,
    reader: str,
) -> None:
    """A broker that delivers is trusted; a denied publish and an undelivered grant are reported."""
    monkeypatch.setattr(canaries, "DEADLINE_SECONDS", 0.3)
    monkeypatch.setattr(canaries, "EVERY_SECONDS", 0.5)
    taken = Taken()
    with guarded(short_path, tools, rules) as broker, capture_logs() as logs:
        access = Access(
            broker.host,
            broker.port,
            "daemon",
            broker.user,
            broker.password,
            versions=(version,),  # type: ignore[arg-type]
        )
        terms = Terms([] if "write" in rules and words else ["t/#"], canary=TOPIC)
        with MqttConnection(
            access, terms, taken, reader=reader, backoff=Backoff(0.02, 0.1)
        ) as connection:
            assert connection.open(10)
            if words is None:
                wait_for(lambda: connection._canary._proved)
                assert connection.undelivered is None
            else:
                wait_for(lambda: connection.undelivered)
                assert any(one in str(connection.undelivered) for one in words.split("|"))
                wait_for(
                    lambda: (
                        connection.connected
                        and any(log["action"] == "delivery_doubted" for log in logs)
                    )
                )
                wait_for(lambda: settled(connection, 0.3))
                assert settled(connection, 0.8), (
                    "a broker that hangs up over the canary is not provoked again"
                )
    assert taken.deliveries == []
