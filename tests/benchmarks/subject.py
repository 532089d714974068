"""The daemon under test: `insa-anomaly run` as a process, with its own configuration and models."""

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from sklearn.ensemble import IsolationForest

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.adapters.embedded import EmbeddedBroker
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.series.training import Trained
from tests.benchmarks.child import ROOT
from tests.benchmarks.fleet import for_series

_READY_SECONDS = 120.0
_RECORDED = re.compile(r"^insa_readings_recorded_total (\S+)$", re.MULTILINE)


def put_models(
    folder: Path, trained: Sequence[Trained], keys: Sequence[SeriesKey], now: int
) -> None:
    """Fill a model folder.

    The pickle beside each model for export is a small stand-in, because the daemon never reads it.
    """
    small = IsolationForest(n_estimators=1, random_state=0).fit([[0.0], [1.0]])
    with ModelFiles(folder / "models", folder / "model.key") as files:
        for one in for_series(trained, keys):
            files.save(replace(one, forest=small), now)


@dataclass(frozen=True)
class Subject:
    """The running daemon."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    def recorded(self) -> int:
        """Return the number of readings that the daemon reports as recorded."""
        found = _RECORDED.search(self._get("/metrics"))
        return int(float(found[1])) if found else 0

    def ready(self) -> bool:
        """Return whether the daemon is ready."""
        try:
            return bool(self._get("/readyz"))
        except OSError:
            return False

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10.0) as answer:
            return str(answer.read().decode())


@contextmanager
def subject(
    folder: Path,
    listener: EmbeddedBroker,
    dsn: str,
    settings: dict[str, dict[str, object]],
    program: Sequence[str] = ("insa_anomaly",),
) -> Iterator[Subject]:
    """Run the daemon in a folder that holds its models, for the length of the block.

    `program` is a module and its first arguments.
    """
    config, port = configured(folder, listener, dsn, settings)
    argv = [sys.executable, "-m", *program, "run", "--config", str(config)]
    with (folder / "daemon.log").open("wb") as log:
        process = embedded.spawn(argv, cwd=ROOT, stdout=log.fileno(), stderr=log.fileno())
    try:
        running = Subject(process, port)
        _await(running, folder / "daemon.log")
        yield running
    finally:
        embedded.stop(process, seconds=30.0)


def configured(
    folder: Path, listener: EmbeddedBroker, dsn: str, settings: dict[str, dict[str, object]]
) -> tuple[Path, int]:
    """Write a configuration into the folder; return its path and the admin port."""
    config, port = folder / "config.yaml", embedded.free_port()
    config.write_text(
        msgspec.json.encode(_configuration(folder, listener, dsn, port, settings)).decode()
    )  # YAML reads JSON
    return config, port


def _configuration(
    folder: Path,
    listener: EmbeddedBroker,
    dsn: str,
    port: int,
    settings: dict[str, dict[str, object]],
) -> dict[str, dict[str, object]]:
    password = folder / "broker.password"
    password.touch(mode=0o600)
    password.write_text(listener.password)
    said: dict[str, dict[str, object]] = {
        "broker": {
            "host": listener.host,
            "port": listener.port,
            "username": listener.user,
            "password_file": str(password),
        },
        "storage": {"directory": str(folder / "storage")},
        "database": {"url": dsn},
        "models": {"directory": str(folder / "models"), "key_file": str(folder / "model.key")},
        "training": {"automatic": False},
        "http": {"port": port},
    }
    for section, values in settings.items():
        said.setdefault(section, {}).update(values)
    return said


def _await(running: Subject, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not running.ready():
        if running.process.poll() is not None or time.monotonic() > deadline:
            message = f"the daemon is not ready: {log.read_text(errors='replace')[-2000:]}"
            raise RuntimeError(message)
        time.sleep(0.1)
