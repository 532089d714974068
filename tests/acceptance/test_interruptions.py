"""A daemon stopped or killed at any moment: no loss, no duplicate, and results equal to the bit."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import sleep
from typing import Any

import msgspec
import pytest

from insa_anomaly.adapters.embedded import Tools
from insa_anomaly.core.reading.series_key import SeriesKey
from tests.acceptance.daemon import Daemon
from tests.acceptance.plant import DEVICES, METRICS, Message, machines, stream
from tests.acceptance.site import Heard, Site, empty_database, opened
from tests.conftest import wait_for

ROWS = 2000  # of each machine
READINGS = 2 * ROWS * len(METRICS)
RATE = 1500.0  # messages a second while the daemon is being interrupted
READERS = ("fast", "stock")


@dataclass(frozen=True)
class Outcome:
    """The results of a stream: database rows, events by id, the last state of every series."""

    telemetry: list[tuple[Any, ...]]
    anomalies: list[tuple[Any, ...]]
    episodes: list[tuple[Any, ...]]
    events: dict[str, bytes]
    states: dict[SeriesKey, bytes]


def outcome(site: Site, heard: Heard) -> Outcome:
    """Collect the results, after a clean stop."""
    states = {
        SeriesKey(device, metric): bytes(kept)
        for device, metric, kept in site.state("SELECT * FROM states")
    }
    return Outcome(
        site.query("SELECT * FROM telemetry_readings"
                   " ORDER BY device_id, metric_name, timestamp, discriminator"),
        site.query("SELECT id, model_id, device_id, metric_name, value, anomaly_score, confidence,"
                   " timestamp, metadata, episode_id FROM anomaly_detections ORDER BY id"),
        site.query("SELECT * FROM anomaly_episodes ORDER BY id"),
        heard.by_id,
        states,
    )  # fmt: skip


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    """Return the messages of the plant."""
    return stream(machines(ROWS))


@pytest.fixture(scope="module")
def uninterrupted(
    short_root: Path,
    tools: Tools,
    postgres_dsn: str,
    models: dict[str, str],
    messages: list[Message],
) -> Outcome:
    """Return the results of an undisturbed run."""
    folder = short_root / "uninterrupted"
    folder.mkdir(mode=0o711)
    with empty_database(postgres_dsn) as database, opened(folder, tools, database) as site:
        site.put("models", models)
        daemon = site.daemon()
        with site.listen() as heard:
            daemon.start()
            with site.feeder() as feeder:
                for message in messages:
                    feeder.publish(*message)
            return finish(site, daemon, heard)


def finish(site: Site, daemon: Daemon, heard: Heard) -> Outcome:
    """Wait until everything is stored and published, stop in good order, collect the results."""
    wait_for(lambda: site.stored() >= READINGS, 90)
    daemon.wait_idle()
    site.wait_told(heard)
    assert daemon.terminate() == 0, daemon.log[-3000:]
    return outcome(site, heard)


def test_the_uninterrupted_run_is_worth_comparing(uninterrupted: Outcome) -> None:
    """The undisturbed run stores every reading once and has many anomalies and episodes.

    Every transition of an episode is published.
    """
    assert (
        len({row[:3] for row in uninterrupted.telemetry})
        == len(uninterrupted.telemetry)
        == READINGS
    )
    assert len(uninterrupted.anomalies) > 20
    assert len(uninterrupted.episodes) > 5
    assert {row[3] for row in uninterrupted.anomalies} == {*METRICS, "_device"}
    assert len(uninterrupted.states) == len(DEVICES) * (
        len(METRICS) + 1
    )  # the device itself has a state
    told = [msgspec.json.decode(payload) for payload in uninterrupted.events.values()]
    opened = {str(row[0]) for row in uninterrupted.episodes}
    closed = {str(row[0]) for row in uninterrupted.episodes if row[7] is not None}
    assert {event["episode_id"] for event in told if event["kind"] == "opened"} == opened
    assert {event["episode_id"] for event in told if event["kind"] == "closed"} == closed
    assert closed


def terminate(daemon: Daemon, chance: random.Random) -> None:
    """Stop in good order, then start again."""
    del chance
    assert daemon.terminate() == 0, daemon.log[-3000:]
    daemon.start()


def kill(daemon: Daemon, chance: random.Random) -> None:
    """Kill the daemon, kill it again at a random moment of its start, then start it again."""
    daemon.kill()
    daemon.launch()
    sleep(chance.uniform(0.5, 2.5))
    daemon.kill()
    daemon.start()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("interrupt", "times"), [(terminate, 1), (kill, 2)])
def test_an_interruption_changes_nothing(
    trained: Site,
    uninterrupted: Outcome,
    messages: list[Message],
    *,
    reader: str,
    interrupt: Callable[[Daemon, random.Random], None],
    times: int,
) -> None:
    """Rows, scores, events and states equal the results of an undisturbed run."""
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    trained.put("broker", {"reader": reader})
    daemon = trained.daemon()
    cuts = [len(messages) * number // (times + 1) for number in range(times + 1)] + [len(messages)]
    with trained.listen() as heard:
        daemon.start()
        for begin, end in pairwise(cuts):
            with trained.publishing(messages[begin:end], RATE):
                if end < len(messages):
                    sleep(chance.uniform(0.05, 0.9) * (end - begin) / RATE)
                    interrupt(daemon, chance)
        found = finish(trained, daemon, heard)
    assert interrupt is terminate or any(gone_over_again(daemon)), (
        "the kills hit nothing that had to be done again"
    )
    assert_same(found, uninterrupted, f"seed {seed}")


def gone_over_again(daemon: Daemon) -> list[int]:
    """Return, for each start, the number of log entries that it processed again."""
    said = map(json.loads, daemon.log.splitlines())
    return [line["entries_advanced_again"] for line in said if line["action"] == "states_restored"]


def test_what_devices_say_again_changes_nothing(
    trained: Site, uninterrupted: Outcome, messages: list[Message]
) -> None:
    """A device that repeats its newest messages causes the same rows, scores, events and states.

    Its acknowledgements were lost.
    """
    daemon = trained.daemon()
    with trained.listen() as heard:
        daemon.start()
        with trained.feeder() as feeder:
            for begin in range(0, len(messages), 500):
                for message in messages[max(0, begin - 200) : begin + 500]:
                    feeder.publish(*message)
        found = finish(trained, daemon, heard)
    assert_same(found, uninterrupted, "said again")


def assert_same(found: Outcome, expected: Outcome, word: str) -> None:
    """Assert that the results are equal; the order and number of publications may differ."""
    for name in ("telemetry", "anomalies", "episodes"):
        left, right = ({repr(row) for row in getattr(one, name)} for one in (found, expected))
        assert len(getattr(found, name)) == len(getattr(expected, name)), (
            f"{word}: {name}: {sorted(left - right)[:3]} instead of {sorted(right - left)[:3]}"
        )
        assert left == right, (
            f"{word}: {name}: {sorted(left - right)[:3]} instead of {sorted(right - left)[:3]}"
        )
    assert found.events.keys() == expected.events.keys(), word
    assert found.states.keys() == expected.states.keys(), word
    assert [key for key in found.states if found.states[key] != expected.states[key]] == [], word
