"""The embedded servers: they start, admit only the right clients, and leave no trace."""

import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import psycopg
import pytest
import redis
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.embedded import EmbeddedBroker, Installation, Tools, database
from insa_anomaly.errors import ServiceError
from tests.conftest import QUICK, ROOT, Server, alive, wait_for


def _installations(kind: str) -> list[Installation]:
    found = [
        each
        for each in embedded.postgres_installations()
        if (each.package is not None) == (kind == "wheel")
    ]
    if not found and kind == "system":
        pytest.skip(
            "no system PostgreSQL here: packages unpacked without root cannot run from another "
            "place"
        )
    return found


def _one(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row and row[0]


def _connack(listener: EmbeddedBroker, password: str) -> str:
    """Return the broker's answer to a connection with this password."""
    answers: SimpleQueue[str] = SimpleQueue()
    client = Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set(listener.user, password)
    client.on_connect = lambda _client, _data, _flags, reason, _properties: answers.put(str(reason))
    client.connect(listener.host, listener.port)
    client.loop_start()
    try:
        return answers.get(timeout=10)
    finally:
        client.disconnect()
        client.loop_stop()


# ---------------------------------------------------------------------------------- PostgreSQL
@pytest.mark.parametrize("kind", ["wheel", "system"])
def test_postgres_keeps_its_data(short_path: Path, kind: str) -> None:
    """Data of a run is there in the next run of the same folder, whichever PostgreSQL it is."""
    for _ in range(2):
        with embedded.postgres(short_path / "pg", _installations(kind), QUICK) as dsn:
            with psycopg.connect(dsn) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS kept (it int)")
                connection.execute("INSERT INTO kept VALUES (7)")
            last = _one(dsn, "SELECT count(*) FROM kept")
    assert last == 2


def test_postgres_is_private(postgres_dsn: str) -> None:
    """The server listens on a unix socket in a 0700 folder and on no network."""
    assert _one(postgres_dsn, "SHOW listen_addresses") == ""
    folder = Path(str(_one(postgres_dsn, "SHOW unix_socket_directories")))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_postgres_of_another_version_is_refused(short_path: Path) -> None:
    """A folder made by a version that is not here is named with the cure, and not touched."""
    data = short_path / "pg"
    data.mkdir()
    (data / "PG_VERSION").write_text("9\n")
    with (
        pytest.raises(ServiceError, match="made by PostgreSQL 9, .* install postgresql-9"),
        embedded.postgres(data),
    ):
        pass
    assert [each.name for each in data.iterdir()] == ["PG_VERSION"]


def test_a_folder_with_something_else_is_refused(short_path: Path) -> None:
    """A folder that is not PostgreSQL's is left alone."""
    (short_path / "pg").mkdir()
    (short_path / "pg" / "letter").write_text("dear")
    with pytest.raises(ServiceError, match="not empty"), embedded.postgres(short_path / "pg"):
        pass


def test_without_postgres_the_cure_is_named(short_path: Path) -> None:
    """A machine without any PostgreSQL causes a line that names the package to install."""
    with (
        pytest.raises(ServiceError, match="install insa-anomaly"),
        embedded.postgres(short_path / "pg", []),
    ):
        pass


def test_a_crash_while_initialising_leaves_no_half(short_path: Path) -> None:
    """The remains of an interrupted first start are removed by the next start."""
    (short_path / "pg.initialising").mkdir()
    (short_path / "pg.initialising" / "half").write_text("")
    with embedded.postgres(short_path / "pg", settings=QUICK) as dsn:
        assert _one(dsn, "SELECT 1") == 1
    assert not (short_path / "pg.initialising").exists()


def test_a_bad_setting_is_quoted(short_path: Path) -> None:
    """An error quotes PostgreSQL's own last message."""
    refused = embedded.postgres(short_path / "pg", settings={**QUICK, "shared_buffers": "plenty"})
    with pytest.raises(ServiceError, match="shared_buffers.*plenty"), refused:
        pass


def test_a_long_path_is_no_obstacle(short_path: Path) -> None:
    """A folder too deep for a unix socket gets its socket elsewhere, in private."""
    deep = short_path / ("deep" * 20) / ("deeper" * 10)
    for folder in (deep.parent, deep):
        folder.mkdir(mode=0o711)
    with embedded.postgres(deep / "pg", settings=QUICK) as dsn:
        sockets = Path(str(_one(dsn, "SHOW unix_socket_directories")))
        assert not sockets.is_relative_to(deep)
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert not sockets.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root switches accounts")
def test_root_opens_no_folder(short_path: Path) -> None:
    """A closed folder stays closed under root: the start is refused and the cure named."""
    closed = short_path / "closed"
    closed.mkdir(mode=0o700)
    with (
        pytest.raises(ServiceError, match="cannot reach .* choose another one"),
        embedded.postgres(closed / "pg"),
    ):
        pass
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root switches accounts")
def test_programs_out_of_reach_are_copied(short_path: Path) -> None:
    """Programs under a closed home run as a copy beside the data; the home stays closed."""
    wheel = _installations("wheel")[0]
    home = short_path / "home"
    home.mkdir(mode=0o700)
    package = wheel.bindir.parent.parent
    for folder in (package, package.with_name(f"{package.name}.libs")):
        (home / folder.name).symlink_to(folder)
    hidden = Installation(
        home / package.name / wheel.bindir.parent.name / "bin", wheel.major, wheel.package
    )
    with embedded.postgres(short_path / "pg", [hidden], QUICK) as dsn:
        assert _one(dsn, "SELECT 1") == 1
        assert any(short_path.glob(f"{wheel.package}-*"))
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_killed_postgres_comes_back(own_postgres: Server[str]) -> None:
    """A server ended by kill -9 recovers its data at the next start."""
    with psycopg.connect(own_postgres.address) as connection:
        connection.execute("CREATE TABLE kept (it int)")
    own_postgres.kill()
    own_postgres.start()
    assert _one(own_postgres.address, "SELECT count(*) FROM kept") == 0


def test_a_lock_of_before_a_power_cut_is_forgotten(
    own_postgres: Server[str], short_path: Path
) -> None:
    """A lock file whose process id belongs to another program does not prevent a start."""
    own_postgres.kill()
    lock = short_path / "pg" / "postmaster.pid"
    lines = lock.read_text().splitlines()
    lock.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    own_postgres.start()
    assert _one(own_postgres.address, "SELECT 1") == 1


def test_two_servers_never_share_a_folder(
    own_postgres: Server[str], short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in use is refused with the owner's process id, and its owner continues."""
    monkeypatch.setattr(database, "STOP_SECONDS", 0.1)
    with (
        pytest.raises(ServiceError, match="in use by the PostgreSQL with process id"),
        embedded.postgres(short_path / "pg"),
    ):
        pass
    assert _one(own_postgres.address, "SELECT 1") == 1


# ---------------------------------------------------------------------------- Valkey and Redis
def test_valkey_and_redis_answer(valkey_url: str, redis_url: str) -> None:
    """The suite has both servers, and tells them apart."""
    with redis.Redis.from_url(valkey_url) as valkey, redis.Redis.from_url(redis_url) as real:
        assert "valkey_version" in valkey.info()
        assert "valkey_version" not in real.info()


def test_valkey_is_private(valkey_url: str) -> None:
    """The server listens on a unix socket that only its owner may open."""
    path = Path(valkey_url.removeprefix("unix://"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


# -------------------------------------------------------------------------------------- broker
def test_mosquitto_lets_in_who_knows_the_password(mosquitto: EmbeddedBroker) -> None:
    """The broker admits the user with the password, and no other client."""
    assert _connack(mosquitto, mosquitto.password) == "Success"
    assert _connack(mosquitto, "guess") == "Not authorized"


def test_amqtt_lets_in_who_knows_the_password(short_path: Path) -> None:
    """The broker of last resort admits only the user with the password, too."""
    with embedded.amqtt(short_path / "amqtt") as listener:
        assert _connack(listener, listener.password) == "Success"
        assert _connack(listener, "guess") == "Not authorized"


def test_the_best_broker_is_chosen(
    short_path: Path, tools: Tools, mosquitto: EmbeddedBroker
) -> None:
    """A machine with mosquitto uses mosquitto, any other amqtt."""
    assert mosquitto.pid
    with embedded.broker(short_path / "with", tools):
        assert (short_path / "with" / "mosquitto.conf").exists()
    with embedded.broker(short_path / "without", _NoTools()):
        assert (short_path / "without" / "amqtt.yaml").exists()


class _NoTools(Tools):
    """A machine without any program."""

    def command(self, name: str) -> None:
        """Find no program."""


def test_a_restarted_mosquitto_keeps_its_address(own_mosquitto: Server[EmbeddedBroker]) -> None:
    """A broker that was stopped or killed has its address again and admits the same user."""
    before = own_mosquitto.address
    own_mosquitto.stop()
    own_mosquitto.start()
    own_mosquitto.kill()
    own_mosquitto.start()
    assert own_mosquitto.address.port == before.port
    assert _connack(own_mosquitto.address, before.password) == "Success"


def test_secrets_stay_secret(mosquitto: EmbeddedBroker, short_root: Path) -> None:
    """The password is in no argument, no readable file and no repr."""
    assert mosquitto.password not in Path(f"/proc/{mosquitto.pid}/cmdline").read_text()
    assert stat.S_IMODE((short_root / "mosquitto" / "passwords").stat().st_mode) == 0o600
    assert mosquitto.password not in repr(mosquitto)


def test_a_port_in_use_is_named(short_path: Path, tools: Tools, mosquitto: EmbeddedBroker) -> None:
    """A port in use is named with the cure; its owner is not mistaken for our broker."""
    taken = embedded.mosquitto(short_path / "m", tools, port=mosquitto.port)
    with pytest.raises(ServiceError, match=f"port {mosquitto.port} .*in use"), taken:
        pass


# ------------------------------------------------------------------------------------ children
def test_a_child_ends_with_the_thread_that_started_it() -> None:
    """The kernel's signal follows the thread, so servers are started from a long-lived thread."""
    children: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        children.append(embedded.spawn(["sleep", "60"]))
        wait_for(lambda: Path(f"/proc/{children[0].pid}/cmdline").read_bytes().startswith(b"sleep"))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert children[0].wait(10) == -signal.SIGTERM


def test_a_child_that_ignores_the_signal_is_ended() -> None:
    """The time of a stop is bounded."""
    program = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    )
    deaf = embedded.spawn([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert deaf.stdout
    deaf.stdout.readline()
    assert embedded.stop(deaf, seconds=0.2) == -signal.SIGKILL
    deaf.stdout.close()


def test_a_program_that_is_not_there_is_named() -> None:
    """The child names the program that it could not start."""
    child = embedded.spawn(["/nowhere/at/all"], stderr=subprocess.PIPE)
    assert child.communicate(timeout=10)[1] == b"/nowhere/at/all: No such file or directory\n"
    assert child.returncode == 1


PARENT = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from insa_anomaly.adapters import embedded
folder = Path(sys.argv[1])
with ExitStack() as stack:
    stack.enter_context(embedded.postgres(folder / "pg", settings={"fsync": "off"}))
    stack.enter_context(embedded.valkey(folder / "valkey"))
    tools = embedded.Tools(Path(sys.argv[2]))
    print(stack.enter_context(embedded.mosquitto(folder / "m", tools)).pid)
    print(stack.enter_context(embedded.amqtt(folder / "a")).pid)
    print((folder / "pg" / "postmaster.pid").read_text().split()[0], flush=True)
    time.sleep(60)
"""


def test_no_server_outlives_a_killed_parent(short_path: Path, tools: Tools) -> None:
    """Every server ends by itself after kill -9 of the parent.

    PostgreSQL's folder can be used at once.
    """
    argv = [sys.executable, "-c", PARENT, str(short_path), str(tools.unpacked or "/nowhere")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(parent.stdout.readline()) for _ in range(3)]
        children = [*pids, *_listening_under(short_path)]
        assert all(alive(pid) for pid in children)
        parent.kill()
    with embedded.postgres(short_path / "pg", settings=QUICK) as dsn:
        assert _one(dsn, "SELECT 1") == 1
    wait_for(lambda: not any(alive(pid) for pid in children))


def _listening_under(folder: Path) -> list[int]:
    """Return the processes that name this folder in their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [int(path.parent.name)] if str(folder).encode() in path.read_bytes() else []
    return found


def test_a_child_may_stay_where_we_are_though_nobody_could_enter_there(tmp_path: Path) -> None:
    """A child may run in a folder that only its parent could enter.

    A service's account that is started from root's home has its folder by inheritance alone.
    """
    program = (
        "import os, sys; os.chdir(sys.argv[1]); os.chmod(sys.argv[1], 0); "
        "from insa_anomaly.adapters.embedded import spawn; "
        "sys.exit(spawn([sys.executable, '-c', ''], cwd=None).wait())"
    )
    closed = tmp_path / "closed"
    closed.mkdir()
    argv = [sys.executable, "-c", program, str(closed)]
    assert (
        subprocess.run(
            argv, check=False, timeout=30, env={**os.environ, "PYTHONPATH": str(ROOT)}
        ).returncode
        == 0
    )
