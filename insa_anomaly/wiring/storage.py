"""The log and the states on disk, whole or set aside: a damaged file ends no start, and a person can look at it later."""

from itertools import count
from pathlib import Path

from insa_anomaly import instrumentation
from insa_anomaly.adapters import alert_file, spool, state
from insa_anomaly.adapters.disk import size_of_file, size_of_folder
from insa_anomaly.adapters.reserve import Reserve
from insa_anomaly.errors import AlertsDamaged, ConfigError, LogBroken, LogDamaged, StateDamaged, StateUnwritable

LOG, STATE = "spool.db", "state.db"
_PARTS = ("", "-wal", "-shm")  # a file of SQLite, and what it keeps beside it


def opened(directory: Path, log_bytes: int, reserve: Reserve) -> tuple[spool.Spool, state.StateFile, bool]:
    """Both, and whether the states were lost. Where they cannot be opened for want of room, the reserve is let go, and they are again."""
    reserve.hold()
    try:
        return _both(directory, log_bytes)
    except (LogBroken, StateUnwritable):
        if not reserve.held:
            raise
        reserve.release()
        return _both(directory, log_bytes)


def _both(directory: Path, log_bytes: int) -> tuple[spool.Spool, state.StateFile, bool]:
    found = log(directory / LOG, log_bytes)
    try:
        return found, *states(directory / STATE)
    except BaseException:
        found.close()
        raise


def log(path: Path, most_bytes: int) -> spool.Spool:
    """The log; what can be read of a damaged one begins a new one. Raises LogBroken, ConfigError."""
    found = None
    try:
        found = spool.Spool(path, most_bytes)
        found.verify()
    except LogDamaged:
        if found is not None:
            found.close()
        aside = set_aside(path)
        found = spool.Spool(path, most_bytes)
        instrumentation.log_damaged(str(aside), *spool.salvaged(aside, found))
    return found


def states(path: Path) -> tuple[state.StateFile, bool]:
    """The states, and whether they were lost: damaged ones are computed again from the log. Raises StateBroken, ConfigError."""
    found = None
    try:
        found = state.StateFile(path)
        found.verify()
    except StateDamaged:
        if found is not None:
            found.close()
        instrumentation.state_damaged(str(set_aside(path)))
        return state.StateFile(path), True
    return found, False


def alerts(path: Path) -> alert_file.AlertFile:
    """The alerts; damaged ones are begun anew. Raises AlertsBroken, ConfigError."""
    try:
        return alert_file.AlertFile(path)
    except AlertsDamaged:
        instrumentation.alerts_damaged(str(set_aside(path)))
        return alert_file.AlertFile(path)


def set_aside(path: Path) -> Path:
    """Rename the file and those that SQLite keeps beside it; answers the new name, which was free. Raises ConfigError."""
    aside = next(one for number in count(1) if not (one := path.with_name(f"{path.name}.damaged-{number}")).exists())
    try:
        for part in _PARTS:
            source = path.with_name(path.name + part)
            if source.exists():
                source.rename(aside.with_name(aside.name + part))
    except OSError as error:
        raise ConfigError(f"{path} is damaged and cannot be set aside: {error}") from error
    return aside


def sizes(directory: Path, models: Path) -> dict[str, int]:
    """Bytes on disk, of the log and the states in the storage directory, and of the models. Raises DiskUnreadable."""
    return {"log": size_of_file(directory / LOG), "state": size_of_file(directory / STATE), "models": size_of_folder(models)}
