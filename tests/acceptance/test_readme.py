"""Every command in the README is executed: pasted into bash here, or by the test in its row.

Stand-ins take the place of systemd and GitHub.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from random import Random

import psycopg
import pytest

from insa_anomaly.files.sealing import Seal
from tests.acceptance import readme
from tests.acceptance.site import Site
from tests.acceptance.test_admin_tour import tour
from tests.conftest import ROOT, Server

PASTED = {  # the heading over a block, and the file that pastes the whole block
    "Ten minutes to a first anomaly": "scripts/acceptance",
    "The admin API": "tests/acceptance/test_admin_tour.py",
}
ELSEWHERE = {
    "insa-anomaly export MODEL_ID ./model": "tests/test_cli.py::test_a_sealed_model_is_exported",
    "insa-anomaly alerts --retry 7":
        "tests/commands/test_alerts.py::test_a_dead_letter_waits_again",
    "insa-anomaly restore /var/backups/insa/insa-anomaly-20261122T021500Z":
        "tests/acceptance/test_backup.py::test_a_backup_of_a_running_daemon_is_restored_on_another_machine",
}  # fmt: skip
WHEELS = (
    "pip download --require-hashes --requirement requirements.txt --dest wheelhouse",
    (
        "pip install --no-index --find-links wheelhouse --require-hashes "
        "--requirement requirements.txt"
    ),
)
MACHINE = (
    "insa-anomaly install --apply",
    "insa-anomaly install --apply --instance press",
    "openssl rand -hex 32 > /etc/insa-anomaly/secrets/models",
    "systemctl enable --now insa-anomaly@press",
    "systemctl reload insa-anomaly",
    "systemctl restart insa-anomaly",
    "systemctl edit insa-anomaly",
    "journalctl -u insa-anomaly",
    "cp /usr/local/share/insa-anomaly/mosquitto/insa.conf /etc/mosquitto/conf.d/",
    "cp /usr/local/share/insa-anomaly/mosquitto/insa.acl /etc/mosquitto/",
    "cp dashboards/insa-anomaly.rules.yml /etc/prometheus/",
    "runuser -u insa-anomaly -- insa-anomaly models",
    "createdb insa",
    'insa-anomaly migrate --roles --as "postgresql:///insa?host=/run/postgresql"',
    'insa-anomaly migrate --as "postgresql:///insa?host=/run/postgresql"',
    'insa-anomaly install --apply --database "postgresql:///insa?host=/run/postgresql"',
    "insa-anomaly uninstall --apply",
)
BESIDE_A_DAEMON = (
    "insa-anomaly replay recording.csv.gz",
    "insa-anomaly train --all",
    "insa-anomaly train --csv history.csv",
    "insa-anomaly models",
    "insa-anomaly evaluate recording.csv.gz",
    "insa-anomaly tune recording.csv.gz",
    "insa-anomaly keys create --name lab --permission ml:read",
    "insa-anomaly keys list",
    "insa-anomaly keys revoke",
    "insa-anomaly migrate",
    "insa-anomaly backup /var/backups/insa",
    "insa-anomaly alerts",
    "insa-anomaly health",
    "insa-anomaly health --why PUMP-101/temperature",
    (
        'api "$url/ml/health-check" -d \'{"task_type": "ml_model_health_check", '
        '"actions": ["check_model_age", "auto_retrain_if_needed"]}\''
    ),
)
DAEMON = ("insa-anomaly check-config --config config.yaml", "insa-anomaly run --config config.yaml")
RECORDINGS = (
    "insa-anomaly evaluate pump.csv --plot pump.html",
    "insa-anomaly evaluate pump.csv --labels repairs.csv",
    "insa-anomaly evaluate pump.csv --labels repairs.csv --device",
    "insa-anomaly tune pump.csv",
    "git clone --depth 1 https://github.com/numenta/NAB",
    "git clone --depth 1 https://github.com/waico/SKAB",
    (
        "insa-anomaly evaluate NAB/data/*/*.csv --labels NAB/labels/combined_windows.json "
        "--train 0.15,750 --recovery 0"
    ),
    (
        "insa-anomaly evaluate SKAB/data/valve1/*.csv SKAB/data/valve2/*.csv "
        "SKAB/data/other/*.csv --device --train 400 --recovery 30"
    ),
)
MADE = {  # the program that it starts, and the test that runs the program for real
    "make demo DURATION=60": (
        "insa-anomaly demo --duration 60",
        "tests/acceptance/test_readme.py::test_the_demonstration",
    ),
    "make test": ("coverage run -m pytest --numprocesses 3 --dist loadfile tests", ".ci/run"),
    "make test-long": ("python -m pytest -m long", "tests/acceptance/test_readme.py"),
    "INSA_TEST_CRASHES=100 make test-long": (
        "python -m pytest -m long",
        "tests/chaos/test_safety_net.py",
    ),
    "make lint": ("lint-imports --no-logo", "tests/test_promises.py"),
    "make test-lowest": (
        "python -m pytest -W ignore::DeprecationWarning --numprocesses 2 --dist loadfile tests",
        "Makefile",
    ),
    "make bench": ("python -m tests.benchmarks", "tests/benchmarks/test_benchmarks.py"),
    "make judge": (
        "judge: skipped",
        "tests/test_promises.py::test_without_the_kit_nothing_is_judged",
    ),
    "make chaos": (
        "python -m tests.chaos --seconds 120 --seed 1 --rate 500",
        "tests/chaos/test_chaos.py",
    ),
    "make chaos SECONDS=900 SEED=1": (
        "python -m tests.chaos --seconds 900 --seed 1 --rate 500",
        "tests/chaos/test_chaos.py",
    ),
    "make chaos KINDS=\"'broker kill'\" SECONDS=300": (
        "--rate 500 --kinds broker kill",
        "tests/chaos/test_chaos.py",
    ),
    "make chaos KINDS=\"'broker kill'\" CONTRACT=0 RATE=100 SECONDS=300": (
        "broker kill --no-contract",
        "tests/chaos/test_chaos.py",
    ),
    "make fuzz": ("python -m tests.fuzz.guided 60", "tests/fuzz/test_fuzz.py"),
    "make fuzz-live": ("python -m tests.fuzz.live 1000000 1", "tests/fuzz/test_fuzz.py"),
    "make outage SECONDS=600": (
        "python -m tests.chaos.pressure outage --seconds 600",
        "tests/chaos/test_pressure.py",
    ),
    "make soak": (
        "python -m tests.chaos.pressure soak --seconds 3600",
        "tests/chaos/test_pressure.py",
    ),
    "make strangers": ("python -m tests.chaos.pressure strangers", "tests/chaos/test_pressure.py"),
    "make noisy SECONDS=30": (
        "python -m tests.chaos.pressure noisy --seconds 30",
        "tests/chaos/test_pressure.py",
    ),
    "make wheel": ("python -m pytest tests/test_wheel.py -m wheel", "tests/test_wheel.py"),
    "make acceptance": ("acceptance", "scripts/acceptance"),
}
TRIED_HERE = {*WHEELS, *MACHINE, *DAEMON, *BESIDE_A_DAEMON, *RECORDINGS, *MADE}
SESSION_SECONDS = 170.0


# ---------------------------------------------------------------------------------- the ledger
def named() -> list[str]:
    """Return the commands of the README outside the blocks that are pasted as a whole."""
    return [
        line for block in readme.blocks() if block.heading not in PASTED for line in block.lines
    ] + readme.spans()


@pytest.mark.parametrize("command", dict.fromkeys(named()))
def test_every_command_has_who_executes_it(command: str) -> None:
    """Every command is executed by a test.

    A shortened command ("insa-anomaly migrate --roles --as ...") is the beginning of a command that
    is executed.
    """
    beginning = command.removesuffix("...").strip()
    assert any(f"{one} ".startswith(f"{beginning} ") for one in TRIED_HERE | set(ELSEWHERE)), (
        f"nothing executes `{command}`"
    )


def test_nobody_executes_what_is_not_there_any_more() -> None:
    """Every row has its command in the README."""
    assert set(named()) >= TRIED_HERE | set(ELSEWHERE)
    assert {block.heading for block in readme.blocks()} >= set(PASTED)


@pytest.mark.parametrize(
    "place", dict.fromkeys([*ELSEWHERE.values(), *(place for _, place in MADE.values())])
)
def test_who_executes_it_is_there(place: str) -> None:
    """Every row names an existing file, and a test in it."""
    path, _, name = place.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text() if name else (ROOT / path).is_file()


@pytest.mark.parametrize(("heading", "path"), PASTED.items())
def test_who_pastes_a_block_reads_it_from_the_readme(heading: str, path: str) -> None:
    """Each program that pastes a block finds the block in the README by its heading."""
    source = (ROOT / path).read_text()
    assert 'README.md").read_text(encoding="utf-8")' in source
    assert f'.partition("### {heading}")' in source


# --------------------------------------------------------------------------------------- make
def stand_in(path: Path, script: str) -> None:
    """Write a program of ours in the place of another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def bash(script: str, folder: Path, **environment: str) -> str:
    """Run the script in bash; return its output, or fail where a line of it fails."""
    known = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "UV_", "INSA_", "MAKE"))
    }
    argv = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        argv,
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**known, **environment},
        timeout=SESSION_SECONDS,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a clone in which the programs that make starts record their arguments."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copy(ROOT / "Makefile", folder)
    note = f'echo "$(basename "$0") $*" >> {folder}/called'
    for name in ("python", "ruff", "mypy", "lint-imports", "coverage", "insa-anomaly"):
        stand_in(folder / ".venv/bin" / name, note)
    stand_in(folder / ".tools/lowest/bin/python", note)
    stand_in(
        folder / "uv",
        f"case $1 in build) mkdir -p {folder}/dist && "
        f"touch {folder}/dist/x.whl {folder}/dist/requirements.txt;; esac",
    )
    for name, script in (
        ("bootstrap", f"print('{folder}/uv')"),
        ("deps", ""),
        ("acceptance", f"open('{folder}/called', 'w').write(__file__)"),
    ):
        (folder / "scripts").mkdir(exist_ok=True)
        (folder / "scripts" / name).write_text(script)
    return folder


