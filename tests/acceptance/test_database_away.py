"""A PostgreSQL that is unreachable at the start or in mid-stream: events go out, rows follow."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from insa_anomaly.adapters.embedded import Tools
from insa_anomaly.core.notification.event import rfc3339
from tests.acceptance.daemon import Daemon
from tests.acceptance.plant import BEGIN, METRICS, STEP, TRAINING_ROWS, machines, stream
from tests.acceptance.site import Heard, Site, opened
from tests.conftest import Server, wait_for

SECONDS = float(os.environ.get("INSA_TEST_DATABASE_AWAY_SECONDS", "10"))
ROWS = 900  # of each machine; a third each before, during and after the outage
RATE = 300.0  # messages a second


@pytest.fixture
def away_site(
    short_path: Path, tools: Tools, own_postgres: Server[str], models: dict[str, str]
) -> Iterator[Site]:
    """Open a site with models, on a PostgreSQL that the test may stop."""
    with opened(short_path, tools, own_postgres.address) as site:
        site.put("models", models)
        site.put("record", {"last_retry": 1.0})
        yield site


@pytest.mark.timeout(240 + 3 * SECONDS)
def test_events_are_told_while_the_database_is_away_and_rows_follow(
    away_site: Site, own_postgres: Server[str]
) -> None:
    """Every event arrives while the database is down, every row afterwards, and none twice."""
    plant = machines(ROWS)
    messages = stream(plant)
    third = len(messages) // 3
    daemon = away_site.daemon()
    with away_site.listen() as heard:
        daemon.start()
        with away_site.publishing(messages[:third], RATE):
            pass
        wait_for(lambda: away_site.stored() > 0, 30)
        own_postgres.stop()
        with away_site.publishing(messages[third : 2 * third], RATE):
            goes_on_without(daemon, heard)
        own_postgres.start()
        wait_for(lambda: daemon.ready, 60)
        with away_site.publishing(messages[2 * third :], RATE):
            own_postgres.kill()
            own_postgres.start()
        wait_for(lambda: away_site.stored() >= 2 * ROWS * len(METRICS), 90)
        daemon.wait_idle()
        away_site.wait_told(heard)
    assert daemon.terminate() == 0
    stored = away_site.query("SELECT device_id, metric_name, value FROM telemetry_readings")
    assert Counter(stored) == Counter(
        (machine.device_id, metric, value)
        for machine in plant
        for row in machine.values[TRAINING_ROWS:].tolist()
        for metric, value in zip(METRICS, row, strict=True)
    )
    opened_there = {str(one) for (one,) in away_site.query("SELECT id FROM anomaly_episodes")}
    assert {event.episode_id for event in heard.events if event.kind == "opened"} == opened_there
    assert len(heard.told) == len(heard.by_id), (
        "the broker was never away, so nothing need be told twice"
    )


def goes_on_without(daemon: Daemon, heard: Heard) -> None:
    """Check the daemon while the database is down.

    Opened episodes are published; the daemon reports the trouble and keeps running.
    """
    until = time.monotonic() + SECONDS
    begin, end = (rfc3339(BEGIN + (TRAINING_ROWS + share * ROWS // 3) * STEP) for share in (1, 2))
    wait_for(
        lambda: any(
            event.kind == "opened" and begin <= event.started_at < end for event in heard.events
        ),
        60,
    )
    status, body = daemon.get("/readyz")
    assert status == 503
    assert "the database does not record" in body
    assert daemon.status()["state"] == "degraded"
    assert daemon.get("/healthz")[0] == 200
    time.sleep(max(0.0, until - time.monotonic()))
    assert daemon.metric("insa_reader_lag_seconds", {"reader": "record"}) > 1
    assert daemon.running


def test_a_start_without_the_database(away_site: Site, own_postgres: Server[str]) -> None:
    """A daemon without its database starts, takes readings, and reports why it is not ready.

    Once the database is up, the daemon creates its tables and records.
    """
    own_postgres.stop()
    daemon = away_site.daemon()
    daemon.launch()
    wait_for(
        lambda: (
            "the database does not record" in answer(daemon) and "the broker" not in answer(daemon)
        ),
        60,
    )
    with away_site.feeder() as feeder:
        for message in stream(machines(5)):
            feeder.publish(*message)
    wait_for(lambda: daemon.status()["scored"] == daemon.status()["log_last"] != 0, 30)
    own_postgres.start()
    daemon.wait_ready()
    wait_for(lambda: away_site.stored() == 2 * 5 * len(METRICS), 30)
    assert daemon.terminate() == 0


def answer(daemon: Daemon) -> str:
    """Return the body of /readyz, empty where the port does not answer."""
    try:
        return daemon.get("/readyz")[1]
    except OSError:
        return ""


def test_a_start_with_a_frozen_database(away_site: Site, own_postgres: Server[str]) -> None:
    """A server that accepts and never answers delays neither the start nor the intake.

    Once the server answers, rows follow.
    """
    daemon = away_site.daemon()
    daemon.start()
    assert daemon.terminate() == 0
    pid = own_postgres.pid(own_postgres.address)
    os.kill(pid, signal.SIGSTOP)
    try:
        daemon.launch()
        wait_for(
            lambda: (
                "the database does not record" in answer(daemon)
                or "insa-anomaly is running" in daemon.log[-2000:]
            ),
            30,
        )
        with away_site.feeder() as feeder:
            for message in stream(machines(5)):
                feeder.publish(*message)
        wait_for(
            lambda: (
                answer(daemon) and daemon.status()["scored"] == daemon.status()["log_last"] != 0
            ),
            30,
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: away_site.stored() == 2 * 5 * len(METRICS), 60)
    assert daemon.terminate() == 0
