"""A broker that is unreachable at the start or goes down in mid-stream: no reading is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from insa_anomaly.adapters.embedded import EmbeddedBroker
from tests.acceptance.plant import DEVICES, METRICS, Message, machines, stream
from tests.acceptance.site import Site, empty_database
from tests.conftest import Server, wait_for

ROWS = 1000
READINGS = len(DEVICES) * ROWS * len(METRICS)


@pytest.fixture
def lonely_site(
    short_path: Path, own_mosquitto: Server[EmbeddedBroker], postgres_dsn: str
) -> Iterator[Site]:
    """Open a site without models, on a broker that the test may stop."""
    with empty_database(postgres_dsn) as database:
        site = Site(short_path, own_mosquitto.address, database)
        yield site
        site.close()


@pytest.mark.parametrize("reader", ["fast", "stock"])
def test_the_broker_comes_late_and_goes_in_between(
    lonely_site: Site, own_mosquitto: Server[EmbeddedBroker], reader: str
) -> None:
    """The daemon is alive but not ready while the broker is down, and ready when it is up.

    Every reading is stored once, including the readings of the interruption.
    """
    own_mosquitto.stop()
    lonely_site.put("broker", {"reader": reader})
    daemon = lonely_site.daemon()
    daemon.launch()
    wait_for(lambda: "insa-anomaly is running" in daemon.log, 60)
    status, body = daemon.get("/readyz")
    assert (status, "the broker is not connected" in body) == (503, True)
    assert daemon.get("/healthz")[0] == 200
    own_mosquitto.start()
    daemon.wait_ready()
    messages = stream(machines(ROWS))
    publish(lonely_site, messages[: len(messages) // 2])
    # The broker stores the messages in transit and delivers them again.
    own_mosquitto.stop()
    own_mosquitto.start()
    publish(lonely_site, messages[len(messages) // 2 :])
    wait_for(lambda: lonely_site.stored() >= READINGS, 60)
    daemon.wait_idle()
    assert lonely_site.query("SELECT count(*), count(DISTINCT (series_id, ts)) FROM telemetry") == [
        (READINGS, READINGS)
    ]
    assert daemon.terminate() == 0


def publish(site: Site, messages: list[Message]) -> None:
    """Publish as fast as possible."""
    with site.feeder() as feeder:
        for message in messages:
            feeder.publish(*message)