@pytest.mark.parametrize("command", MADE)
def test_make_starts_what_it_should(clone: Path, command: str) -> None:
    """Make passes the arguments on, and each program that it starts exists."""
    expected, _ = MADE[command]
    (clone / "called").write_text("")
    said = bash(f"{command} PY={shlex.quote(sys.executable)}", clone)
    called = (clone / "called").read_text()
    assert expected in said + called
    assert all(find_spec(module) for module in re.findall(r"python -m (\S+)", called))


# ---------------------------------------------------------------------------------------- pip
def wheel(folder: Path, name: str) -> str:
    """Make an empty package; return its hash."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_server_without_a_network_gets_its_wheels(tmp_path: Path) -> None:
    """A server without a network installs the wheels of a folder that serves as the index.

    The requirements are written as `make wheel` writes them: packages by name, our own wheel as a
    file, all with their hashes.
    """
    if find_spec("ensurepip") is None:
        pytest.skip("this Python has no pip to give: python3-venv")
    index = tmp_path / "index"
    index.mkdir()
    (tmp_path / "requirements.txt").write_text(
        f"needed==1.0 --hash=sha256:{wheel(index, 'needed')}\n"
        f"./ours-1.0-py3-none-any.whl --hash=sha256:{wheel(tmp_path, 'ours')}\n"
    )
    download, install = WHEELS
    activate = f"{shlex.quote(sys.executable)} -m venv machine && . machine/bin/activate"
    bash(
        f"{activate}\n{download}",
        tmp_path,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(index),
        PIP_DISABLE_PIP_VERSION_CHECK="1",
    )
    shutil.rmtree(index)
    bash(
        f". machine/bin/activate\n{install}\npython -c 'import needed, ours'",
        tmp_path,
        PIP_DISABLE_PIP_VERSION_CHECK="1",
    )


@pytest.mark.parametrize("statement", readme.statements())
def test_postgresql_understands_what_is_said_to_it(database: str, statement: str) -> None:
    """PostgreSQL accepts every statement of the README in a database with our schema."""
    with psycopg.connect(database) as connection:
        connection.execute(statement.encode())


# ----------------------------------------------------------------------------------- sessions
@pytest.fixture
def programs(short_path: Path) -> Path:
    """Return a folder for PATH, with this clone's program and stand-ins.

    A stand-in checks that the unit or the account exists.
    """
    folder, root = short_path / "programs", short_path / "root"
    python = f"PYTHONPATH={ROOT} exec {sys.executable} -m insa_anomaly"
    stand_in(
        folder / "insa-anomaly",
        f'case $1 in install|uninstall) {python} "$@" --root {root};; esac\n{python} "$@"',
    )
    unit = (
        f"for unit; do :; done\ncase $unit in *@*) unit=${{unit%%@*}}@;; esac\n"
        f'exec test -f "{root}/etc/systemd/system/$unit.service"'
    )
    stand_in(folder / "systemctl", unit)
    stand_in(folder / "journalctl", unit)
    account = f"grep -q '^insa-anomaly:' {root}/etc/passwd" if os.geteuid() == 0 else "true"
    stand_in(folder / "runuser", f'{account} && shift 3 && exec "$@"')
    if shutil.which("openssl") is None:
        stand_in(
            folder / "openssl",
            'test "$*" = "rand -hex 32" && '
            f'{sys.executable} -c "import secrets; print(secrets.token_hex(32))"',
        )
    for name in ("etc/mosquitto/conf.d", "etc/prometheus", "var/backups"):
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return folder


def on_trial(command: str, root: Path, database: str = "") -> str:
    """Return the command with paths below another root and the address of the test's server."""
    command = command.replace("postgresql:///insa?host=/run/postgresql", database)
    return re.sub(r"(?<=[ \"])/(?=(etc|usr/local|var/backups)/)", f"{root}/", command)


