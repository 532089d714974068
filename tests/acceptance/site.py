"""A plant for one test: broker, database, folder, configuration, publisher and listener."""

import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from secrets import token_hex
from threading import Lock, Thread
from typing import Any, LiteralString

import msgspec
import psycopg
import psycopg.conninfo

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.embedded import EmbeddedBroker as Address
from insa_anomaly.adapters.embedded import Tools
from insa_anomaly.adapters.mqtt import Access, Feeder, Listener
from insa_anomaly.core.notification.event import Event
from tests.acceptance.daemon import Daemon, command
from tests.acceptance.plant import Message
from tests.conftest import ROOT, wait_for

EVENTS = "insa/iiot/ml/anomaly/+"
END = "-end"  # of a topic on which a test says that nothing more comes
CONNECT_SECONDS = 20.0
COMMAND_SECONDS = 120.0
_databases = count(1)


@dataclass
class Heard:
    """Events as they arrived at an independent subscriber."""

    payloads: list[tuple[str, bytes]] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def __call__(self, topic: str, payload: bytes, at: float) -> None:
        """Store a message that arrived."""
        del at
        with self._lock:
            self.payloads.append((topic, payload))

    def has(self, topic: str) -> bool:
        """Return whether a message arrived on this topic."""
        with self._lock:
            return any(one == topic for one, _ in self.payloads)

    @property
    def told(self) -> list[tuple[str, bytes]]:
        """Topics and payloads of the events, in order, repeated ones included."""
        with self._lock:
            return [(topic, payload) for topic, payload in self.payloads if not topic.endswith(END)]

    @property
    def events(self) -> list[Event]:
        """All events, in order, including repeated ones."""
        return [msgspec.json.decode(payload, type=Event) for _, payload in self.told]

    @property
    def by_id(self) -> dict[str, bytes]:
        """Payloads by event id; fails where an id was published with two payloads."""
        found: dict[str, bytes] = {}
        for topic, payload in self.told:
            event = msgspec.json.decode(payload, type=Event)
            assert topic == f"insa/iiot/ml/anomaly/{event.device_id}"
            assert found.setdefault(event.event_id, payload) == payload
        return found


