"""Child processes: found, started so that they never outlive us, awaited and stopped."""

import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from insa_anomaly.adapters.embedded.account import UserAccount
from insa_anomaly.errors import ServiceError

READY_SECONDS = 30.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02
LOG_BYTES = 1_000_000
_PORTS = range(12_000, 32_000)  # below the ports of outgoing connections, 32768 to 60999
# Not on an ordinary user's PATH, although Debian's mosquitto is there.
SBIN = "/usr/sbin:/sbin:/usr/local/sbin"

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


@dataclass(frozen=True)
class Tools:
    """Search path of programs: PATH, the sbin folders, then `unpacked`.

    `unpacked` is a folder in which packages were unpacked without root.
    """

    unpacked: Path | None = None

    def command(self, name: str) -> list[str] | None:
        """Return the start of an argument list that runs a program, None if it is not found."""
        found = shutil.which(name) or shutil.which(name, path=SBIN)
        if found is not None:
            return [found]
        return (
            _unpacked_command(name, self.unpacked.resolve()) if self.unpacked is not None else None
        )


def _unpacked_command(name: str, root: Path) -> list[str] | None:
    found = shutil.which(name, path=f"{root}/usr/bin:{root}/usr/sbin")
    if found is None:
        return None
    libraries = [
        str(folder)
        for top in ("usr/lib", "lib")
        for folder in sorted(root.glob(f"{top}/*-linux-gnu*"))
    ]
    return ["/usr/bin/env", f"LD_LIBRARY_PATH={':'.join(libraries)}", found]


def spawn(
    argv: Sequence[str],
    *,
    death_signal: signal.Signals = signal.SIGTERM,
    account: UserAccount | None = None,
    cwd: Path | str | None = "/",
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child that receives `death_signal` when the calling thread ends in any way.

    Call it from a thread that lives long. `cwd` None is our working directory, even if it could not
    be entered now. The child leads a session of its own, so that Ctrl-C in a terminal reaches only
    the parent, which stops its children in order. A small program sets the signal and becomes
    `argv`: unlike `preexec_fn` it is safe beside running threads.
    """
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    shim = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        _SHIM,
        str(os.getpid()),
        str(int(death_signal)),
        str(uid),
        str(gid),
    ]
    return subprocess.Popen(
        [*shim, *argv],
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        pass_fds=pass_fds,
    )


def stop(
    process: subprocess.Popen[bytes],
    with_signal: signal.Signals = signal.SIGTERM,
    seconds: float = STOP_SECONDS,
) -> int:
    """Signal a child to end, wait, and kill it after `seconds`; return its exit code."""
    if process.poll() is None:
        process.send_signal(with_signal)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was unused a moment ago.

    The kernel assigns no port of this range to outgoing connections.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServiceError(f"no port of 127.0.0.1 between {_PORTS.start} and {_PORTS.stop} is free")


def untaken(port: int) -> int:
    """Return the port if it is free; otherwise raise ServiceError.

    A server that already answers there would be taken for ours.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServiceError(
                f"port {port} of 127.0.0.1 cannot be used: {error.strerror};"
                " choose another one or stop its user"
            ) from error
    return port


@contextmanager
def running(
    name: str,
    argv: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    *,
    stop_signal: signal.Signals = signal.SIGTERM,
    account: UserAccount | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the length of the block, with its output in `log`."""
    with _opened_log(log) as output:
        process = spawn(
            argv, death_signal=stop_signal, account=account, stdout=output, stderr=output
        )
    try:
        _await(name, process, log, ready)
        yield process
    finally:
        stop(process, stop_signal)


@contextmanager
def _opened_log(path: Path) -> Iterator[int]:
    """Yield a descriptor that appends; a log that has grown long starts anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = os.O_TRUNC if path.exists() and path.stat().st_size > LOG_BYTES else 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | fresh, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _await(
    name: str, process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]
) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not ready():
        if process.poll() is not None:
            raise ServiceError(
                f"{name} ended at its start with code {process.returncode}:"
                f" {_last_line(log)} (all of it in {log})"
            )
        if time.monotonic() > deadline:
            raise ServiceError(
                f"{name} is not ready after {READY_SECONDS:.0f} s:"
                f" {_last_line(log)} (all of it in {log})"
            )
        time.sleep(POLL_SECONDS)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-20:]
    loud = [line for line in lines if re.search(r"FATAL|[Ee]rror", line)]
    return (loud or lines or ["it said nothing"])[-1].strip()


def accepts(family: int, address: tuple[str, int] | str) -> bool:
    with socket.socket(family) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(address) == 0


def package_folders(package: str) -> list[Path]:
    """Return a package's folders without importing it: an import does work that is not wanted."""
    spec = importlib.util.find_spec(package)
    return [Path(place) for place in spec.submodule_search_locations or []] if spec else []
