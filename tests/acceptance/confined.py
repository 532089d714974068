"""A program under the restrictions of a systemd unit, as far as they work without systemd.

`python -m tests.acceptance.confined UNIT STATE MODULE [ARGUMENT...]` runs a module in namespaces of
the service's own. Everything is read-only but the state folders, which lie in STATE. The program
has a private /tmp, no capabilities, no way to new privileges and no memory that is both writable
and executable. The unit's filter of system calls, address families and namespaces applies. Each
step becomes the next by exec, so the process stays the same.
"""

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

from insa_anomaly.adapters.embedded.account import service_account

HERE = "tests.acceptance.confined"
TMP, STATE_ROOT = Path("/tmp"), Path("/var/lib")  # noqa: S108 - the places to be private
PRIVATE = {
    TMP: 0o1777,
    STATE_ROOT: 0o755,
    Path("/root"): 0o755,
    Path("/home"): 0o755,
}  # their modes
MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID = 0x1000, 0x4000, 1 << 18, 2
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY, SYS_MOUNT_SETATTR = -100, 0x8000, 1, 442
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
ALLOW, REFUSE, ABSENT = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
SCMP_EQUAL, SCMP_MASKED_EQUAL = 4, 7
NEW_NAMESPACES = 0x7E020080  # the flags CLONE_NEW* together

_libc = ctypes.CDLL(None, use_errno=True)


class Comparison(ctypes.Structure):
    """libseccomp's `scmp_arg_cmp`."""

    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


def settings(unit: Path) -> dict[str, list[str]]:
    """Return the words of every setting of the unit, in order; a setting may come several times."""
    found: dict[str, list[str]] = {}
    for name, words in re.findall(r"^(\w+)=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE):
        found.setdefault(name, []).append(words)
    return found


def main() -> None:
    """Run the step that the arguments name."""
    match sys.argv[1:]:
        case ["mounts", *rest]:
            mounts(*rest)
        case ["filters", *rest]:
            filters(*rest)
        case rest:
            begin(*rest)


def begin(*rest: str) -> None:
    """Enter new namespaces.

    An ordinary user first gets a user namespace, in which the other namespaces are allowed.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    become(
        [
            "unshare",
            *user,
            "--mount",
            "--ipc",
            "--propagation",
            "private",
            sys.executable,
            "-m",
            HERE,
            "mounts",
            *rest,
        ]
    )


def mounts(unit: str, state: str, *rest: str) -> None:
    """Apply ProtectSystem=strict, ProtectHome, PrivateTmp and StateDirectory.

    The files of the program stay visible, wherever they lie.
    """
    os.umask(0o022)
    seen = sorted(
        {Path.cwd(), Path(sys.prefix), Path(sys.base_prefix), Path(unit).resolve().parent}
    )  # a folder before its subfolders
    names = settings(Path(unit))["StateDirectory"][-1].split()
    sources = {STATE_ROOT / name: owned(Path(state) / name) for name in names}
    held = {path: os.open(path, os.O_PATH) for path in (*seen, *sources.values())}
    for folder, mode in ((folder, mode) for folder, mode in PRIVATE.items() if folder.is_dir()):
        mount("tmpfs", folder, "tmpfs", MS_NOSUID)
        folder.chmod(mode)
    for place in seen:
        bind(held[place], place)
    for place, source in sources.items():
        bind(held[source], place)
    set_read_only("/", AT_RECURSIVE, read_only=True)
    for place in (TMP, *sources):
        set_read_only(str(place), 0, read_only=False)
    account = service_account()
    identity = (
        []
        if account is None
        else [f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]
    )
    bounded = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--pdeathsig=TERM"]
    become(["setpriv", *identity, *bounded, sys.executable, "-m", HERE, "filters", unit, *rest])


def owned(folder: Path) -> Path:
    """Make a folder of the service, as systemd makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    account = service_account()
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    folder.chmod(0o700)
    return folder


def bind(descriptor: int, place: Path) -> None:
    """Show a folder at this place, unless it is visible there anyway."""
    if not place.exists():
        place.mkdir(parents=True)
        mount(f"/proc/self/fd/{descriptor}", place, None, MS_BIND | MS_REC)


def filters(unit: str, *command: str) -> None:
    """Apply MemoryDenyWriteExecute and SystemCallFilter, then run the program."""
    os.umask(0o077)
    os.environ.pop("HOME", None)
    if _libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_MDWE")
    load_filter(settings(Path(unit)))
    become([sys.executable, "-m", *command])


def load_filter(unit: dict[str, list[str]]) -> None:
    """Refuse every system call that the unit does not list, with EPERM."""
    seccomp = ctypes.CDLL(find_library("seccomp"))
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(REFUSE))

    def rule(action: int, name: str, *comparisons: Comparison) -> None:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # otherwise the call belongs to another architecture
            array = (Comparison * len(comparisons))(*comparisons)
            answer = seccomp.seccomp_rule_add_array(
                context, ctypes.c_uint32(action), number, len(comparisons), array
            )
            if answer:
                raise OSError(-answer, name)

    for name in sorted(
        allowed(unit["SystemCallFilter"]) - {"socket", "clone", "clone3", "unshare", "setns"}
    ):
        rule(ALLOW, name)
    for family in unit["RestrictAddressFamilies"][-1].split():
        rule(ALLOW, "socket", Comparison(0, SCMP_EQUAL, getattr(socket, family), 0))
    rule(ALLOW, "clone", Comparison(0, SCMP_MASKED_EQUAL, NEW_NAMESPACES, 0))
    # The flags of clone3 lie in memory, where no filter looks; the C library then uses clone.
    rule(ABSENT, "clone3")
    if seccomp.seccomp_load(context):
        raise OSError("seccomp_load")


