"""Backup and restore of database, models, log and states, in a folder that knows if it is whole.

A backup is taken while the daemon runs: first the states, then the log, then the database. So the
log holds every entry that the states rest on, and every entry that the database lacks. The backup
also holds rows that the database recorded of later entries, so a restored log gets a new name. The
key that seals models is not part of a backup: beside its key a seal protects no model.
"""

from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import typer

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.disk import backup as files
from insa_anomaly.adapters.postgres import dump
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.commands.options import Config, argument, load_for_use
from insa_anomaly.errors import BackupFailed
from insa_anomaly.files.whole import write_whole
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring.clock import clock
from insa_anomaly.wiring.database import database
from insa_anomaly.wiring.storage import ALERTS, LOG, STATE, alone

_SUBSCRIPTIONS = "subscriptions.json"


class Manifest(msgspec.Struct, frozen=True):
    """The manifest of a backup, written last, so that an incomplete backup has none."""

    version: str
    taken_at: str
    sha256: dict[str, str]


def backup(settings: Settings, target: Path) -> Path:
    """Write a backup into a folder below `target` and return the folder.

    The folder's name is the time. Raises BackupFailed, DatabaseAway or DatabaseRefused.
    """
    at = datetime.fromtimestamp(clock.now() / 1e6, UTC)
    folder = target / f"insa-anomaly-{at:%Y%m%dT%H%M%SZ}"
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise BackupFailed(f"{folder} cannot be made: {error.strerror}") from error
    source = settings.storage.directory
    with ExitStack() as stack:
        held = {
            name: stack.enter_context(files.Snapshot(source / name))
            for name in (ALERTS, STATE, LOG)
            if (source / name).exists()
        }
        with database(settings) as dsn:
            dump.dump(_programs("pg_dump", dump.server_major(dsn)), dsn, folder / "database.dump")
        for name, snapshot in held.items():
            snapshot.copy(folder / name)
    for path in (source / _SUBSCRIPTIONS, settings.models.key_file):
        if path.exists():
            files.copy_private(path, folder / path.name)
    if (settings.models.directory / "models.db").exists():
        files.copy_models(settings.models.directory, folder / "ml_models")
    manifest = Manifest(version("insa-anomaly"), at.isoformat(), files.digests(folder))
    write_whole(folder / "manifest.json", msgspec.json.encode(manifest))
    files.sync(folder)
    return folder


def restore(settings: Settings, folder: Path) -> Manifest:
    """Restore a backup to empty places that the settings name.

    Raises BackupFailed for an incomplete backup or an occupied place, and AlreadyRunning.
    """
    manifest = _checked(folder)
    target = settings.storage.directory
    with alone(target), database(settings) as dsn:
        _refuse_what_is_there(settings, dsn)
        dump.restore(_programs("pg_restore", dump.server_major(dsn)), dsn, folder / "database.dump")
        for name in (ALERTS, STATE, LOG, _SUBSCRIPTIONS):
            if (folder / name).exists():
                files.copy_private(folder / name, target / name)
        key_file = settings.models.key_file
        if (folder / key_file.name).exists() and not key_file.exists():
            key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.copy_private(folder / key_file.name, key_file)
        if (folder / "ml_models").is_dir():
            _restore_models(settings.models.directory, folder / "ml_models")
        if (target / LOG).exists() and (target / STATE).exists():
            last = files.last_of(target / LOG)
            dump.carry_over(dsn, *files.rename_log(target / LOG, target / STATE), last)
        migrate(dsn)
    return manifest


def _restore_models(directory: Path, source: Path) -> None:
    if directory.is_dir():
        directory.rmdir()  # it was found to be empty
    directory.parent.mkdir(parents=True, exist_ok=True)
    files.copy_models(source, directory)


def _checked(folder: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        reason = f"{folder} is no backup, or one that was not finished: {error}"
        raise BackupFailed(reason) from error
    found = files.digests(folder)
    found.pop("manifest.json")
    altered = sorted({name for name, _ in found.items() ^ manifest.sha256.items()})
    if altered:
        raise BackupFailed(f"{folder} is not as it was written: {', '.join(altered[:5])}")
    return manifest


def _refuse_what_is_there(settings: Settings, dsn: str) -> None:
    directory = settings.models.directory
    places = [settings.storage.directory / name for name in (ALERTS, STATE, LOG)]
    there = [str(path) for path in places if path.exists()]
    there += [str(directory)] if directory.is_dir() and any(directory.iterdir()) else []
    there += [] if dump.is_empty(dsn) else ["the schema in the database"]
    if there:
        found = ", ".join(there)
        raise BackupFailed(
            f"a backup is restored where nothing is, and there is {found}: move it away first"
        )


def _programs(name: str, major: int) -> Path:
    """Return the folder of PostgreSQL programs that are at least as new as the server."""
    newer = [each for each in embedded.postgres_installations() if each.major >= major]
    fitting = [each for each in newer if (each.bindir / name).exists()]
    if not fitting:
        raise BackupFailed(
            f"there is no {name} of PostgreSQL {major} or newer: install postgresql-client-{major}"
        )
    return min(fitting, key=lambda each: each.major).bindir


def backup_command(
    target: Path = argument("Folder to put it in, under the time it was taken."),
    config: Config = None,
) -> None:
    """Back up database, models, log and states into a new folder; the daemon may run meanwhile."""
    settings, _ = load_for_use(config)
    typer.echo(str(backup(settings, target)))


def restore_command(
    folder: Path = argument("The backup: a folder that `backup` wrote."), config: Config = None
) -> None:
    """Restore a backup to empty places that the configuration names, while no daemon runs."""
    settings, _ = load_for_use(config)
    manifest = restore(settings, folder)
    typer.echo(f"restored what version {manifest.version} backed up at {manifest.taken_at}")