@dataclass
class Site:
    """Servers and settings of one test.

    `settings/load` are sections of config.yaml; a test may change them before it starts a daemon.
    """

    folder: Path
    broker: Address
    database: str
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    _daemons: list[Daemon] = field(default_factory=list)

    def __post_init__(self) -> None:
        password = self.folder / "broker-password"
        password.touch(0o600)
        password.write_text(self.broker.password, encoding="utf-8")
        place = {
            "host": self.broker.host,
            "port": self.broker.port,
            "username": self.broker.user,
            "password_file": str(password),
        }
        self.put("broker", place)
        self.put(
            "storage",
            {
                "directory": str(self.folder / "storage"),
                "checkpoint_seconds": 1.0,
                "reserve_bytes": 1 << 20,
            },
        )
        self.put("database", {"url": self.database})
        self.put("http", {"port": embedded.free_port()})
        self.put(
            "models",
            {
                "directory": str(self.folder / "ml_models"),
                "key_file": str(self.folder / "model.key"),
            },
        )
        self.put("readings", {"max_age": None})
        self.put("retention", {"telemetry": None, "anomalies": None})
        self.put("training", {"automatic": False})

    def put(self, section: str, settings: Mapping[str, Any]) -> None:
        """Change some settings of a section."""
        self.settings[section] = {**self.settings.get(section, {}), **settings}

    def config(self) -> Path:
        """Write the present settings to a configuration file; return its path."""
        path = self.folder / "config.yaml"
        path.write_text(json.dumps(self.settings, indent=1), encoding="utf-8")  # JSON is YAML
        return path

    def daemon(self) -> Daemon:
        """Build a daemon with the present settings; it is not started."""
        self._daemons.append(Daemon(self.config(), self.settings["http"]["port"]))
        return self._daemons[-1]

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command with this site's configuration until it ends."""
        argv = [*command(*words), "--config", str(self.config())]
        return subprocess.run(
            argv, check=False, capture_output=True, text=True, cwd=ROOT, timeout=COMMAND_SECONDS
        )

    def query(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """Return rows of the database."""
        with psycopg.connect(self.database) as connection:
            return connection.execute(statement, values).fetchall()

    def stored(self) -> int:
        """Return the number of readings in the database."""
        return int(self.query("SELECT count(*) FROM telemetry")[0][0])

    def state(self, statement: str) -> list[tuple[Any, ...]]:
        """Return rows of the daemon's state file."""
        with closing(sqlite3.connect(self.folder / "storage" / "state.db")) as state:
            return state.execute(statement).fetchall()

    def alerts(self, statement: str) -> list[tuple[Any, ...]]:
        """Return rows of the daemon's file of alerts."""
        with closing(sqlite3.connect(self.folder / "storage" / "alerts.db")) as alerts:
            return alerts.execute(statement).fetchall()

    def wait_told(self, heard: Heard) -> None:
        """Wait until the outbox is empty and its events have reached the subscriber.

        The broker keeps the order.
        """
        wait_for(lambda: self.state("SELECT count(*) FROM outbox") == [(0,)], 60)
        topic = f"insa/iiot/ml/anomaly/{token_hex(4)}{END}"
        with self.feeder() as feeder:
            feeder.publish(topic, b"-")
        wait_for(lambda: heard.has(topic), 30)

    @contextmanager
    def publishing(self, messages: Sequence[Message], rate: float) -> Iterator[None]:
        """Publish these messages evenly, `rate` a second, while the block runs.

        Publishing continues whatever happens to the daemon. The broker has all messages when the
        block ends.
        """
        failures: list[BaseException] = []
        thread = Thread(target=self._publish, args=(messages, rate, failures), daemon=True)
        thread.start()
        yield
        thread.join(120 + len(messages) / rate)
        assert not thread.is_alive()
        assert not failures, failures

    def _publish(
        self, messages: Sequence[Message], rate: float, failures: list[BaseException]
    ) -> None:
        began = time.monotonic()
        try:
            with self.feeder() as feeder:
                for number, message in enumerate(messages):
                    feeder.publish(*message)
                    time.sleep(max(0.0, began + number / rate - time.monotonic()))
        except BaseException as error:  # noqa: BLE001 - the test must see it
            failures.append(error)

    @contextmanager
    def feeder(self) -> Iterator[Feeder]:
        """Connect as a device; the broker has all published messages when the block ends."""
        with Feeder(self._access("device")) as feeder:
            assert feeder.open(CONNECT_SECONDS), feeder.trouble
            yield feeder
            assert feeder.drain(60.0) == 0

    @contextmanager
    def listen(self, topics: str = EVENTS, heard: Heard | None = None) -> Iterator[Heard]:
        """Connect an independent subscriber."""
        heard = heard or Heard()
        with Listener(self._access("operator"), [topics], heard) as listener:
            assert listener.open(CONNECT_SECONDS), listener.trouble
            yield heard

    def _access(self, name: str) -> Access:
        return Access(
            self.broker.host,
            self.broker.port,
            f"{name}-{token_hex(4)}",
            self.broker.user,
            self.broker.password,
        )

    def close(self) -> None:
        """End every daemon that still runs."""
        for daemon in self._daemons:
            daemon.kill()


@contextmanager
def opened(folder: Path, tools: Tools, database: str) -> Iterator[Site]:
    """Open a site with this database and its own mosquitto."""
    with embedded.mosquitto(folder / "mosquitto", tools) as broker:
        site = Site(folder, broker, database)
        try:
            yield site
        finally:
            site.close()


@contextmanager
def empty_database(server: str) -> Iterator[str]:
    """Create a fresh database without our schema; yield its connection string."""
    name = f"site_{next(_databases)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        yield psycopg.conninfo.make_conninfo(server, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
