"""Start errors: a clear line on standard error for each mistake, a status by kind, no traceback."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from socket import socket

import psycopg
import psycopg.conninfo
import pytest

from tests.acceptance.daemon import Daemon, command
from tests.acceptance.site import Site
from tests.conftest import ROOT

OURS = "insa-anomaly: "
BAD_CONFIG, ALREADY_RUNNING = 78, 75


def said(daemon: Daemon, status: int) -> list[str]:
    """Let the daemon fail with this status; return its lines, without the program's name."""
    daemon.launch()
    assert daemon.wait() == status, daemon.log
    assert "Traceback" not in daemon.log
    return [line.removeprefix(OURS) for line in daemon.log.splitlines() if line.startswith(OURS)]


def test_every_mistake_in_the_configuration_is_a_line(site: Site) -> None:
    """Each mistake causes a line with file, key, value and allowed values, and no other line."""
    site.put("broker", {"port": 99_999, "reader": "quick"})
    site.put("readings", {"max_agee": 5})
    site.put("verdict", {"merge_gap_readings": "many"})
    site.settings["brokers"] = {}
    daemon = site.daemon()
    lines = said(daemon, BAD_CONFIG)
    for key, value, allowed in (
        ("broker.port", "99999", "less than or equal to 65535"),
        ("broker.reader", "'quick'", "'fast' or 'stock'"),
        ("verdict.merge_gap_readings", "'many'", "integer"),
        ("readings.max_agee", "", "no such setting"),
        ("brokers", "", "no such setting"),
    ):
        (line,) = [line for line in lines if line.startswith(f"{daemon.config}: {key}: ")]
        assert value in line
        assert allowed in line
    assert len(lines) == len(daemon.log.splitlines()) == 5


@pytest.mark.parametrize("text", [None, "broker: {host: [", "- a list", b"\xff\xfe"])
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str | bytes | None) -> None:
    """A file that is absent, not YAML, not sections or not text causes a line that names it."""
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = subprocess.run(
        [*command("run"), "--config", str(path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == BAD_CONFIG
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{OURS}{path}: ")


def test_a_mistake_in_a_variable(tmp_path: Path) -> None:
    """A variable beats the file, and its mistakes are reported in the same way."""
    path = tmp_path / "config.yaml"
    path.write_text("broker: {port: 1883}\n", encoding="utf-8")
    argv = [*command("check-config"), "--config", str(path)]
    variables = {**os.environ, "INSA_BROKER__PORT": "none"}
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, cwd=ROOT, timeout=60, env=variables
    )
    assert done.returncode == BAD_CONFIG
    (line,) = done.stderr.splitlines()
    assert "broker.port: 'none' is not allowed" in line


def test_the_http_port_is_taken(site: Site) -> None:
    """The line about an occupied HTTP port names address and setting."""
    with socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        site.put("http", {"port": port})
        (line,) = said(site.daemon(), 1)
    assert f"127.0.0.1:{port}" in line
    assert "http.port" in line


def wrong_password(site: Site) -> str:
    """Set a wrong password for a database that requires one."""
    with psycopg.connect(site.database, autocommit=True) as connection:
        row = connection.execute("SHOW hba_file").fetchone()
        assert row is not None
        rules = Path(row[0])
        connection.execute("DROP ROLE IF EXISTS stranger")
        connection.execute("CREATE ROLE stranger LOGIN PASSWORD 'right'")
        rules.write_text(
            "local all stranger scram-sha-256\n" + rules.read_text(encoding="utf-8"),
            encoding="utf-8",
        )
        connection.execute("SELECT pg_reload_conf()")
    secret = site.folder / "database-password"
    secret.write_text("wrong\n", encoding="utf-8")
    site.put(
        "database",
        {
            "url": psycopg.conninfo.make_conninfo(site.database, user="stranger"),
            "password_file": str(secret),
        },
    )
    return "password authentication failed"


def missing_database(site: Site) -> str:
    """Name a database that the server does not have."""
    site.put("database", {"url": psycopg.conninfo.make_conninfo(site.database, dbname="nowhere")})
    return '"nowhere" does not exist'


def unreadable_secret(site: Site) -> str:
    """Name an absent file as the database's password file."""
    site.put("database", {"password_file": str(site.folder / "absent")})
    return str(site.folder / "absent")


def wrong_broker_password(site: Site) -> str:
    """Set a password that the broker refuses."""
    secret = site.folder / "wrong-password"
    secret.write_text("wrong", encoding="utf-8")
    site.put("broker", {"password_file": str(secret)})
    return "Not authorized"


def no_storage(site: Site) -> str:
    """Put a file in the place of the log's directory."""
    (site.folder / "file").touch()
    site.put("storage", {"directory": str(site.folder / "file" / "storage")})
    return str(site.folder / "file")


def no_models(site: Site) -> str:
    """Put a file in the place of the models' directory."""
    (site.folder / "file").touch()
    site.put("models", {"directory": str(site.folder / "file" / "models")})
    return str(site.folder / "file")


@pytest.mark.parametrize(
    ("arrange", "status"),
    [
        (wrong_password, 1), (missing_database, 1), (wrong_broker_password, 1),
        (unreadable_secret, BAD_CONFIG), (no_storage, BAD_CONFIG), (no_models, 1),
    ],
)  # fmt: skip
def test_one_clear_line(site: Site, arrange: Callable[[Site], str], status: int) -> None:
    """The line names the refusal, the place and the reason, and holds no secret."""
    words = arrange(site)
    daemon = site.daemon()
    (line,) = said(daemon, status)
    assert words in line
    assert site.broker.password not in daemon.log


def test_a_second_daemon_on_the_same_storage(site: Site) -> None:
    """A second daemon exits and names the directory; the first daemon stays.

    After a kill -9 of the first daemon the directory is free at once.
    """
    first = site.daemon()
    first.start()
    site.folder.joinpath("second").mkdir()
    second = Daemon(site.folder / "second" / "config.yaml", 0)
    second.config.write_bytes(first.config.read_bytes())
    (line,) = said(second, ALREADY_RUNNING)
    assert str(site.folder / "storage") in line
    assert first.ready
    first.kill()
    first.start()
    assert first.terminate() == 0


def test_a_second_daemon_with_the_same_client_id(site: Site) -> None:
    """A second daemon with the same client id exits and names the setting; the first daemon stays.

    The second daemon has the same database and a storage of its own, as on another machine.
    """
    first = site.daemon()
    first.start()
    site.folder.joinpath("second").mkdir()
    second = Daemon(site.folder / "second" / "config.yaml", 0)
    storage = {"directory": str(site.folder / "second" / "storage")}
    second.config.write_text(
        json.dumps({**site.settings, "storage": storage, "http": {"port": 0}}), encoding="utf-8"
    )
    (line,) = said(second, ALREADY_RUNNING)
    assert "another daemon with the client id insa-anomaly" in line
    assert "broker.client_id" in line
    assert first.ready
    assert first.terminate() == 0
