"""Accounts for servers that must not run as root, and the folders that an account receives."""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from insa_anomaly.errors import ServiceError

OUR_ACCOUNT = "insa-anomaly"
# The kernel's limit for a unix socket is 107, and PostgreSQL makes a lock file beside it.
SOCKET_PATH_BYTES = 100


@dataclass(frozen=True)
class UserAccount:
    """The account that a child runs as."""

    name: str
    uid: int
    gid: int


def service_account() -> UserAccount | None:
    """Return the account for a server that must not run as root, created if it is missing.

    None if this process is not root itself.
    """
    if os.geteuid() != 0:
        return None
    account = _account(OUR_ACCOUNT) or _account("postgres")
    if account is None:
        _make_account()
        account = _account(OUR_ACCOUNT)
    return account


def owner(folder: Path) -> UserAccount | None:
    """Return the owner of a folder, as which the server that made the folder must run.

    None if this process is not root itself.
    """
    if os.geteuid() != 0:
        return None
    status = folder.stat()
    return UserAccount(str(status.st_uid), status.st_uid, status.st_gid)


def _account(name: str) -> UserAccount | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return UserAccount(name, entry.pw_uid, entry.pw_gid)


def _make_account() -> None:
    argv = [
        "/usr/sbin/useradd",
        "--system",
        "--no-create-home",
        "--shell",
        "/usr/sbin/nologin",
        OUR_ACCOUNT,
    ]
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise ServiceError(
            f"servers do not run as root and the account {OUR_ACCOUNT} cannot be made:"
            f" {reason}; make it by hand"
        ) from error


def account_may(account: UserAccount, permission: str, path: Path) -> bool:
    """Return whether the account has a permission of test(1) on a path.

    The folders above the path are considered as well.
    """
    argv = ["test", permission, str(path)]
    return (
        subprocess.run(
            argv,
            check=False,
            cwd="/",
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            timeout=10,
        ).returncode
        == 0
    )


def private_folder(folder: Path, account: UserAccount | None = None) -> Path:
    """Create the folder, 0700 and owned by the account, and its parents; return its path.

    An existing parent is not changed.
    """
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if account is not None:
            os.chown(folder, account.uid, account.gid)
    except OSError as error:
        raise ServiceError(
            f"cannot make the folder {folder}: {error.strerror}; choose another one"
        ) from error
    if account is not None and not account_may(account, "-w", folder):
        raise ServiceError(
            f"the account {account.name} cannot reach {folder}:"
            " a folder above it is closed; choose another one"
        )
    return folder


def write_private(path: Path, text: str, account: UserAccount | None = None) -> None:
    """Replace a file by a file that only we, or the account, may read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if account is not None:
            os.fchown(file.fileno(), account.uid, account.gid)


@contextmanager
def socket_folder(folder: Path, account: UserAccount | None = None) -> Iterator[Path]:
    """Yield the folder, or a private temporary folder if its path is too long for a unix socket."""
    if len(os.fsencode(folder)) + len("/.s.PGSQL.5432") <= SOCKET_PATH_BYTES:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="insa-", ignore_cleanup_errors=True) as short:
        yield private_folder(Path(short), account)
