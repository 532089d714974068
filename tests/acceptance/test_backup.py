"""Backup of a running daemon, and its restore on an empty machine that continues the stream."""

import json
import subprocess
from pathlib import Path

import psycopg
import pytest

from insa_anomaly.adapters.embedded import Tools
from insa_anomaly.adapters.postgres import dump
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.commands import backup
from insa_anomaly.errors import BackupFailed
from insa_anomaly.settings.load import load
from tests.acceptance.plant import machines, stream
from tests.acceptance.site import Site, empty_database, opened
from tests.conftest import wait_for

EXPECTED = [
    "alerts.db",
    "database.dump",
    "manifest.json",
    "ml_models",
    "model.key",
    "spool.db",
    "state.db",
    "subscriptions.json",
]


@pytest.mark.long
def test_a_backup_of_a_running_daemon_is_restored_on_another_machine(
    trained: Site, postgres_dsn: str, short_path: Path, tools: Tools
) -> None:
    """A restored backup loses and duplicates no reading, whatever was in progress.

    The restored daemon then takes up the rest of the stream.
    """
    messages = stream(machines(120))
    half = len(messages) // 2
    daemon = trained.daemon()
    daemon.start()
    with trained.feeder() as feeder:
        for message in messages[:half]:
            feeder.publish(*message)
    daemon.wait_idle()
    with trained.publishing(messages[half : half + 100], 200.0):
        done = trained.run("backup", str(short_path / "backups"))
        assert done.returncode == 0, done.stderr
    daemon.wait_idle()
    assert daemon.terminate() == 0
    folder = Path(done.stdout.strip())
    assert sorted(path.name for path in folder.iterdir()) == EXPECTED
    assert {path.stat().st_mode & 0o077 for path in folder.rglob("*")} == {0}

    with (
        empty_database(postgres_dsn) as database,
        opened(short_path / "other", tools, database) as other,
    ):
        refusal = trained.run("restore", str(folder))
        assert refusal.returncode == 1
        assert "move it away first" in refusal.stderr
        restored = other.run("restore", str(folder))
        assert restored.returncode == 0, restored.stderr
        heir = other.daemon()
        heir.start()
        with other.feeder() as feeder:
            for message in messages[half:]:
                feeder.publish(*message)
        heir.wait_idle()
        with trained.feeder() as feeder:
            for message in messages[half:]:
                feeder.publish(*message)
        daemon.start()
        daemon.wait_idle()
        readings = (
            "SELECT device_id, metric_name, timestamp, value FROM telemetry_readings "
            "ORDER BY 1, 2, 3"
        )
        sent = sum(len(json.loads(payload).get("metrics", "1")) for _, payload in messages)
        wait_for(lambda: (other.stored(), trained.stored()) == (sent, sent), 60)
        assert other.query(readings) == trained.query(readings)
        models = "SELECT id, status, version FROM ml_models ORDER BY 1"
        assert other.query(models) == trained.query(models)
        assert heir.status()["series_with_model"] == daemon.status()["series_with_model"]
        assert heir.terminate() == 0
        assert daemon.terminate() == 0


def test_a_backup_that_is_not_whole_is_not_restored(site: Site) -> None:
    """A backup that was altered or never finished is refused before any file is touched."""
    settings, _ = load(site.config())
    migrate(site.database)
    folder = backup.backup(settings, site.folder / "backups")
    with (folder / "database.dump").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BackupFailed, match=r"not as it was written: database\.dump"):
        backup.restore(settings, folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(BackupFailed, match="not finished"):
        backup.restore(settings, folder)


def test_no_password_is_in_an_argument(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A password reaches PostgreSQL's programs in their environment, never as an argument."""
    seen: list[tuple[list[str], dict[str, str]]] = []

    def run(argv: list[str], *, env: dict[str, str], **_: object) -> None:
        seen.append((argv, env))
        (tmp_path / "x").touch()

    monkeypatch.setattr(subprocess, "run", run)
    dump.dump(
        tmp_path,
        psycopg.conninfo.make_conninfo(host="h", user="u", password="s3cret"),  # noqa: S106 - not one
        tmp_path / "x",
    )
    [(argv, environment)] = seen
    assert "s3cret" not in json.dumps(argv)
    assert environment["PGPASSWORD"] == "s3cret"
