"""A working daemon and the Prometheus that scrapes it, set up by the files in dashboards/."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy as np
import yaml

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.embedded.process import running
from insa_anomaly.commands.keys import create_key
from insa_anomaly.core.notification.event import rfc3339
from insa_anomaly.services.keys import Permission, Wish
from insa_anomaly.settings.load import load
from tests.acceptance.daemon import Daemon
from tests.acceptance.plant import Message
from tests.acceptance.site import Site
from tests.adapters.web_server import WebServer
from tests.conftest import ROOT, wait_for

DASHBOARDS = ROOT / "dashboards"
DEVICE, METRIC = "press-9", "temperature"
LEARNT, LIVE, STEP = 2100, 500, 10  # readings, readings, seconds between them
RATE = 150.0  # messages a second


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    port: int

    def get(self, path: str, **values: str) -> Any:  # noqa: ANN401 - any JSON
        """Return the data of an answer that must succeed."""
        try:
            with urlopen(
                f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(values)}", timeout=10
            ) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def ask(self, promql: str) -> list[float]:
        """Return the present values of a query."""
        return [float(sample["value"][1]) for sample in self.get("query", query=promql)["result"]]

    @property
    def ready(self) -> bool:
        """Whether Prometheus accepts queries."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except URLError:
            return False


@dataclass(frozen=True)
class Watched:
    """A site, its daemon and the Prometheus that watches it."""

    site: Site
    daemon: Daemon
    prometheus: Prometheus
    key: str

    def ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - any JSON
        """Return the answer of the admin API."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = Request(
            f"http://127.0.0.1:{self.daemon.port}/api/v1/ml/{path}", data, headers, method=method
        )
        with urlopen(request, timeout=10) as answer:  # noqa: S310 - http
            return json.load(answer)


@contextmanager
def prometheus(folder: Path, program: list[str], target: int) -> Iterator[Prometheus]:
    """Run Prometheus with the committed configuration, another address and a faster scrape."""
    config = yaml.safe_load((DASHBOARDS / "prometheus.yml").read_text())
    config["rule_files"] = [str(DASHBOARDS / name) for name in config["rule_files"]]
    config["global"] = {"evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job |= {
            "scrape_interval": "1s",
            "scrape_timeout": "1s",
            "static_configs": [{"targets": [f"127.0.0.1:{target}"]}],
        }
    folder.mkdir()
    (folder / "prometheus.yml").write_text(json.dumps(config))
    server = Prometheus(embedded.free_port())
    argv = [
        *program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
    ]
    argv += [f"--web.listen-address=127.0.0.1:{server.port}"]
    with running("prometheus", argv, folder / "prometheus.log", lambda: server.ready):
        yield server


@contextmanager
def watched(site: Site, program: list[str]) -> Iterator[Watched]:
    """Run a plant of a learnt series in which an event of every kind has happened.

    A webhook receives the alerts.
    """
    hook = WebServer()
    with hook.running(), _watched(site, program, hook.port) as one:
        yield one


@contextmanager
def _watched(site: Site, program: list[str], port: int) -> Iterator[Watched]:
    site.put(
        "alerts",
        {
            "webhooks": [{"name": "hook", "url": f"http://127.0.0.1:{port}/"}],
            "allowed_networks": ["127.0.0.0/8"],
        },
    )
    daemon = site.daemon()
    daemon.launch()
    with prometheus(site.folder / "prometheus", program, daemon.port) as server:
        signal = Signal(time.time() - (LEARNT + LIVE) * STEP)
        done = site.run("train", "--csv", str(signal.write(site.folder)))
        assert done.returncode == 0, done.stdout + done.stderr
        daemon.wait_ready()
        wait_for(lambda: daemon.status()["series_with_model"] == 1, 20)
        one = Watched(
            site,
            daemon,
            server,
            create_key(load(site.config())[0], Wish("tests", [Permission.ADMIN]))[1],
        )
        with site.publishing(signal.messages(), RATE):
            _use(one)
        yield one


class Signal:
    """Waves and noise, with faults after the rows to learn, of which the last persists."""

    def __init__(self, begin: float) -> None:
        self._begin = begin
        at = np.arange(LEARNT + LIVE)
        values = 60 + 4 * np.sin(at / 90) + np.random.default_rng(1).normal(0, 0.5, len(at))
        values[LEARNT + 30 :: 60] += 30
        values[-5:] += 40
        self._values = np.round(values, 4)

    def _time(self, row: int) -> str:
        return rfc3339(int((self._begin + row * STEP) * 1e6))

    def write(self, folder: Path) -> Path:
        """Write the rows to learn; return the file."""
        rows = [f"{self._time(row)},{self._values[row]}\n" for row in range(LEARNT)]
        path = folder / f"{DEVICE}.csv"
        path.write_text(f"timestamp,{METRIC}\n{''.join(rows)}")
        return path

    def messages(self) -> list[Message]:
        """Return the messages of the other rows, with a bad message after every tenth."""
        topic = f"insa/iiot/telemetry/{DEVICE}"
        found: list[Message] = []
        for row in range(LEARNT, LEARNT + LIVE):
            found.append(
                (
                    topic,
                    json.dumps({"timestamp": self._time(row), METRIC: self._values[row]}).encode(),
                )
            )
            found += [(topic, b"{")] * (row % 10 == 0)
        return found


def _use(one: Watched) -> None:
    """Use the admin API as an operator: inspect the model, predict, judge the first episode."""
    wait_for(lambda: one.ask("GET", "episodes")["episodes"], 20)
    episode = one.ask("GET", "episodes")["episodes"][0]
    one.ask("POST", f"episodes/{episode['id']}/feedback", {"verdict": "confirmed"})
    one.ask("POST", "predict", {"device_id": DEVICE, "metric_name": METRIC, "value": 60.0})
    for _ in range(2):
        one.ask("GET", f"models/{episode['model_id']}/performance")
        time.sleep(1.0)  # long enough for a scrape