@pytest.mark.long
def test_a_machine_is_set_up_and_cleared(programs: Path, own_postgres: Server[str]) -> None:
    """The commands set up the service, an instance, the broker, alert rules and a database.

    Afterwards they remove the service again.
    """
    folder, root = programs.parent, programs.parent / "root"
    (folder / "dashboards").symlink_to(ROOT / "dashboards")
    settings = {
        "storage": {"directory": str(folder)},
        "models": {"directory": str(folder / "m"), "key_file": str(folder / "k")},
    }
    (folder / "config.yaml").write_text(json.dumps(settings))
    address = dict(word.split("=", 1) for word in shlex.split(own_postgres.address))
    reached = {
        f"PG{name.upper()}": value
        for name, value in address.items()
        if name in {"host", "port", "user", "password"}
    }
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "INSA_CONFIG": str(folder / "config.yaml"),
        **reached,
    }
    said = bash(
        "\n".join(on_trial(command, root, "postgresql:///insa") for command in MACHINE),
        folder,
        **environment,
    )
    assert "made the role insa-anomaly\n" in said
    assert "the schema is up to date\n" in said
    assert Seal.of((root / "etc/insa-anomaly/secrets/models").read_text())
    for name in (
        "etc/mosquitto/conf.d/insa.conf",
        "etc/mosquitto/insa.acl",
        "etc/prometheus/insa-anomaly.rules.yml",
    ):
        assert (root / name).is_file()


