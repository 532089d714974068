"""A broker that denies a permission, and a rival client id: both are reported and waited out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.embedded import Tools
from insa_anomaly.adapters.mqtt import Access, Backoff, MqttConnection, Terms
from tests.acceptance.plant import machines, stream
from tests.acceptance.site import Site, empty_database
from tests.conftest import wait_for

RULES = (
    "user insa\n"
    "topic readwrite insa/iiot/telemetry/#\n"
    "topic write insa/iiot/ml/status\n"
    "topic read insa/iiot/ml/canary/#\n"
)


@pytest.fixture
def guarded_site(short_path: Path, tools: Tools, postgres_dsn: str) -> Iterator[Site]:
    """Open a site whose broker has an access list that permits no client to publish the canary."""
    rules = short_path / "access"
    rules.write_text(RULES)
    rules.chmod(0o644)
    with (
        empty_database(postgres_dsn) as database,
        embedded.mosquitto(
            short_path / "mosquitto", tools, settings={"acl_file": str(rules)}
        ) as broker,
    ):
        site = Site(short_path, broker, database)
        try:
            yield site
        finally:
            site.close()


def test_a_canary_that_is_denied_is_said_plainly(guarded_site: Site) -> None:
    """A denied canary makes the daemon not ready, with the topic, the broker's reason and the cure.

    The first reading proves that the broker delivers.
    """
    daemon = guarded_site.daemon()
    daemon.launch()
    words = "does not let us publish to insa/iiot/ml/canary/insa-anomaly (not authorized)"
    wait_for(lambda: words in daemon.log, 30)
    status, body = daemon.get("/readyz")
    assert status == 503
    assert words in body
    assert daemon.status()["state"] == "degraded"
    wait_for(lambda: daemon.metric("insa_trouble", {"what": "canary"}) == 1)
    with guarded_site.feeder() as feeder:
        feeder.publish(*stream(machines(1))[0])
    daemon.wait_ready()
    assert daemon.terminate() == 0


@pytest.mark.long
def test_another_client_with_our_id_is_backed_off_from(site: Site) -> None:
    """A client with the daemon's id is reported and waited out; the daemon never ends over it.

    After a few takeovers the log, /readyz and Prometheus report it.
    """
    daemon = site.daemon()
    daemon.start()
    broker = site.broker
    access = Access(broker.host, broker.port, "insa-anomaly", broker.user, broker.password)
    with MqttConnection(
        access, Terms(expiry=100), lambda _: True, backoff=Backoff(0.2, 0.2)
    ) as rival:
        assert rival.open(10), rival.trouble
        wait_for(
            lambda: (
                "another client seems to connect with our client id" in daemon.get("/readyz")[1]
            ),
            60,
        )
        assert daemon.metric("insa_broker_takeovers_total") >= 1
        assert daemon.metric("insa_broker_connections_total") < 20
    daemon.wait_ready()
    with site.feeder() as feeder:
        feeder.publish(*stream(machines(1))[0])
    wait_for(lambda: site.stored() > 0, 30)
    assert daemon.terminate() == 0
