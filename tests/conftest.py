"""Real servers for the whole suite, private and on free ports: started once, shared, then removed.

A missing tool fails the test that needs it: run `make deps`. The `own_*` fixtures give a single
test a server that it may stop and kill.
"""

import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import psycopg
import psycopg.conninfo
import pytest
import redis
import structlog
from hypothesis import settings

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.embedded import EmbeddedBroker, Tools

ROOT = Path(__file__).parent.parent
# A test outlives no power cut, and files that are never synced are cheap to remove.
QUICK = {"fsync": "off", "max_connections": "200"}
ENOUGH_BYTES = 4 << 30
Address = TypeVar("Address")
_numbers = itertools.count(1)

# The tests' own processes count the lines they reach, but not the daemons that they start:
# counting there takes a fifth of the time of the whole suite and adds few lines.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

# Equal examples in every run, so that a failure is caused by the change. `pytest
# --hypothesis-profile=search` looks for new examples.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("steady")


@dataclass
class Server(Generic[Address]):
    """A server that a test may stop, kill and start again under the same address."""

    begin: Callable[[], AbstractContextManager[Address]]
    pid: Callable[[Address], int]
    _running: ExitStack = field(default_factory=ExitStack)
    _address: list[Address] = field(default_factory=list)

    @property
    def address(self) -> Address:
        """Address at which the server listens, or listened last."""
        return self._address[-1]

    def start(self) -> Address:
        """Start the server; return its address when it is ready."""
        self._address.append(self._running.enter_context(self.begin()))
        return self.address

    def stop(self) -> None:
        """Stop the server in good order."""
        self._running.close()

    def kill(self) -> None:
        """Kill the server with SIGKILL and wait until it is gone."""
        os.kill(self.pid(self.address), signal.SIGKILL)
        self._running.close()


def wait_for(truth: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll until `truth()` holds; fail the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not truth():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Reset the logging, which is bound to the standard error of a single test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def tools() -> Tools:
    """Return the tools of this machine, such as mosquitto, or the tools `make deps` unpacked."""
    unpacked = Path(os.environ.get("INSA_UNPACKED", ROOT / ".tools" / "root"))
    return Tools(unpacked if unpacked.is_dir() else None)


def _needed(tools: Tools, name: str) -> list[str]:
    command = tools.command(name)
    if command is None:
        pytest.fail(f"{name} is missing: run `make deps`", pytrace=False)
    return command


@pytest.fixture(scope="session")
def short_root() -> Iterator[Path]:
    """Make a folder with a path short enough for unix sockets.

    The account that PostgreSQL runs as under root can pass through it.
    """
    with tempfile.TemporaryDirectory(
        prefix="insa-", dir=_fast_folder(), ignore_cleanup_errors=True
    ) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def _fast_folder() -> str:
    """Return memory where there is enough of it and programs may run from it, otherwise the disk.

    Clusters of a thousand files are slow to remove from a busy disk.
    """
    memory, disk = "/dev/shm", "/tmp"  # noqa: S108 - the folder below has a random name
    if not os.access(memory, os.W_OK | os.X_OK):
        return disk
    about = os.statvfs(memory)
    return (
        memory
        if about.f_bavail * about.f_frsize > ENOUGH_BYTES and not about.f_flag & os.ST_NOEXEC
        else disk
    )


@pytest.fixture
def short_path(short_root: Path) -> Iterator[Path]:
    """Make a fresh folder with a short path for a single test."""
    folder = short_root / str(next(_numbers))
    folder.mkdir(mode=0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# -------------------------------------------------------------------------------- PostgreSQL
@pytest.fixture(scope="session")
def postgres_dsn(short_root: Path) -> Iterator[str]:
    """Run the session's PostgreSQL, from the wheel."""
    with embedded.postgres(short_root / "pg", settings=QUICK) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def migrated_template(postgres_dsn: str) -> str:
    """Return the name of a database with our schema, which no test writes to."""
    # Tests without a database need not load the schema.
    from insa_anomaly.adapters.postgres.schema import migrate  # noqa: PLC0415

    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated")
    migrate(psycopg.conninfo.make_conninfo(postgres_dsn, dbname="migrated"))
    return "migrated"


def _fresh_database(server: str, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield psycopg.conninfo.make_conninfo(server, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database(postgres_dsn: str) -> Iterator[str]:
    """Yield the connection string of a fresh database without our schema."""
    yield from _fresh_database(postgres_dsn, "template0")


@pytest.fixture
def database(postgres_dsn: str, migrated_template: str) -> Iterator[str]:
    """Yield the connection string of a fresh database with our schema."""
    yield from _fresh_database(postgres_dsn, migrated_template)


@pytest.fixture
def own_postgres(short_path: Path) -> Iterator[Server[str]]:
    """Run a PostgreSQL without our schema, for a single test to stop, kill and start.

    Its address stays.
    """
    data = short_path / "pg"
    server = Server(
        lambda: embedded.postgres(data, settings=QUICK),
        lambda _: int((data / "postmaster.pid").read_text().split("\n", 1)[0]),
    )
    server.start()
    yield server
    server.stop()


# ------------------------------------------------------------------------------------- Redis
@pytest.fixture(scope="session")
def _redis_server(short_root: Path, tools: Tools) -> Iterator[str]:
    with embedded.valkey(short_root / "redis", _needed(tools, "redis-server")) as url:
        yield url


@pytest.fixture
def redis_url(_redis_server: str) -> str:
    """Return the URL of an emptied real Redis."""
    with redis.Redis.from_url(_redis_server) as client:
        client.flushall()
    return _redis_server


@pytest.fixture(scope="session")
def _valkey_server(short_root: Path) -> Iterator[str]:
    with embedded.valkey(short_root / "valkey") as url:
        yield url


@pytest.fixture
def valkey_url(_valkey_server: str) -> str:
    """Return the URL of an emptied Valkey from the wheel."""
    with redis.Redis.from_url(_valkey_server) as client:
        client.flushall()
    return _valkey_server


@pytest.fixture
def own_redis(short_path: Path, tools: Tools) -> Iterator[Server[str]]:
    """Run a real Redis for a single test to stop and start; its address stays."""
    command = _needed(tools, "redis-server")
    server = Server(lambda: embedded.valkey(short_path / "redis", command), lambda _: _no_pid())
    server.start()
    yield server
    server.stop()


def _no_pid() -> int:
    pytest.fail("stop() it: a Redis that keeps nothing dies alike either way")


# ------------------------------------------------------------------------------------ broker
@pytest.fixture(scope="session")
def mosquitto(short_root: Path, tools: Tools) -> Iterator[EmbeddedBroker]:
    """Run the session's mosquitto.

    A test must use client ids and topics that no other test uses (`unique`).
    """
    _needed(tools, "mosquitto")
    with embedded.mosquitto(short_root / "mosquitto", tools) as listener:
        yield listener


@pytest.fixture
def own_mosquitto(short_path: Path, tools: Tools) -> Iterator[Server[EmbeddedBroker]]:
    """Run a mosquitto for a single test to stop, kill and start; its address and password stay."""
    _needed(tools, "mosquitto")
    port = embedded.free_port()
    server = Server(
        lambda: embedded.mosquitto(short_path / "mosquitto", tools, port, "own-password"),
        lambda listener: listener.pid,
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def unique() -> str:
    """Return a word that no other test has, for client ids and topics on a shared server."""
    return f"t{os.getpid()}-{next(_numbers)}"
