"""Random faults cause no loss, no duplicate, no missing event; and the harness itself works."""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from insa_anomaly.adapters.embedded import Tools
from tests.chaos import plant
from tests.chaos.checker import Excused, Left, judge
from tests.chaos.faults import Fault, Injector, Span
from tests.chaos.oracle import expected
from tests.chaos.proxy import Proxy
from tests.chaos.run import Plan, Recovery, recoveries_of, run, together

SHORT = Plan(seconds=30.0, seed=7, rate=200.0)


@pytest.mark.timeout(300)
def test_nothing_is_lost_doubled_or_untold_under_random_faults(
    short_path: Path, tools: Tools
) -> None:
    """A run with twenty or more faults leaves the results of an undisturbed run.

    Daemon, database, broker, cache and wires fail.
    """
    outcome = run(SHORT, short_path, tools, lambda _: None)
    figures = outcome.figures
    assert (outcome.complaints, outcome.exits) == ([], [])
    assert figures.faults >= 20
    assert figures.published == figures.puback > 4000
    assert (figures.lost, figures.duplicates, figures.events_missing) == (0, 0, 0)
    assert figures.dead_letters == figures.poison > 20


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("rate", "contract"), [(500.0, True), (100.0, False)])
def test_a_broker_that_is_killed_costs_little(
    rate: float, contract: bool, short_path: Path, tools: Tools
) -> None:
    """A killed broker loses no message where devices repeat the messages that it may have lost.

    Otherwise it loses at most a message a kill, where it saves at every change.
    """
    plan = Plan(60.0, 3, rate, ["broker kill"], contract=contract)
    outcome = run(plan, short_path, tools, lambda _: None)
    assert (outcome.complaints, outcome.exits) == ([], [])
    assert outcome.count["broker kill"] >= 3
    assert outcome.figures.lost <= (0 if contract else outcome.count["broker kill"])


# -------------------------------------------------------------------------------- the checker
def test_as_much_may_be_lost_as_is_excused() -> None:
    """The checker excuses the given number of lost messages, and complains of any more.

    A message counts once, whichever of its readings are missing; so does poison.
    """
    said = list(islice(plant.messages(1), 500))
    known = expected(said)
    poison = [message for message in said if plant.is_poison(message)]
    lost = {(device, time) for device, _, time in list(known.readings)[:2]}
    readings = [
        (*key, value) for key, value in known.readings.items() if (key[0], key[2]) not in lost
    ]
    left = Left(readings, poison[1:], {}, {}, [])
    verdict = judge(said, None, left, known, Excused(lost=len(lost) + 1))
    assert (verdict.lost, verdict.duplicates, verdict.complaints) == (len(lost) + 1, 0, [])
    complaints = judge(said, None, left, known, Excused(lost=len(lost))).complaints
    assert [words.split(":")[0] for words in complaints] == [
        f"{len(lost) * len(plant.METRICS)} readings lost",
        "1 dead letters missing",
    ]


# ---------------------------------------------------------------------------------- the plant
def test_the_plant_is_the_same_for_the_same_seed() -> None:
    """The plant is equal for equal seeds, and differs for different seeds."""
    first, again, other = (list(islice(plant.messages(seed), 3000)) for seed in (1, 1, 2))
    assert first == again != other


def test_the_plant_has_everything_in_it() -> None:
    """The plant has about 1 % each of messages that are poison, repeated or out of order.

    There are anomalies, late anomalies and episodes.
    """
    said = list(islice(plant.messages(3), 20_000))
    poison = [message for message in said if plant.is_poison(message)]
    assert len(set(poison)) == len(poison)
    assert 140 < len(poison) < 260
    good = Counter(message for message in said if not plant.is_poison(message))
    assert 140 < good.total() - len(good) < 260
    assert 140 < sum(_late(good)) < 260
    found = expected(said)
    assert len(found.readings) == len(good) * len(plant.METRICS)
    assert len(found.anomalies) > 300
    assert {"opened", "closed"} <= set(found.events.values())
    assert sum(one.closed_at is not None for one in found.episodes.values()) > 50


def _late(said: Iterable[plant.Message]) -> Iterator[bool]:
    newest: dict[str, int] = {}
    for message in said:
        topic, at = message[0], plant.time_of(message)
        yield at < newest.get(topic, 0)
        newest[topic] = max(at, newest.get(topic, 0))


# --------------------------------------------------------------------------------- the faults
def test_faults_are_drawn_from_the_seed_and_all_of_them_end() -> None:
    """A subject has a single fault at a time; the spared subject has none."""
    under: set[str] = set()

    def fault(subject: str, name: str) -> Fault:
        def begin() -> None:
            assert subject not in under
            under.add(subject)

        def heal() -> bool:
            under.discard(subject)
            return True

        return Fault(subject, name, begin, heal, least=0.0, most=0.3)

    faults = [fault(subject, name) for subject in ("a", "b", "c") for name in ("x", "y")]
    injector = Injector(faults, random.Random(1))
    injector.run(4.0, lambda: None, spared="c")
    injector.heal_all(lambda: None)
    assert under == set()
    assert len(injector.over) == sum(injector.done.values()) >= 2
    assert not [kind for kind in injector.done if kind.startswith("c")]


# ----------------------------------------------------------------------------------- the wire
@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """Run a server that returns all bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                while True:
                    client, _ = server.accept()
                    threading.Thread(target=answer, args=(client,), daemon=True).start()
            except OSError:
                return

        def answer(client: socket.socket) -> None:
            with closing(client), suppress(ConnectionResetError):
                while data := client.recv(1000):
                    client.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def wire(echo: tuple[str, int]) -> Iterator[Proxy]:
    """Open a wire to the echo server."""
    proxy = Proxy(echo)
    yield proxy
    proxy.close()


def test_a_wire_carries_delays_swallows_and_breaks(wire: Proxy) -> None:
    """A wire carries bytes unchanged, delays them where it is slow, and holds them where it stalls.

    A reset arrives as a reset.
    """
    with socket.create_connection(("127.0.0.1", wire.port), 5.0) as client:
        client.settimeout(0.5)
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        wire.delay(0.15)
        began = time.monotonic()
        client.sendall(b"two")
        assert client.recv(10) == b"two"
        assert time.monotonic() - began >= 0.3
        wire.delay(0.0)
        wire.swallow(everything=True)
        time.sleep(0.3)
        client.sendall(b"three")
        with pytest.raises(TimeoutError):
            client.recv(10)
        wire.swallow(everything=False)
        assert client.recv(10) == b"three"
        wire.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_a_recovery_is_timed_without_what_else_was_wrong() -> None:
    """Spans that touch or overlap become a single span."""
    assert together([(5, 6), (1, 2), (2, 3), (1.5, 1.7)]) == [(1, 3), (5, 6)]
    assert together([]) == []


def test_a_recovery_ends_with_a_reading_that_was_said_after_the_fault() -> None:
    """A recovery ends with a reading published after the fault, and needs such a reading."""
    said = [
        message
        for message in islice(plant.messages(1), 2000)
        if message[0].endswith(plant.KEYS[0].device_id) and not plant.is_poison(message)
    ]
    devices: Any = SimpleNamespace(said=said[:2], said_at=[8.0, 10.0])
    faults = [
        Span("redis kill", 8.5, 9.0),
        Span("daemon kill", 9.5, 11.0),
        Span("postgres stop", 11.0, 13.0),
    ]
    looks = [(9.2, plant.time_of(said[0])), (12.0, plant.time_of(said[1]))]
    assert recoveries_of(devices, faults, looks) == [Recovery(0.5, 3.0, "redis kill")]