def allowed(lines: list[str]) -> set[str]:
    """Return the names of the system calls that the unit's lines allow, with systemd's groups."""
    groups = syscall_groups()
    left: set[str] = set(expanded("@default", groups))
    for line in lines:
        for word in line.removeprefix("~").split():
            names = expanded(word, groups)
            left = left - names if line.startswith("~") else left | names
    return left


def expanded(word: str, groups: dict[str, list[str]]) -> set[str]:
    """Return the names of a group, or the name itself."""
    return (
        set().union(*(expanded(each, groups) for each in groups[word]))
        if word.startswith("@")
        else {word}
    )


def syscall_groups() -> dict[str, list[str]]:
    """Return the groups as `systemd-analyze syscall-filter` lists them."""
    said = subprocess.run(
        ["systemd-analyze", "syscall-filter"],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout
    groups: dict[str, list[str]] = {}
    for line in said.splitlines():
        if line.startswith("@"):
            members = groups[line.strip()] = []
        elif line.startswith("# "):
            break  # system calls that the kernel has and systemd does not know
        elif line.strip() and not line.strip().startswith("#"):
            members.append(line.strip())
    return groups


def mount(source: str, target: Path, kind: str | None, flags: int) -> None:
    """Mount a file system by the system call; raises OSError."""
    if _libc.mount(
        source.encode(), bytes(target), kind.encode() if kind else None, ctypes.c_ulong(flags), None
    ):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} on {target}: {os.strerror(number)}")


def set_read_only(path: str, flags: int, *, read_only: bool) -> None:
    """Set or clear read-only on one mount, or with AT_RECURSIVE on all mounts below it."""
    attributes = (ctypes.c_uint64 * 4)(
        MOUNT_ATTR_RDONLY * read_only, MOUNT_ATTR_RDONLY * (not read_only), 0, 0
    )
    call = (
        SYS_MOUNT_SETATTR,
        AT_FDCWD,
        path.encode(),
        ctypes.c_uint(flags),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    if _libc.syscall(*call):
        number = ctypes.get_errno()
        raise OSError(number, f"mount_setattr {path}: {os.strerror(number)}")


def become(argv: list[str]) -> None:
    """Run another program as this process."""
    os.execvp(argv[0], argv)  # noqa: S606 - there is no shell in it


if __name__ == "__main__":
    main()
