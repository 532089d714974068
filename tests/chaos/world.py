"""A plant under chaos: servers behind wires that can be cut, a restarted daemon, all the faults."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, TypeVar

import psycopg
import psycopg.conninfo
import pytest
import redis

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.embedded import EmbeddedBroker, Tools
from insa_anomaly.errors import ServiceError
from tests.acceptance.daemon import Daemon
from tests.acceptance.site import Site
from tests.benchmarks.subject import put_models
from tests.chaos.faults import Fault
from tests.chaos.plant import BEGIN, KEYS, NEVER_HISTORICAL, for_every_series
from tests.chaos.proxy import Proxy
from tests.conftest import Server

RESTART_SECONDS = 0.2  # between the end of a daemon and the start of the next
EVERY_TWO_SECONDS = {"autosave_interval": "1"}  # as shipped
# Fast enough for a hundred messages a second, not for five hundred.
EVERY_CHANGE = EVERY_TWO_SECONDS | {"autosave_on_changes": "true"}
_Address = TypeVar("_Address")
_SLOW = 0.3  # seconds a slow wire adds


@dataclass
class World:
    """Servers, wires and daemon of a run."""

    site: Site
    daemon: Daemon
    broker: Server[EmbeddedBroker]
    postgres: Server[str]
    redis: Server[str]
    wires: dict[str, Proxy]
    exits: list[str] = field(default_factory=list)  # ends of the daemon that no fault explains
    _expected: bool = False
    _again_at: float | None = None

    # ------------------------------------------------------------------------------ the daemon
    def watch(self) -> None:
        """Start the daemon again after it ended, as a supervisor does."""
        if self.daemon.running:
            return
        if self._again_at is None:
            if not self._expected:
                self.exits.append(self.daemon.log[-1500:])
            self._again_at = time.monotonic() + RESTART_SECONDS
        elif time.monotonic() >= self._again_at:
            self._again_at, self._expected = None, False
            self.daemon.launch()

    def restart_as(self, program: Sequence[str]) -> None:
        """Start the daemon as this module with these arguments, under the present settings."""
        self.site.config()
        self.daemon.program = program
        self.daemon.start()

    def keep_running(self, seconds: float = 5.0) -> None:
        """Watch until the daemon runs."""
        until = time.monotonic() + seconds
        while not self.daemon.running and time.monotonic() < until:
            self.watch()
            time.sleep(0.02)

    def _signal(self, number: signal.Signals) -> None:
        if self.daemon.running:
            self._expected = self._expected or number in (signal.SIGKILL, signal.SIGTERM)
            os.kill(self.daemon.pid, number)

    def _daemon_ended(self) -> bool:
        if self.daemon.running:
            return False
        self.watch()
        return True

    def _terminate(self) -> None:
        self._signal(signal.SIGTERM)

    # ------------------------------------------------------------------------------ the faults
    def faults(self) -> list[Fault]:
        """Return every kind of fault, by subject."""
        return [
            *self._of_daemon(),
            *self._of_server("postgres", self.postgres, self._postgres_processes),
            *self._of_server("redis", self.redis, lambda: [self.redis.pid(self.redis.address)]),
            *self._of_broker(),
            *chain.from_iterable(_of_wire(f"wire to {n}", w) for n, w in self.wires.items()),
        ]

    def _of_daemon(self) -> list[Fault]:
        return [
            Fault("daemon", "kill", lambda: self._signal(signal.SIGKILL), self._daemon_ended),
            Fault("daemon", "terminate", self._terminate, self._daemon_ended),
            Fault(
                "daemon",
                "freeze",
                begin=lambda: self._signal(signal.SIGSTOP),
                heal=self._thaw,
                least=0.5,
                most=3.0,
            ),
        ]

    def _thaw(self) -> bool:
        self._signal(signal.SIGCONT)
        return True

    def _of_server(
        self, name: str, server: Server[str], processes: Callable[[], list[int]]
    ) -> list[Fault]:
        frozen: list[int] = []

        def freeze() -> None:
            frozen[:] = processes()
            _send(frozen, signal.SIGSTOP)

        def thaw() -> bool:
            _send(frozen, signal.SIGCONT)
            return True

        started = partial(_started, server)
        return [
            Fault(name, "kill", begin=server.kill, heal=started, least=0.1, most=1.0),
            Fault(name, "stop", begin=server.stop, heal=started, least=0.5, most=3.0),
            Fault(name, "freeze", begin=freeze, heal=thaw, least=1.0, most=6.0),
        ]

    def _postgres_processes(self) -> list[int]:
        pid = self.postgres.pid(self.postgres.address)
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def _of_broker(self) -> list[Fault]:
        def freeze() -> None:
            _send([self.broker.address.pid], signal.SIGSTOP)

        def thaw() -> bool:
            _send([self.broker.address.pid], signal.SIGCONT)
            return True

        name, started = "broker", partial(_started, self.broker)
        return [
            Fault(name, "stop", begin=self.broker.stop, heal=started, least=0.2, most=2.0),
            Fault(name, "freeze", begin=freeze, heal=thaw, least=0.5, most=3.0),
            Fault(name, "kill", begin=self.broker.kill, heal=started, least=0.1, most=1.0),
        ]

    # --------------------------------------------------------------------------- measurements
    def newest(self) -> int | None:
        """Return the time of the newest row of the first series, in microseconds.

        Returns None where the database does not answer at once.
        """
        device, metric = KEYS[0]
        try:
            with psycopg.connect(
                self.site.database, connect_timeout=2, options="-c statement_timeout=1000"
            ) as connection:
                row = connection.execute(
                    "SELECT (extract(epoch FROM max(ts)) * 1000000)::bigint FROM telemetry"
                    " WHERE series_id ="
                    " (SELECT id FROM series WHERE device_id = %s AND metric_name = %s)",
                    (device, metric),
                ).fetchone()
        except psycopg.Error:
            return None
        return BEGIN if row is None or row[0] is None else int(row[0])

    def rss(self) -> int | None:
        """Return the resident kilobytes of the daemon."""
        with suppress(OSError, AssertionError, IndexError):
            return int(
                Path(f"/proc/{self.daemon.pid}/status").read_text().split("VmRSS:")[1].split()[0]
            )
        return None


def _started(server: Server[Any]) -> bool:
    """Start the server; return False while remains of the previous process stand in its way."""
    try:
        server.start()
    except ServiceError:
        return False
    return True


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _of_wire(name: str, wire: Proxy) -> list[Fault]:
    def fast() -> bool:
        wire.delay(0.0)
        return True

    def through() -> bool:
        wire.swallow(everything=False)
        return True

    def stall() -> None:
        wire.swallow(everything=True)

    return [
        Fault(name, "reset", wire.reset),
        Fault(name, "slow", begin=lambda: wire.delay(_SLOW), heal=fast, least=1.0, most=4.0),
        Fault(name, "black hole", begin=stall, heal=through, least=1.0, most=5.0),
    ]


@contextmanager
def opened(folder: Path, tools: Tools, saving: Mapping[str, str]) -> Iterator[World]:
    """Open a world with servers, wires and models; the daemon is not started.

    `saving` holds settings of mosquitto.
    """
    command = tools.command("redis-server")
    if tools.command("mosquitto") is None or command is None:
        pytest.fail("mosquitto or redis-server is missing: run `make deps`", pytrace=False)
    # Models of the present, so that no health check finds them unused for years.
    put_models(folder, tuple(for_every_series()), KEYS, time.time_ns() // 1000)
    with ExitStack() as stack:
        postgres = stack.enter_context(_server(_postgres(folder)))
        cache = stack.enter_context(_server(_redis(folder, command)))
        broker = stack.enter_context(_server(_mosquitto(folder, tools, saving)))
        wires = {
            "broker": Proxy((broker.address.host, broker.address.port)),
            "postgres": Proxy(f"{_host(postgres.address)}/.s.PGSQL.5432"),
            "redis": Proxy(cache.address.removeprefix("unix://")),
        }
        for wire in wires.values():
            stack.callback(wire.close)
        site = Site(folder, broker.address, postgres.address)
        stack.callback(site.close)
        _configure(site, wires)
        _let_nobody_hear(site, stack.enter_context(socket.create_server(("127.0.0.1", 0))))
        yield World(site, site.daemon(), broker=broker, postgres=postgres, redis=cache, wires=wires)


def _configure(site: Site, wires: dict[str, Proxy]) -> None:
    site.put("broker", {"port": wires["broker"].port})
    there = psycopg.conninfo.make_conninfo(
        site.database, host="127.0.0.1", port=str(wires["postgres"].port)
    )
    site.put("database", {"url": there, "deadline": 3.0})
    site.put("redis", {"url": f"redis://127.0.0.1:{wires['redis'].port}/0"})
    site.put(
        "models",
        {"directory": str(site.folder / "models"), "key_file": str(site.folder / "model.key")},
    )
    site.put("record", {"last_retry": 1.0})


def _let_nobody_hear(site: Site, deaf: socket.socket) -> None:
    """Alert every anomaly, to targets that all fail.

    The mail server never answers, the other targets do not exist.
    """
    site.put("readings", {"historical_after": NEVER_HISTORICAL})
    site.put(
        "mail",
        {
            "host": "127.0.0.1",
            "port": deaf.getsockname()[1],
            "security": "none",
            "recipients": ["shift@plant.test"],
        },
    )
    webhooks = [{"name": "gone", "url": "http://127.0.0.1:9/"}]
    site.put(
        "alerts",
        {
            "webhooks": webhooks,
            "allowed_networks": ["127.0.0.0/8"],
            "daily_budget": 1_000_000,
            "last_retry": 1.0,
        },
    )
    site.put("github", {"repository": "plant/line", "url": "http://127.0.0.1:9"})


def _host(dsn: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(dsn)["host"])


@contextmanager
def _server(server: Server[_Address]) -> Iterator[Server[_Address]]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _postgres(folder: Path) -> Server[str]:
    data = folder / "pg"
    settings = {"fsync": "off", "max_connections": "50"}
    return Server(
        lambda: embedded.postgres(data, settings=settings),
        lambda _: int((data / "postmaster.pid").read_text().split("\n", 1)[0]),
    )


def _redis(folder: Path, command: list[str]) -> Server[str]:
    return Server(lambda: embedded.valkey(folder / "redis", command), _redis_pid)


def _redis_pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def _mosquitto(folder: Path, tools: Tools, settings: Mapping[str, str]) -> Server[EmbeddedBroker]:
    port, password = embedded.free_port(), token_urlsafe(12)
    begin = partial(
        embedded.mosquitto,
        folder / "mosquitto",
        tools,
        port=port,
        password=password,
        settings=settings,
    )
    return Server(begin, lambda listener: listener.pid)
