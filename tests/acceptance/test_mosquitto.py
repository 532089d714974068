"""The shipped configuration of mosquitto beside Debian's own, with other paths and another port."""

import base64
import hashlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.embedded import Tools
from insa_anomaly.adapters.embedded.account import private_folder, service_account
from insa_anomaly.adapters.embedded.process import accepts, running
from insa_anomaly.adapters.mqtt import Access, Feeder, MqttConnection, Terms
from insa_anomaly.adapters.mqtt import Listener as Subscriber
from insa_anomaly.errors import BrokerRefused
from insa_anomaly.ports.broker import Delivery
from insa_anomaly.settings.sections import BrokerSettings
from insa_anomaly.shipped import shipped
from tests.acceptance.site import Heard, Site
from tests.conftest import wait_for

SALT = b"twelve bytes"
USERS = ("insa-anomaly", "operator", "replay", "PUMP-1", "PUMP-2")
DEBIAN = """pid_file {run}/mosquitto.pid
persistence true
persistence_location {folder}/
log_dest stderr
include_dir {folder}/conf.d
"""
DAEMON = Terms(("insa/iiot/telemetry/+",), expiry=BrokerSettings().session_expiry)


@dataclass
class Broker:
    """A mosquitto as the README sets it up, which may be stopped and started."""

    folder: Path
    port: int
    command: list[str]

    def set_up(self) -> None:
        """Copy the shipped files to the places that the README names."""
        account = service_account()
        conf_d = private_folder(self.folder, account) / "conf.d"
        shutil.copytree(shipped("mosquitto"), conf_d)
        lines = conf_d / "insa.conf"
        shutil.move(conf_d / "insa.acl", self.folder)
        text = (
            lines.read_text()
            .replace("/etc/mosquitto", str(self.folder))
            .replace("listener 1883", f"listener {self.port} 127.0.0.1")
        )
        lines.write_text(text)
        (self.folder / "insa.passwords").write_text(
            "".join(f"{user}:{hashed(user)}\n" for user in USERS)
        )
        user = "user root\n" if account is None else f"user {account.name}\n"
        (self.folder / "mosquitto.conf").write_text(
            DEBIAN.format(run=self.folder, folder=self.folder) + user
        )
        if account is not None:
            for path in (conf_d, *conf_d.iterdir(), *self.folder.iterdir()):
                shutil.chown(path, account.uid, account.gid)

    @contextmanager
    def running(self) -> Iterator[int]:
        """Run the broker for the length of the block; yield its process id."""
        argv = [*self.command, "-c", str(self.folder / "mosquitto.conf")]
        ready = partial(accepts, socket.AF_INET, ("127.0.0.1", self.port))
        with running(
            "mosquitto", argv, self.folder.with_name("broker.log"), ready, account=service_account()
        ) as process:
            yield process.pid

    def access(self, user: str, client_id: str = "any") -> Access:
        """Return the access of this user, whose password is the name."""
        return Access("127.0.0.1", self.port, client_id, user, user)