def write_pump(path: Path, rows: int, metrics: int = 1, labels: str = "", step: int = 60) -> None:
    """Write a recording that is ordinary but for three rows near its end.

    `labels` is the name of a column that marks these rows.
    """
    random, lines = Random(1), []
    for row in range(rows):
        fault = rows - 60 <= row < rows - 57
        values = [random.gauss(60, 0.5) + 30 * fault for _ in range(metrics)]
        lines.append(
            ",".join(
                [
                    str(1_795_000_000 + row * step),
                    *(f"{value:.3f}" for value in values),
                    *([str(int(fault))] if labels else []),
                ]
            )
        )
    head = [
        "timestamp",
        *(["value"] if metrics == 1 else [f"metric_{number}" for number in range(metrics)]),
        *([labels] if labels else []),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([",".join(head), *lines]) + "\n")


@pytest.mark.long
def test_recordings_are_evaluated(programs: Path) -> None:
    """Recordings are evaluated with labels, without, as a device and as a drawing.

    Short stand-ins of the public sets lie where a clone puts them.
    """
    folder = programs.parent
    write_pump(folder / "pump.csv", 2100, metrics=2)
    (folder / "repairs.csv").write_text(
        f"start,end\n{1_795_000_000 + 2040 * 60},{1_795_000_000 + 2043 * 60}\n"
    )
    write_pump(folder / "public/NAB/data/real/pump.csv", 900)
    (folder / "public/NAB/labels").mkdir()
    (folder / "public/NAB/labels/combined_windows.json").write_text(
        '{"real/pump.csv": [["2026-11-19 12:40:00", "2026-11-19 12:43:00"]]}'
    )
    for name in ("valve1", "valve2", "other"):
        write_pump(
            folder / "public/SKAB/data" / name / "0.csv", 700, metrics=3, labels="anomaly", step=1
        )
    stand_in(programs / "git", f"exec cp -r {folder}/public/$(basename $4) .")
    quick = {"INSA_DETECTION__N_ESTIMATORS": "20", "PATH": f"{programs}:{os.environ['PATH']}"}
    said = bash("\n".join(RECORDINGS), folder, **quick)
    assert (folder / "pump.html").stat().st_size > 0
    assert said.count("caught") >= 3


