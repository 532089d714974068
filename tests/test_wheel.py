"""The wheel, built by `make wheel`: complete for both processors, with commands that run."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from insa_anomaly.shipped import shipped
from tests.conftest import ROOT

# Packages by name; some have two versions, for older and newer Pythons.
LOCK: dict[str, list[dict[str, Any]]] = {}
for _package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
    LOCK.setdefault(_package["name"], []).append(_package)
DIST = ROOT / "dist"
MACHINES = ("x86_64", "aarch64")
PYTHONS = ("311", "312", "313")


# ------------------------------------------------------------------------------------ the lock
def needed(name: str, found: set[str]) -> set[str]:
    """Return a package and its dependencies on Linux, as locked."""
    if name not in found:
        found.add(name)
        for dependency in (
            each for version in LOCK[name] for each in version.get("dependencies", [])
        ):
            if "win32" not in dependency.get("marker", "") and "Windows" not in dependency.get(
                "marker", ""
            ):
                needed(dependency["name"], found)
    return found


def run_time() -> list[str]:
    """Return the packages that the program needs to run, with its extras."""
    found: set[str] = set()
    [ours] = LOCK["insa-anomaly"]
    for dependency in (
        each
        for group in (ours["dependencies"], *ours["optional-dependencies"].values())
        for each in group
    ):
        needed(dependency["name"], found)
        for extra in dependency.get("extra", []):
            for version in LOCK[dependency["name"]]:
                for one in version["optional-dependencies"][extra]:
                    needed(one["name"], found)
    return sorted(found)


def fits(wheel: str, machine: str, python: str) -> bool:
    """Return whether a wheel of this name fits Linux with glibc, this processor and this Python."""
    tags, abi, platforms = wheel.removesuffix(".whl").rsplit("-", 3)[1:]
    pure = "none" in abi and any(tag in {"py3", "py311", f"py{python}"} for tag in tags.split("."))
    stable = "abi3" in abi and any(
        tag.startswith("cp3") and int(tag[2:]) <= int(python) for tag in tags.split(".")
    )
    own = f"cp{python}" in tags.split(".") and abi in {f"cp{python}", "none"}
    there = platforms == "any" or any(
        "manylinux" in each and each.endswith(machine) for each in platforms.split(".")
    )
    return (pure or stable or own) and there


@pytest.mark.parametrize("name", run_time())
def test_every_dependency_has_wheels_for_both_processors(name: str) -> None:
    """Every dependency has wheels for both processors and every Python.

    No compiler is needed on a plant server.
    """
    wheels = [
        wheel["url"].rsplit("/", 1)[1]
        for version in LOCK[name]
        for wheel in version.get("wheels", [])
    ]
    missing = [
        (machine, python)
        for machine in MACHINES
        for python in PYTHONS
        if not any(fits(wheel, machine, python) for wheel in wheels)
    ]
    assert not missing, wheels


def test_a_wheel_that_does_not_fit_is_told_from_one_that_does() -> None:
    """A wheel's name determines whether it fits."""
    assert fits(
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl",
        "aarch64",
        "311",
    )
    assert fits("cryptography-50.0.2-cp311-abi3-manylinux_2_28_x86_64.whl", "x86_64", "313")
    assert fits("typer-0.29.2-py3-none-any.whl", "aarch64", "312")
    assert not fits("numpy-2.4.6-cp312-cp312-manylinux_2_27_x86_64.whl", "x86_64", "311")
    assert not fits("numpy-2.4.6-cp311-cp311-musllinux_1_2_x86_64.whl", "x86_64", "311")
    assert not fits("numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.whl", "aarch64", "311")


@pytest.mark.parametrize(
    "name", ["config.yaml", "systemd/insa-anomaly.service", "systemd/insa-anomaly@.service"]
)
def test_what_is_shipped_is_found(name: str) -> None:
    """A shipped file is the clone's in a clone."""
    assert shipped(name) == ROOT / name


# ----------------------------------------------------------------------------------- the wheel
@pytest.fixture(scope="module")
def wheel() -> Path:
    """Return the built wheel."""
    [found] = DIST.glob("*.whl")
    return found


@pytest.mark.wheel
def test_the_wheel_holds_all_that_it_needs(wheel: Path) -> None:
    """The wheel has every file of the package and of the folders beside it, and no test."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {
        path.relative_to(ROOT)
        for path in (ROOT / "insa_anomaly").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    beside = {
        path.relative_to(ROOT)
        for folder in ("systemd", "dashboards")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    expected = {str(path) for path in package} | {
        f"insa_anomaly/shipped/{path}" for path in (*beside, "config.yaml")
    }
    assert {name for name in names if not name.partition("/")[0].endswith(".dist-info")} == expected


@pytest.mark.wheel
@pytest.mark.timeout(900)
def test_a_clean_environment_runs_what_was_built(wheel: Path, short_path: Path) -> None:
    """An installation by hashes has the commands, the manual, the units and the wheel's version."""
    uv = subprocess.run(
        [ROOT / "scripts" / "bootstrap"], check=True, capture_output=True, text=True, timeout=300
    ).stdout.strip()

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*argv: object, code: int = 0) -> str:
        done = subprocess.run(
            [str(word) for word in argv],
            check=False,
            capture_output=True,
            text=True,
            cwd=short_path,
            env=environment,
            timeout=600,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    run(uv, "venv", "--python", sys.executable, "clean")
    for file in DIST.iterdir():
        shutil.copy(file, short_path)
    options = ["--python", "clean", "--require-hashes", "--only-binary", ":all:"]
    run(uv, "pip", "install", *options, *["--requirement", "requirements.txt"])
    program, python = short_path / "clean/bin/insa-anomaly", short_path / "clean/bin/python"
    assert "Reads plant telemetry" in run(program, "--help")
    (short_path / "config.yaml").write_text(
        f"storage: {{directory: {short_path}}}\n"
        f"models: {{directory: {short_path}/m, key_file: {short_path}/k}}\n"
    )
    said = run(program, "check-config", "--config", "config.yaml", code=1)  # there is no broker
    assert re.search(
        r"understood\. A daemon of it\n(  .+\n)+broker: no MQTT.*\ndatabase: ok\nmodels: ok", said
    ), said
    where = (
        "from insa_anomaly import shipped; from insa_anomaly.settings.load import load; "
        "load(shipped.shipped('config.yaml')); "
        "print(shipped.shipped('systemd'))"
    )
    assert f"{short_path}/clean/lib" in run(python, "-c", where)
    assert (
        wheel.name.split("-")[1]
        == run(python, "-c", "import insa_anomaly; print(insa_anomaly.__version__)").strip()
    )
