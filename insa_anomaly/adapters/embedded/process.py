"""Children: how one is found, started so that it never outlives us, waited for and stopped."""

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

from insa_anomaly.adapters.embedded.account import Account
from insa_anomaly.errors import ServiceError

READY_SECONDS = 30.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02
LOG_BYTES = 1_000_000
_PORTS = range(12_000, 32_000)  # below those of outgoing connections, 32768 to 60999
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


@dataclass(frozen=True)
class Tools:
    """Where programs are looked for: PATH, the sbin folders, then `unpacked`, a folder that packages were unpacked in without root."""

    unpacked: Path | None = None

    def command(self, name: str) -> list[str] | None:
        """The start of an argument list that runs this program, or None where there is none."""
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
    account: Account | None = None,
    cwd: Path | str | None = "/",
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child that is sent `death_signal` when the thread that called this ends, however it ends: call it from one that lives long.

    `cwd` None is ours, whether or not we could enter it now.
    The child leads a session of its own, so that Ctrl-C in a terminal reaches the parent alone, which stops its children in order.
    A small program sets the signal and becomes `argv`: unlike `preexec_fn` it is safe beside running threads.
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
    """Ask a child to end, wait, and end it the hard way after `seconds`; answers its exit code."""
    if process.poll() is None:
        process.send_signal(with_signal)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody used a moment ago, and that the kernel gives to no outgoing connection meanwhile."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServiceError(f"no port of 127.0.0.1 between {_PORTS.start} and {_PORTS.stop} is free")


def untaken(port: int) -> int:
    """The port itself; a server that answers there would be taken for ours. Raises ServiceError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServiceError(
                f"port {port} of 127.0.0.1 cannot be used: {error.strerror}; choose another one or stop its user"
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
    account: Account | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the length of the block, its output in `log`."""
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
    """A descriptor to append to; a log that grew long starts anew."""
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
                f"{name} ended at its start with code {process.returncode}: {_last_line(log)} (all of it in {log})"
            )
        if time.monotonic() > deadline:
            raise ServiceError(
                f"{name} is not ready after {READY_SECONDS:.0f} s: {_last_line(log)} (all of it in {log})"
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
    """Where a package lies, without importing it: importing does work we don't want."""
    spec = importlib.util.find_spec(package)
    return [Path(place) for place in spec.submodule_search_locations or []] if spec else []
