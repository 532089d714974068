"""The storage directory, held by a single daemon, with its files whole or set aside.

A damaged file ends no start; a person can look at it later.
"""

import fcntl
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from insa_anomaly.adapters.disk import state
from insa_anomaly.adapters.disk.alerts import AlertFile
from insa_anomaly.adapters.disk.log import LogFile, salvaged
from insa_anomaly.adapters.disk.reserve import FileReserve
from insa_anomaly.adapters.disk.sizes import size_of_file, size_of_folder
from insa_anomaly.errors import (
    AlertsDamaged,
    AlreadyRunning,
    ConfigError,
    LogBroken,
    LogDamaged,
    StateDamaged,
    StateUnwritable,
)
from insa_anomaly.instrumentation.alerts import alerts_damaged
from insa_anomaly.instrumentation.storage import log_damaged, state_damaged

LOG, STATE, ALERTS = "spool.db", "state.db", "alerts.db"
_PARTS = ("", "-wal", "-shm")  # a file of SQLite, and what it keeps beside it


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold the storage directory for this process; the lock ends with the process."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / "daemon.lock"
        path.touch(0o600)
        path.chmod(0o600)  # an earlier version let others hold the lock
        lock = path.open("w")
    except OSError as error:
        reason = error.strerror
        raise ConfigError(f"storage.directory {directory} cannot be used: {reason}") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"another daemon uses {directory}: stop it, or set storage.directory"
            raise AlreadyRunning(message) from error
        yield


def taken(directory: Path) -> bool:
    """Return whether a daemon holds the directory."""
    try:
        with (directory / "daemon.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # nobody was ever here, or not we may know it
    return False


def check_owner(directory: Path) -> None:
    """Refuse to run as root in another account's directory: the service could not use root's files.

    Raises ConfigError.
    """
    if os.geteuid() == 0 and directory.is_dir() and (owner := directory.stat().st_uid):
        name = pwd.getpwuid(owner).pw_name
        raise ConfigError(
            f"{directory} belongs to {name}, who could not use what root leaves: `runuser -u "
            f"{name} -- insa-anomaly ...`"
        )


def opened(
    directory: Path, log_bytes: int, reserve: FileReserve
) -> tuple[LogFile, state.StateFile, bool]:
    """Return log and states, and whether the states were lost.

    If they cannot be opened for want of room, the reserve is released and they are opened again.
    """
    reserve.hold()
    try:
        return _both(directory, log_bytes)
    except (LogBroken, StateUnwritable):
        if not reserve.held:
            raise
        reserve.release()
        return _both(directory, log_bytes)


def _both(directory: Path, log_bytes: int) -> tuple[LogFile, state.StateFile, bool]:
    found = log(directory / LOG, log_bytes)
    try:
        return found, *states(directory / STATE)
    except BaseException:
        found.close()
        raise


def log(path: Path, most_bytes: int) -> LogFile:
    """Open the log; the readable entries of a damaged log begin a new log.

    Raises LogBroken or ConfigError.
    """
    found = None
    try:
        found = LogFile(path, most_bytes)
        found.verify()
    except LogDamaged:
        if found is not None:
            found.close()
        aside = set_aside(path)
        found = LogFile(path, most_bytes)
        log_damaged(str(aside), *salvaged(aside, found))
    return found


def states(path: Path) -> tuple[state.StateFile, bool]:
    """Open the states; return whether they were lost.

    Damaged states are computed again from the log. Raises StateBroken or ConfigError.
    """
    found = None
    try:
        found = state.StateFile(path)
        found.verify()
    except StateDamaged:
        if found is not None:
            found.close()
        state_damaged(str(set_aside(path)))
        return state.StateFile(path), True
    return found, False


def alerts(path: Path) -> AlertFile:
    """Open the alerts; a damaged file is replaced by an empty file.

    Raises AlertsBroken or ConfigError.
    """
    try:
        return AlertFile(path)
    except AlertsDamaged:
        alerts_damaged(str(set_aside(path)))
        return AlertFile(path)


def set_aside(path: Path) -> Path:
    """Rename a file and SQLite's files beside it; return the new name, which was free.

    Raises ConfigError.
    """
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    try:
        for part in _PARTS:
            source = path.with_name(path.name + part)
            if source.exists():
                source.rename(aside.with_name(aside.name + part))
    except OSError as error:
        raise ConfigError(f"{path} is damaged and cannot be set aside: {error}") from error
    return aside


def sizes(directory: Path, models: Path) -> dict[str, int]:
    """Return the bytes on disk of the log, the states and the models. Raises DiskUnreadable."""
    return {
        "log": size_of_file(directory / LOG),
        "state": size_of_file(directory / STATE),
        "models": size_of_folder(models),
    }