def hashed(password: str) -> str:
    """Return the hash as `mosquitto_passwd` writes it."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), SALT, 101, 64)
    return f"$7$101${base64.b64encode(SALT).decode()}${base64.b64encode(digest).decode()}"


@pytest.fixture
def broker(short_path: Path, tools: Tools) -> Broker:
    """Set up a broker that is not started."""
    command = tools.command("mosquitto")
    assert command is not None, "mosquitto is missing: run `make deps`"
    found = Broker(short_path / "broker", embedded.free_port(), command)
    found.set_up()
    return found


def kept(deliveries: list[Delivery], delivery: Delivery) -> bool:
    """Take every delivery and acknowledge none."""
    deliveries.append(delivery)
    return True


def refused(broker: Broker, user: str, topic: str) -> int:
    """Publish a message; return the number of refused messages."""
    with Feeder(broker.access(user)) as feeder:
        assert feeder.open(10.0)
        feeder.publish(topic, b'{"temperature": 1}')
        feeder.drain(10.0)
        return feeder.count_refused


def test_who_may_write_where(broker: Broker) -> None:
    """A device writes only its own topics, and only the daemon publishes anomalies.

    A client without a name is refused.
    """
    with broker.running():
        assert refused(broker, "PUMP-1", "insa/iiot/telemetry/PUMP-1") == 0
        assert refused(broker, "PUMP-1", "insa/iiot/telemetry/PUMP-1/temperature") == 0
        assert refused(broker, "replay", "insa/iiot/telemetry/PUMP-1") == 0
        assert refused(broker, "insa-anomaly", "insa/iiot/ml/anomaly/PUMP-1") == 0
        for user, topic in (
            ("PUMP-1", "insa/iiot/telemetry/PUMP-2"),
            ("PUMP-1", "insa/iiot/ml/anomaly/PUMP-1"),
            ("PUMP-1", "insa/iiot/ml/status"),
            ("operator", "insa/iiot/telemetry/PUMP-1"),
            ("replay", "insa/iiot/ml/anomaly/PUMP-1"),
            ("insa-anomaly", "insa/iiot/telemetry/PUMP-1"),
        ):
            assert refused(broker, user, topic) == 1, (user, topic)
        nobody = Feeder(replace(broker.access("PUMP-1"), username=None, password=None))
        with pytest.raises(BrokerRefused):
            nobody.open(10.0)


def test_who_hears_what(broker: Broker) -> None:
    """An operator receives everything, a device its own anomalies, whatever it subscribes to."""
    device, operator = Heard(), Heard()
    with (
        broker.running(),
        Subscriber(broker.access("PUMP-2"), ["insa/iiot/ml/anomaly/+"], device) as one,
        Subscriber(broker.access("operator"), ["insa/iiot/#"], operator) as other,
    ):
        assert one.open(10.0)
        assert other.open(10.0)
        assert refused(broker, "insa-anomaly", "insa/iiot/ml/anomaly/PUMP-1") == 0
        assert refused(broker, "insa-anomaly", "insa/iiot/ml/anomaly/PUMP-2") == 0
        wait_for(lambda: device.payloads and len(operator.payloads) == 2)
    assert [topic for topic, _ in device.payloads] == ["insa/iiot/ml/anomaly/PUMP-2"]


def test_a_device_under_the_daemons_client_id_takes_nothing_from_it(broker: Broker) -> None:
    """A device with the daemon's client id neither disconnects the daemon nor takes its session.

    The broker tells both apart by their users.
    """
    deliveries: list[Delivery] = []
    daemon = MqttConnection(
        broker.access("insa-anomaly", "insa-anomaly"), DAEMON, partial(kept, deliveries)
    )
    with broker.running(), daemon:
        assert daemon.open(10.0)
        generation = daemon.generation
        with Feeder(broker.access("PUMP-1", "insa-anomaly")) as hostile:
            assert hostile.open(10.0)
            hostile.publish("insa/iiot/telemetry/PUMP-1", b'{"temperature": 1}')
            assert hostile.drain(10.0) == 0
        wait_for(lambda: deliveries)
        assert (daemon.generation, daemon.sessions_lost) == (generation, 0)


def test_what_comes_while_the_daemon_is_away_waits_for_it_over_a_restart_of_the_broker(
    broker: Broker, site: Site
) -> None:
    """More than the usual thousand messages wait at the broker over its restart.

    A check-config in the meantime takes none of them.
    """
    readings = 10_000
    password = site.folder / "password"
    password.write_text("insa-anomaly")
    site.put(
        "broker", {"port": broker.port, "username": "insa-anomaly", "password_file": str(password)}
    )
    deliveries: list[Delivery] = []
    with ExitStack() as first:
        first.enter_context(broker.running())
        with MqttConnection(
            broker.access("insa-anomaly", "insa-anomaly"), DAEMON, lambda _: True
        ) as daemon:
            assert daemon.open(10.0)
        say(broker, readings)
        checked = site.run("check-config")
        assert "broker: ok" in checked.stdout, checked.stdout
    with (
        broker.running(),
        MqttConnection(
            broker.access("insa-anomaly", "insa-anomaly"), DAEMON, partial(kept, deliveries)
        ) as daemon,
    ):
        assert daemon.open(10.0)
        wait_for(lambda: taken(daemon, deliveries) == readings, 30)
        assert daemon.sessions_lost == 0


def test_a_broker_that_is_killed_forgets_no_more_than_its_last_moments(broker: Broker) -> None:
    """A killed broker has saved the session and all messages up to its last two seconds."""
    deliveries: list[Delivery] = []
    with broker.running() as pid:
        with MqttConnection(
            broker.access("insa-anomaly", "insa-anomaly"), DAEMON, lambda _: True
        ) as daemon:
            assert daemon.open(10.0)
        say(broker, 1000)
        time.sleep(2.5)
        os.kill(pid, signal.SIGKILL)
    with (
        broker.running(),
        MqttConnection(
            broker.access("insa-anomaly", "insa-anomaly"), DAEMON, partial(kept, deliveries)
        ) as daemon,
    ):
        assert daemon.open(10.0)
        wait_for(lambda: taken(daemon, deliveries) == 1000, 30)
        assert daemon.sessions_lost == 0


def say(broker: Broker, readings: int) -> None:
    """Publish readings as a device; the broker has them on return."""
    with Feeder(broker.access("PUMP-1")) as feeder:
        assert feeder.open(10.0)
        for number in range(readings):
            feeder.publish("insa/iiot/telemetry/PUMP-1", b'{"temperature": %d}' % number)
        assert feeder.drain(30.0) == 0


def taken(daemon: MqttConnection, deliveries: list[Delivery]) -> int:
    """Acknowledge the deliveries; return the number of their messages."""
    for one in deliveries:
        daemon.acknowledge(one)
    return sum(len(one.messages) for one in deliveries)
