"""The attempts that a confined program must fail at: a line for each, `held` or `NOT HELD`."""

import ctypes
import errno
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

TMP = Path("/tmp")  # noqa: S108 - it is private here


def refused(attempt: Callable[[], object], *numbers: int) -> bool:
    """Return whether the attempt fails with one of these error numbers."""
    try:
        attempt()
    except OSError as error:
        return error.errno in numbers
    return False


def unshare() -> None:
    """Try to enter a user namespace, which would grant all capabilities inside it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")


def status(name: str) -> str:
    """Return the value of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Try every restriction and print the results."""
    state = Path("/var/lib/insa-anomaly/probe")
    state.write_text("mine", encoding="ascii")
    (TMP / "probe").write_text("mine", encoding="ascii")
    # The files of the program stay visible, wherever they lie.
    program = (Path.cwd(), Path(sys.prefix), Path(sys.base_prefix))
    shown = {path.relative_to(TMP).parts[0] for path in program if path.is_relative_to(TMP)}
    found = {
        "nobody can give us more": status("NoNewPrivs") == "1"
        and status("CapBnd") == status("CapEff") == "0" * 16,
        "system calls are filtered": status("Seccomp") == "2",
        "the system is read-only": refused(
            lambda: Path("/etc/probe").write_text("", encoding="ascii"), errno.EROFS, errno.EACCES
        )
        and refused(lambda: Path("/var/lib/probe").mkdir(), errno.EROFS, errno.EACCES),
        "homes are hidden": not [*Path("/home").iterdir()] if Path("/home").is_dir() else True,
        "temporary files are ours": {path.name for path in TMP.iterdir()} == {"probe", *shown},
        "memory is writable or executable": refused(
            lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
            errno.EACCES,
            errno.EPERM,
        ),
        "no raw packets": refused(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW), errno.EPERM
        ),
        "no netlink": refused(
            lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), errno.EPERM
        ),
        "no namespaces": refused(unshare, errno.EPERM),
        "no change of owner": refused(
            lambda: os.chown(state, os.getuid(), os.getgid()), errno.EPERM
        ),
        "no new root": refused(lambda: os.chroot("/"), errno.EPERM),
        "training may be nice": os.nice(1) == 1,
    }
    for what, held in found.items():
        sys.stdout.write(f"{what}: {'held' if held else 'NOT HELD'}\n")


if __name__ == "__main__":
    main()
