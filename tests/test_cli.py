"""The command line: every command explains itself; wrong arguments and errors are clear lines."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from random import Random

import joblib
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from insa_anomaly.cli import BAD_CONFIG, cli, main
from insa_anomaly.commands.options import ALREADY_RUNNING
from insa_anomaly.errors import (
    AddressInUse,
    AlreadyRunning,
    BrokerRefused,
    ConfigError,
    Conflict,
    InsaError,
    ModelFileError,
)
from insa_anomaly.processes import daemon
from insa_anomaly.services.model_health import HealthReport
from insa_anomaly.wiring.storage import check_owner

NAMES = sorted(getattr(get_command(cli), "commands", {}))
SHOWN = [name for name in NAMES if name != "train-orders"]


def said(*arguments: str) -> tuple[int, str]:
    """Return the status and the whole output."""
    done = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(cli, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


# --------------------------------------------------------------------------------------- help
def test_the_program_says_what_it_is_and_what_it_can_do() -> None:
    """The program without arguments, or with a help option, lists every public command."""
    status, text = said("--help")
    assert status == 0
    assert all(name in text for name in SHOWN)
    assert "train-orders" not in text
    assert said("-h") == (0, text)
    assert said()[1].strip() == text.strip()


def test_these_are_the_commands() -> None:
    """The list of commands is complete; a new command is added here, and to the README."""
    assert [
        *(
            "alerts",
            "backup",
            "check-config",
            "demo",
            "evaluate",
            "export",
            "health",
            "install",
            "keys",
            "migrate",
            "models",
        ),
        *("replay", "restore", "run", "train", "tune", "uninstall"),
    ] == SHOWN


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself(name: str) -> None:
    """The help of a command has its description, and an explanation of every option."""
    status, text = said(name, "--help")
    command = getattr(get_command(cli), "commands")[name]  # noqa: B009 - typed as less than it is
    assert status == 0
    assert " ".join((command.help or "?").split()) in " ".join(text.split())
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} is not explained"
        assert all(option in text for option in parameter.opts if option.startswith("--"))


# -------------------------------------------------------------------------- wrong arguments
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["fly"], "No such command 'fly'"),
        (["run", "--fast"], "No such option"),
        (["run", "now"], "unexpected extra argument"),
        (["run", "--config"], "requires an argument"),
        (["demo", "--duration", "1"], "greater than or equal to 5"),
        (["demo", "--duration", "long"], "valid number"),
        (["train"], "say what to train"),
        (["train", "--device", "pump"], "say what to train"),
        (["train", "--all", "--jobs", "0"], "greater than or equal to 1"),
        (["train", "--csv", "x.csv", "--rows", "5"], "greater than or equal to 100"),
        (["evaluate"], "Missing argument"),
        (["evaluate", "x.csv", "--train", "half"], "say a share (0.3)"),
        (["evaluate", "x.csv", "--recovery", "-1"], "greater than or equal to 0"),
        (["replay"], "Missing argument"),
        (["replay", "x.csv", "--speed", "0"], "greater than or equal to 0.001"),
        (["health", "--why", "pump"], "say DEVICE/METRIC"),
        (["models", "--json=yes"], "does not take a value"),
    ],
)
def test_wrong_arguments_are_told_in_a_word(
    arguments: list[str], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong arguments cause status 2 and a message, and the command has no effect."""
    monkeypatch.chdir(tmp_path)
    status, text = said(*arguments)
    assert status == 2
    assert word in " ".join(text.replace("│", " ").split())
    assert "Traceback" not in text
    assert "Error" in text
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("broker.port: one\nhttp.port: two"), BAD_CONFIG),
        (AlreadyRunning("another daemon uses /var"), ALREADY_RUNNING),
        (AddressInUse("the HTTP port is taken"), 1),
        (BrokerRefused(), 1),
    ],
)
def test_an_error_of_ours_is_a_clear_line(
    error: InsaError,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each line of an error has the program's name; systemd retries according to the status."""

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(daemon, "run", fail)
    monkeypatch.setattr(sys, "argv", ["insa-anomaly", "run"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == status
    assert capsys.readouterr().err.splitlines() == [
        f"insa-anomaly: {line}" for line in str(error).splitlines()
    ]


@pytest.mark.parametrize("status", [0, 1])
def test_the_daemons_status_is_the_programs(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status of the daemon is the program's: after 1, systemd starts it again."""
    monkeypatch.setattr(daemon, "run", lambda *_: status)
    assert said("run")[0] == status


@pytest.mark.parametrize(
    "name", [name for name in SHOWN if name not in {"demo", "install", "uninstall"}]
)
def test_a_configuration_that_cannot_be_used_stops_every_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unusable configuration stops every command before a file is touched."""
    config = tmp_path / "config.yaml"
    config.write_text("broker: {port: none}\n")
    command = ["keys", "list"] if name == "keys" else [name]
    files = (
        ["x.csv"]
        if name in {"replay", "evaluate", "tune", "backup", "restore"}
        else ["id", "x"]
        if name == "export"
        else []
    )
    monkeypatch.setattr(sys, "argv", ["insa-anomaly", *command, "--config", str(config), *files])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == BAD_CONFIG
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize(("healthy", "status"), [(True, 0), (False, 1), (None, ALREADY_RUNNING)])
def test_the_status_of_a_health_check(
    healthy: bool | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status of a check is healthy, unhealthy, or in progress elsewhere."""

    def check(_: object) -> HealthReport:
        if healthy is None:
            raise Conflict("a health check is under way")
        return HealthReport(
            run_id="r",
            task_type="t",
            actions=[],
            requested_by="me",
            started_at="now",
            seconds=0.1,
            healthy=healthy,
            summary="1 of 2 models",
            models=2,
            disabled=0,
            found={},
            decided={"retrain": 1},
            worst=[],
        )

    monkeypatch.setattr("insa_anomaly.commands.health.check", check)
    answer = said("health")
    assert answer[0] == status
    assert ("decided: 1 retrain" in answer[1]) == (healthy is not None)


# ------------------------------------------------------------------------------------- models
def test_models_lists_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of models is for people and programs; an empty list explains the first step."""
    monkeypatch.setenv("INSA_MODELS__DIRECTORY", str(tmp_path / "models"))
    monkeypatch.setenv("INSA_MODELS__KEY_FILE", str(tmp_path / "key"))
    assert "insa-anomaly train" in said("models")[1]
    assert json.loads(said("models", "--json")[1]) == []
    rows = "timestamp,value\n" + "".join(f"{1_760_000_000 + 60 * i},{i % 7}\n" for i in range(300))
    (tmp_path / "history.csv").write_text(rows)
    monkeypatch.setenv("INSA_DETECTION__N_ESTIMATORS", "3")
    pump = ["--device", "pump", "--metric", "pressure"]
    status, text = said("train", "--csv", str(tmp_path / "history.csv"), *pump)
    assert (status, "pump/pressure: trained in" in text) == (0, True)
    status, text = said("models")
    assert status == 0
    assert "pump/pressure  v1  active" in text
    [row] = json.loads(said("models", "--json")[1])
    assert (row["device_id"], row["metric_name"], row["training_samples"]) == (
        "pump",
        "pressure",
        300,
    )


def test_a_sealed_model_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealed model is exported as files for their owner alone, which scikit-learn reads.

    Without the key the export is refused.
    """
    key = tmp_path / "encryption.key"
    key.write_text("ab" * 32 + "\n")
    for name, value in {
        "DIRECTORY": "models",
        "KEY_FILE": "key",
        "ENCRYPTION_KEY_FILE": key.name,
    }.items():
        monkeypatch.setenv(f"INSA_MODELS__{name}", str(tmp_path / value))
    monkeypatch.setenv("INSA_DETECTION__N_ESTIMATORS", "3")
    (tmp_path / "history.csv").write_text(
        "timestamp,value\n" + "".join(f"{1_760_000_000 + 60 * i},{i % 7}\n" for i in range(300))
    )
    pump = ["--device", "pump", "--metric", "pressure"]
    assert said("train", "--csv", str(tmp_path / "history.csv"), *pump)[0] == 0
    [row] = json.loads(said("models", "--json")[1])
    status, text = said("export", row["id"], str(tmp_path / "out"))
    assert (status, sorted(text.split())) == (
        0,
        sorted(str(path) for path in (tmp_path / "out").iterdir()),
    )
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o600}
    [forest] = (tmp_path / "out").glob("model_*.pkl")
    assert len(joblib.load(forest).estimators_) == 3
    key.write_text("cd" * 32)
    refused = CliRunner().invoke(cli, ["export", row["id"], str(tmp_path / "other")]).exception
    assert isinstance(refused, ModelFileError)
    assert "restore it" in str(refused)
    (tmp_path / "models" / "key").write_text("ab" * 32)
    monkeypatch.setenv("INSA_MODELS__ENCRYPTION_KEY_FILE", str(tmp_path / "models" / "key"))
    assert "lies in" in str(CliRunner().invoke(cli, ["models"]).exception)
    assert not (tmp_path / "other").exists()


# ------------------------------------------------------------------------------- as a program
def test_help_is_quick_and_loads_no_scikit_learn() -> None:
    """The help loads no scikit-learn, also when the package runs as a module."""
    code = (
        "import sys, runpy; sys.argv = ['insa-anomaly', '--help']\n"
        "try:\n    runpy.run_module('insa_anomaly', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert 'sklearn' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: insa-anomaly" in done.stdout


def test_root_leaves_nothing_behind_that_the_service_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage directory of another account is refused to root, with the right command.

    The account itself may use it.
    """
    user = pwd.getpwnam("nobody")
    directory = tmp_path / "storage"
    directory.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    check_owner(tmp_path / "absent")
    monkeypatch.setattr(
        Path,
        "stat",
        lambda *_, **__: os.stat_result([0o40700, 0, 0, 0, user.pw_uid, 0, 0, 0, 0, 0]),
    )
    with pytest.raises(ConfigError, match="belongs to nobody.*runuser -u nobody -- insa-anomaly"):
        check_owner(directory)
    monkeypatch.setattr(os, "geteuid", lambda: user.pw_uid)
    check_owner(directory)


# --------------------------------------------------------------------------------------- tune
def test_tune_shows_what_settings_would_have_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has a row for each setting, among them the configured setting; JSON has the same.

    A series that is too short is named.
    """
    monkeypatch.setenv("INSA_DETECTION__N_ESTIMATORS", "12")
    monkeypatch.setenv("INSA_DETECTION__ALPHA", "0.01")
    random = Random(1)
    rows = [f"{1_700_000_000 + 60 * i},{random.gauss(20, 1):.3f}" for i in range(2500)]
    (tmp_path / "long.csv").write_text("\n".join(["timestamp,value", *rows]))
    (tmp_path / "short.csv").write_text("\n".join(["timestamp,value", *rows[:500]]))
    status, text = said("tune", str(tmp_path / "long.csv"), *["--accept", "1", "--accept", "5"])
    assert status == 0
    assert [line.split()[0] for line in text.splitlines() if line.strip()[:1].isdigit()] == [
        "0.14",
        "1",
        "5",
    ]
    assert "configured" in text
    assert "Nothing was chosen" in text
    both = [str(tmp_path / name) for name in ("long.csv", "short.csv")]
    status, text = said("tune", *both, "--accept", "1", "--json")
    found = json.loads(text.splitlines()[-1])
    assert status == 1
    assert [one["setting"]["false_alarms_per_day"] for one in found["series"]["long/value"]] == [
        0.14,
        1.0,
    ]
    assert "at least 2000" in found["refused"]["short/value"]
    assert "say what to try it on" in said("tune")[1]
