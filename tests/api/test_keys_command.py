"""The command that makes, lists and ends keys, and the rows it leaves behind."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from insa_anomaly.cli import cli
from tests.api.office import Office, problem


@pytest.fixture
def config(office: Office, tmp_path: Path) -> Path:
    """Write a configuration that names the office's database."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"database": {"url": office.dsn}, "logging": {"level": "ERROR"}}))
    return path


def run(config: Path, words: str) -> Result:
    """Run a command and return its result."""
    return CliRunner().invoke(cli, ["keys", *shlex.split(words), "--config", str(config)])


def test_a_key_is_made_listed_used_and_ended(office: Office, config: Path) -> None:
    """A key is printed once, alone, so that a shell can store it; no list shows its secret."""
    made = run(config, "create --name 'line 1' --permission ml:read --days 90")
    assert made.exit_code == 0, made.output
    token = made.stdout.strip()
    office.tokens["line 1"] = token
    office.ring.refresh()
    office.get("/api/v1/openapi.json", "line 1")
    listed, as_json = run(config, "list").stdout, run(config, "list --json").stdout
    assert "line 1  ml:read  expires 2" in listed
    assert token.rsplit("_", 1)[1] not in listed + as_json
    [key] = [one for one in json.loads(as_json) if one["name"] == "line 1"]
    assert key["digest"] is None
    ended = run(config, f"revoke {key['id']}")
    assert (ended.exit_code, ended.stdout.strip()) == (0, f"{key['id']} is revoked")
    office.ring.refresh()
    assert "revoked" in problem(office.ask("line 1", "GET", "/api/v1/openapi.json"), 401)["detail"]


def test_a_key_may_be_made_for_a_program(config: Path) -> None:
    """A key is printed as JSON, with several permissions and a limit of its own."""
    words = "create --name x --permission ml:write --permission telemetry:write"
    made = json.loads(run(config, f"{words} --predictions-a-minute 5 --json").stdout)
    assert made["key"].startswith(f"insa_{made['id']}_")
    [key] = [
        one for one in json.loads(run(config, "list --json").stdout) if one["id"] == made["id"]
    ]
    assert (key["permissions"], key["predictions_a_minute"], key["expires_at"]) == (
        ["ml:write", "telemetry:write"],
        5,
        None,
    )


def test_what_cannot_be_is_refused(config: Path) -> None:
    """An unknown permission and an unknown key are refused."""
    assert run(config, "create --name x --permission everything").exit_code == 2
    assert run(config, "create --name x").exit_code == 2
    assert run(config, "revoke nobody").exit_code == 1
