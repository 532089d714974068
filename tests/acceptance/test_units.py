"""The units of systemd: nothing is misspelt, little is left open, and the daemon works confined."""

import json
import os
import shutil
import subprocess
import sys
import time
from ctypes.util import find_library
from itertools import pairwise
from pathlib import Path

import pytest

from insa_anomaly.adapters.embedded import free_port
from tests.acceptance.confined import settings
from tests.acceptance.daemon import Daemon
from tests.acceptance.site import Site
from tests.conftest import ROOT, wait_for

UNITS = ["insa-anomaly.service", "insa-anomaly@.service"]
SERVICE = ROOT / "systemd" / "insa-anomaly.service"
MOST_EXPOSED = 15  # tenths
CONFINED = ("tests.acceptance.confined", str(SERVICE))


def systemd_analyze(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run systemd-analyze; skip the test where it is absent."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze on this machine")
    return subprocess.run(
        [program, *words], check=False, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a root file system with the units and the files that they name."""
    for program in ("opt/insa-anomaly/bin/insa-anomaly", "bin/sh"):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for name in UNITS:
        shutil.copy(ROOT / "systemd" / name, units)
    for target in ("sysinit", "basic", "shutdown", "network-online", "multi-user"):
        (units / f"{target}.target").write_text("[Unit]\n")
    return tmp_path


@pytest.mark.parametrize("name", ["insa-anomaly.service", "insa-anomaly@press.service"])
def test_systemd_finds_nothing_wrong(installed: Path, name: str) -> None:
    """The tool prints no complaint; it exits with 0 even where it does not know a word."""
    done = systemd_analyze("verify", f"--root={installed}", name)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_would_find_a_word_it_does_not_know(installed: Path) -> None:
    """The test above detects a misspelt setting."""
    unit = installed / "etc/systemd/system" / UNITS[0]
    unit.write_text(unit.read_text().replace("ProtectSystem", "ProtectSystm"))
    assert "ProtectSystm" in systemd_analyze("verify", f"--root={installed}", UNITS[0]).stderr


@pytest.mark.parametrize("name", UNITS)
def test_little_is_left_open(name: str) -> None:
    """The exposure by systemd's measure is low: 10 is the maximum, an empty unit has 9.6."""
    unit = str(ROOT / "systemd" / name)
    done = systemd_analyze(
        "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager", unit
    )
    assert done.returncode == 0, done.stdout[-300:]


def test_the_units_differ_in_their_names_alone() -> None:
    """Each unit has the same restrictions as the other."""
    one, many = (settings(ROOT / "systemd" / name) for name in UNITS)
    assert one.keys() == many.keys()
    assert {key for key in one if one[key] != many[key]} == {
        "Description",
        "ExecStart",
        "StateDirectory",
    }


def test_a_daemon_is_tried_again_for_ever_but_not_where_that_cannot_help() -> None:
    """The unit restarts without a limit, but not after the status of a wrong configuration.

    A daemon that is stuck is killed.
    """
    unit = settings(SERVICE)
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["RestartPreventExitStatus"] == ["78"]
    assert (unit["Type"], unit["NotifyAccess"], unit["WatchdogSec"]) == (
        ["notify"],
        ["main"],
        ["30"],
    )


# --------------------------------------------------------- the same restrictions, without systemd
@pytest.fixture
def state(short_path: Path) -> Path:
    """Return the folder of the service's folders; skip where a process may not be confined."""
    for program in ("unshare", "setpriv", "systemd-analyze"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} on this machine")
    if find_library("seccomp") is None:
        pytest.skip("there is no libseccomp on this machine")
    user = [] if os.geteuid() == 0 else ["--user", "--map-current-user"]
    if subprocess.run(
        ["unshare", *user, "--mount", "true"], check=False, capture_output=True, timeout=30
    ).returncode:
        pytest.skip("this machine lets us have no namespaces")
    return short_path / "state"


def test_the_restrictions_are_in_force(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe tries the forbidden actions; otherwise the test below would prove nothing."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    argv = [sys.executable, "-m", *CONFINED, str(state), "tests.acceptance.probe"]
    done = subprocess.run(
        argv,
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    said = done.stdout.splitlines()
    assert [line for line in said if not line.endswith(": held")] == [], done.stderr
    assert len(said) == 12, done.stderr


def test_the_daemon_does_all_of_its_work_confined(
    site: Site, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The confined daemon learns a model, seals it, publishes an anomaly and ends well.

    It has its usual folders and an embedded PostgreSQL.
    """
    credentials = state / "insa-anomaly" / "credentials"
    credentials.mkdir(parents=True)
    (credentials / "secret_broker-password").write_text(site.broker.password)
    (credentials / "secret_encryption").write_text("ab" * 32)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/var/lib/insa-anomaly/credentials")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    port = free_port()
    config = {
        "broker": {
            "port": site.broker.port,
            "username": site.broker.user,
            "password_file": "broker-password",
        },
        "http": {"port": port},
        "models": {"encryption_key_file": "encryption"},
        "detection": {"first_fit_seconds": 0},
    }
    (state / "insa-anomaly" / "config.yaml").write_text(json.dumps(config))
    daemon = Daemon(
        Path("/var/lib/insa-anomaly/config.yaml"),
        port,
        (*CONFINED, str(state), "insa_anomaly"),
        site.folder,
    )
    with site.listen() as heard, site.feeder() as feeder:
        try:
            daemon.start()
            began = time.time() - 600
            for number in range(600):
                reading = {
                    "timestamp": began + number,
                    "temperature": 60 + number * 7919 % 100 / 100,
                }
                feeder.publish("insa/iiot/telemetry/P-1", json.dumps(reading).encode())
            wait_for(lambda: daemon.status()["series_with_model"] == 1, 60)
            feeder.publish(
                "insa/iiot/telemetry/P-1",
                json.dumps({"timestamp": began + 600, "temperature": 95}).encode(),
            )
            wait_for(lambda: any(event.kind == "opened" for event in heard.events), 30)
            daemon.wait_idle()
            assert daemon.metric("insa_readings_recorded_total") == 601
            assert daemon.terminate() == 0
        finally:
            daemon.kill()
    assert "EPERM" not in daemon.log
    assert "not permitted" not in daemon.log
    open_to_others = [
        path.name
        for path in (state / "insa-anomaly").iterdir()
        if path.is_file() and path.stat().st_mode & 0o077
    ]
    assert open_to_others == ["config.yaml"]  # the test wrote this file
    assert len(list(state.rglob("scorer_*.npz.sealed"))) == 1


def test_restarts_and_watchdog_are_consistent() -> None:
    """A start may take longer than a watchdog interval, the end longer than the daemon's limits."""
    unit = settings(SERVICE)
    times = [
        int(unit[name][0])
        for name in ("RestartSec", "WatchdogSec", "TimeoutStopSec", "TimeoutStartSec")
    ]
    assert all(one < other for one, other in pairwise(times))
