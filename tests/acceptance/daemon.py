"""The daemon as its users run it: a process over a folder.

A test starts it, queries it over HTTP, stops it and kills it.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from insa_anomaly.adapters import embedded
from tests.conftest import ROOT, wait_for

START_SECONDS = 60.0  # generous: the machine may be busy with other things
STOP_SECONDS = 40.0
ANSWER_SECONDS = 10.0


@dataclass
class Daemon:
    """An `insa-anomaly run`, which may be started again after it ended.

    Its whole output goes to `daemon.log`, run after run.
    """

    config: Path
    port: int
    program: Sequence[str] = ("insa_anomaly",)  # a module and its first arguments
    folder: Path | None = None  # folder of its log, where the log is not beside the configuration
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def log(self) -> str:
        """Output so far."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return (self.folder or self.config.parent) / "daemon.log"

    @property
    def pid(self) -> int:
        """Id of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the daemon and wait until it is ready."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the daemon; the kernel ends it when the tests are killed."""
        assert not self.running
        with self._log.open("ab") as log:
            argv = [sys.executable, "-m", *self.program, "run", "--config", str(self.config)]
            self._process = embedded.spawn(argv, stdout=log.fileno(), stderr=log.fileno(), cwd=ROOT)

    def wait_ready(self) -> None:
        """Wait until /readyz reports readiness."""
        deadline = time.monotonic() + START_SECONDS
        while not self.ready:
            if not self.running or time.monotonic() > deadline:
                pytest.fail(f"the daemon does not get ready; its last words:\n{self.log[-3000:]}")
            time.sleep(0.02)

    @property
    def ready(self) -> bool:
        """Whether /readyz reports readiness, or only undelivered alerts stand in the way.

        A test may take the targets of alerts away.
        """
        try:
            reasons: list[str] = json.loads(self.get("/readyz")[1])["reasons"]
        except OSError:
            return False
        return all(reason.startswith("alerts are not delivered") for reason in reasons)

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a page of the admin port.

        Raises URLError (an OSError) where no server answers.
        """
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=ANSWER_SECONDS) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def status(self) -> dict[str, object]:
        """Return the document of /api/v1/status."""
        answer: dict[str, object] = json.loads(self.get("/api/v1/status")[1])
        return answer

    @property
    def troubles(self) -> list[str]:
        """Reasons why the daemon is degraded."""
        reasons: list[str] = json.loads(self.get("/api/v1/status")[1])["reasons"]
        return reasons

    def metric(self, name: str, labels: Mapping[str, str] | None = None) -> float:
        """Return a sample of /metrics, or 0 where it has not been counted yet."""
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == name and sample.labels == dict(labels or {}):
                    return sample.value
        return 0.0

    def wait_idle(self, seconds: float = 60.0) -> None:
        """Wait until everything in the log is scored and recorded."""
        wait_for(self._idle, seconds)

    def _idle(self) -> bool:
        try:
            status = self.status()
        except URLError:
            return False
        return status["log_last"] == status["scored"] == status["recorded"]

    def terminate(self) -> int:
        """Send SIGTERM; return the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait until the process ends; return its exit status."""
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(
                f"the daemon did not end within {seconds} s; its last words:\n{self.log[-3000:]}"
            )

    def kill(self) -> None:
        """Send SIGKILL and wait until the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def command(*words: str) -> list[str]:
    """Return the argument list of an `insa-anomaly` command."""
    return [sys.executable, "-m", "insa_anomaly", *words]