@pytest.mark.long
def test_a_daemon_and_what_is_done_beside_it(site: Site, programs: Path) -> None:
    """A recording that arrives through the broker is learnt, inspected, backed up and checked.

    Then the daemon ends in good order.
    """
    check, run = DAEMON
    write_pump(site.folder / "recording.csv", 2100)
    write_pump(site.folder / "history.csv", 700)
    site.put("detection", {"n_estimators": 20})
    site.config()
    port = str(site.settings["http"]["port"])
    ready = f"until curl -sf http://127.0.0.1:{port}/readyz; do sleep 0.2; done"
    helpers = tour().partition("field()")[0].replace("8787", port)
    commands = [on_trial(command, programs.parent / "root") for command in BESIDE_A_DAEMON]
    said_in_full = {
        "insa-anomaly keys revoke": (
            'insa-anomaly keys revoke "$(insa-anomaly keys list | grep " lab " | cut -d" " -f1)"'
        ),
        # A machine that is busy with other tests may be slow.
        "insa-anomaly health": "insa-anomaly health || test $? = 1",
    }
    commands = [said_in_full.get(command, command) for command in commands]
    stored = (
        f"until curl -s http://127.0.0.1:{port}/metrics "
        "| grep -q '^insa_readings_recorded_total 2100'; do sleep 0.2; done"
    )
    lines = [
        "gzip recording.csv",
        check,
        f"{run} &",
        "daemon=$!",
        'trap "kill $daemon; wait $daemon" EXIT',
        ready,
        commands[0],
        stored,
    ]
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "INSA_CONFIG": str(site.folder / "config.yaml"),
    }
    said = bash("\n".join([*lines, helpers, *commands[1:]]), site.folder, **environment)
    assert "recording/value: trained in " in said
    assert "is revoked" in said


@pytest.mark.long
def test_the_demonstration(programs: Path) -> None:
    """The shortest demonstration prints its table and the figures."""
    said = bash(
        "insa-anomaly demo --duration 5 --json",
        programs.parent,
        PATH=f"{programs}:{os.environ['PATH']}",
    )
    figures = json.loads(said.splitlines()[-1])
    assert figures["lost"] == figures["duplicates"] == 0
