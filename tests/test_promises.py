"""The project's promises, held: layout, import contracts, licence, lock and commands."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.main import get_command

from insa_anomaly.cli import cli
from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
TOP = {
    *(
        "insa_anomaly",
        "systemd",
        "dashboards",
        "tests",
        "config.yaml",
        "pyproject.toml",
        "README.md",
    ),
    *("Makefile", "scripts", "docs", "uv.lock", "CHANGELOG.md", "LICENSE"),
}


def _files() -> Iterator[Path]:
    """Yield every file of the project, relative to its root, without the files that git ignores."""
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()} | {".git"}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in ignored]
        yield from (Path(folder, name).relative_to(ROOT) for name in files)


def _text(path: Path) -> str:
    return (ROOT / path).read_text(errors="replace")


# ---------------------------------------------------------------------------------- the layout
def test_the_top_level_is_what_was_agreed() -> None:
    """The top level holds only its agreed entries; dot-files belong to tools."""
    found = {path.parts[0] for path in _files()}
    assert {name for name in found if not name.startswith(".")} <= TOP


def test_no_module_has_a_name_that_fits_anything() -> None:
    """A module's name is specific, because a name that fits anything explains too little."""
    vague = {"utils", "helpers", "common", "base", "manager", "misc"}
    assert not [path for path in _files() if path.suffix == ".py" and path.stem in vague]


def test_every_module_says_what_it_is_for() -> None:
    """Each module that holds code opens with a docstring."""
    modules = [path for path in _files() if path.suffix == ".py" and _text(path).strip()]
    assert not [path for path in modules if not re.match(r'"""\S', _text(path))]


# --------------------------------------------------------------------------------- the imports
def _contracts(folder: Path) -> subprocess.CompletedProcess[str]:
    argv = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        argv, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_import_contracts_hold() -> None:
    """The import contracts in pyproject.toml hold."""
    done = _contracts(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "told"),
    [
        ("core/scoring/episodes.py", "import time", "core does no I/O.* BROKEN"),
        (
            "core/device/features.py",
            "import insa_anomaly.core.series.features",
            "Inside core, imports follow the data.* BROKEN",
        ),
        (
            "core/series/features.py",
            "import insa_anomaly.core.series.detector",
            "No cycles between siblings.* BROKEN",
        ),
        (
            "runtime/models/trainer.py",
            "import insa_anomaly.core.series.training",
            "sklearn trains.* BROKEN",
        ),
        (
            "workbench/recordings/replay.py",
            "import insa_anomaly.adapters.disk.log",
            "Only wiring, and what it puts together.* BROKEN",
        ),
        (
            "adapters/disk/state.py",
            "import insa_anomaly.adapters.redis.latest",
            "Adapters do not know each other.* BROKEN",
        ),
        ("runtime/record.py", "import psycopg", "Drivers stay behind their seam.* BROKEN"),
        ("adapters/disk/log.py", "import logging", "Only instrumentation logs.* BROKEN"),
        ("utils.py", "", "not listed as layers:\\s+- insa_anomaly.utils"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, module: str, line: str, told: str) -> None:
    """A breach of each contract is found."""
    shutil.copytree(
        ROOT / "insa_anomaly",
        tmp_path / "insa_anomaly",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "insa_anomaly" / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = _contracts(tmp_path)
    assert done.returncode == 1
    assert re.search(told, done.stdout), done.stdout


# ---------------------------------------------------------------------- the lock and the paper
def test_no_file_but_the_lock_names_a_registry() -> None:
    """Only the lock names a registry, because plants have mirrors."""
    addresses = [
        each["source"]["registry"] for each in LOCK["package"] if "registry" in each["source"]
    ]
    addresses += [wheel["url"] for each in LOCK["package"] for wheel in each.get("wheels", [])]
    hosts = {urlsplit(address).hostname or "" for address in addresses}
    named = [
        path
        for path in _files()
        if path.name != "uv.lock" and any(host in _text(path) for host in hosts)
    ]
    assert not named


def test_the_lock_holds_uv_itself() -> None:
    """The lock holds uv for both processors, with a hash, in the version of pyproject.toml."""
    [uv] = [each for each in LOCK["package"] if each["name"] == "uv"]
    assert PYPROJECT["dependency-groups"]["bootstrap"] == [f"uv=={uv['version']}"]
    for machine in ("x86_64", "aarch64"):
        [wheel] = [each for each in uv["wheels"] if f"manylinux_2_17_{machine}." in each["url"]]
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", wheel["hash"])


def test_the_version_is_one() -> None:
    """The changelog's newest entry is the version that is built."""
    newest = re.search(r"^## (\S+)", _text(Path("CHANGELOG.md")), re.MULTILINE)
    assert newest
    assert newest[1] == PYPROJECT["project"]["version"]


def test_the_licence_is_mit() -> None:
    """The licence is MIT, as pyproject.toml states."""
    assert PYPROJECT["project"]["license"] == "MIT"
    assert _text(Path("LICENSE")).startswith("MIT License")


def test_ci_runs_the_tests() -> None:
    """The continuous integration runs the command that a person runs."""
    assert "make test" in _text(Path(".ci/run"))
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# ------------------------------------------------------------------------------------ commands
def test_every_command_in_the_readme_exists() -> None:
    """Every `insa-anomaly X` and `make X` in the README is an existing command or target."""
    readme, makefile = _text(Path("README.md")), _text(Path("Makefile"))
    commands = set(
        re.findall(r"insa-anomaly ([a-z][a-z-]+)", "\n".join(re.findall(r"`[^`]+`", readme)))
    )
    targets = set(re.findall(r"\bmake ([a-z]+)", "\n".join(re.findall(r"`[^`]+`", readme))))
    assert commands <= set(getattr(get_command(cli), "commands", {}))
    assert targets <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


def test_make_explains_every_target() -> None:
    """The answer of a bare `make` lists every target."""
    done = subprocess.run(
        ["make", "-C", str(ROOT), "help"], check=True, capture_output=True, text=True, timeout=30
    )
    targets = set(re.findall(r"^([a-z]+):", _text(Path("Makefile")), re.MULTILINE)) - {"help"}
    assert targets == set(re.findall(r"^make ([a-z]+)", done.stdout, re.MULTILINE))


def test_without_the_kit_nothing_is_judged(tmp_path: Path) -> None:
    """A `make judge` without the kit prints a line, fetches no file and succeeds."""
    command = ["make", "-s", "-C", str(ROOT), "judge", f"JUDGE={tmp_path}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout == f"judge: skipped, there is no evaluation kit at {tmp_path}\n"


def test_dashboards_are_json() -> None:
    """Every JSON file in dashboards/ can be read."""
    for path in _files():
        if path.parts[0] == "dashboards" and path.suffix == ".json":
            json.loads(_text(path))
