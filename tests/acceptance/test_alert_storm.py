"""Ten thousand anomalies in a minute: no more mails than the budget has, nothing lost, and the stream does not feel it."""

import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import psycopg
import pytest

from insa_anomaly.adapters.alert_file import AlertFile
from insa_anomaly.adapters.mail import Mail, Post
from insa_anomaly.adapters.state import StateFile
from insa_anomaly.core.alerting import Route, Target
from insa_anomaly.core.retry import Retry
from insa_anomaly.runtime.alert import Alert
from insa_anomaly.runtime.courier import Courier, running
from insa_anomaly.settings import Alerting
from insa_anomaly.wiring import clock
from tests.adapters.mail_server import MailServer
from tests.benchmarks.child import ROOT
from tests.benchmarks.fleet import trained
from tests.benchmarks.live import Live, bed, live
from tests.benchmarks.publisher import Order
from tests.conftest import wait_for
from tests.core.test_alert import EVENT

STORM = 10_000
TOGETHER = 20  # events of one commit
BUDGET = 20
RATE, SECONDS = 4000.0, 60.0  # readings a second, of the whole daemon
READINGS = 2000  # a series is learnt from
SPIKES = 0.2  # of readings; but a series that had one has no other for forty readings


def counted(server: MailServer) -> int:
    """Anomalies that the mails speak of."""
    summaries = [re.search(r"(\d+) more alerts", mail.get_content()) for mail in server.taken]
    return sum(1 if found is None else int(found[1]) for found in summaries)


@contextmanager
def alerting(state: StateFile, folder: Path, server: MailServer) -> Iterator[AlertFile]:
    """The alerts of a daemon, on these events and by this server."""
    with AlertFile(folder / "alerts.db") as store:
        mail = Mail(Post("127.0.0.1", server.port, "none", "insa@plant.test", ("shift@plant.test",)))
        courier = Courier("mail", mail, store, Retry(), 86_400.0, clock.now)
        settings = Alerting(daily_budget=BUDGET, summary_seconds=1.0)
        reader = Alert(state, store, [Target("mail", (Route(),), BUDGET)], [courier], settings, clock.now)
        stop = threading.Event()
        thread = threading.Thread(target=lambda: [stop.wait(reader.step()) for _ in iter(stop.is_set, True)])
        thread.start()
        try:
            with running([courier]):
                yield store
        finally:
            stop.set()
            thread.join()


def committed(state: StateFile) -> list[float]:
    """The storm, as the score reader commits it; seconds of each commit."""
    took = []
    for begin in range(0, STORM, TOGETHER):
        each = [msgspec.structs.replace(EVENT, event_id=f"e{i}", episode_id=f"ep{i}") for i in range(begin, begin + TOGETHER)]
        events = [("insa/iiot/ml/anomaly/press-1", msgspec.json.encode(one)) for one in each]
        began = time.perf_counter()
        state.commit(begin + 1, b"r" * 2000, events)
        took.append(time.perf_counter() - began)
        time.sleep(0.002)
    return took


def test_a_storm_is_a_budget_of_mails_and_every_anomaly_is_counted(tmp_path: Path) -> None:
    """One mail each while the budget lasts, one summary; what comes after that is counted for tomorrow's. No event is left over."""
    server = MailServer()
    with server.running(), StateFile(tmp_path / "state.db") as state, alerting(state, tmp_path, server) as store:
        took = np.array(committed(state))
        wait_for(lambda: (state.notices(9), store.backlog(), len(server.taken)) == ([], {}, BUDGET), 20)
        assert counted(server) + store.accounts()["mail"].digest.count == STORM
        assert len(state.outgoing(0, 2 * STORM)) == STORM  # what goes to MQTT is not ours to take
    print(f"a commit in the storm: p50 {np.median(took) * 1e3:.2f} ms, p99 {np.percentile(took, 99) * 1e3:.2f} ms")  # noqa: T201
    assert np.median(took) < 0.02


# ------------------------------------------------------------------------------------------- the whole daemon
def durable(plant: Live) -> np.ndarray:
    """Cumulative counts of seconds from receipt to the acknowledgement, by bucket."""
    with urllib.request.urlopen(f"http://127.0.0.1:{plant.subject.port}/metrics", timeout=10.0) as answer:
        text = answer.read().decode()
    found = re.findall(r'insa_receive_to_durable_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    return np.array([[float(bound), float(count)] for bound, count in found])


def p99(before: np.ndarray, after: np.ndarray) -> float:
    """Seconds, read off between the bounds of its bucket."""
    counts = after[:, 1] - before[:, 1]
    goal = 0.99 * counts[-1]
    at = int(np.searchsorted(counts, goal))
    low, below = (0.0, 0.0) if at == 0 else (after[at - 1, 0], counts[at - 1])
    return float(low + (after[at, 0] - low) * (goal - below) / (counts[at] - below))


def ingest(plant: Live, spikes: float, seconds: float) -> float:
    """p99 of the way to the disk, with so many anomalies."""
    before = durable(plant)
    plant.publish(Order(int(RATE * seconds), RATE, None, spikes))
    return p99(before, durable(plant))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_whole_daemon_in_a_storm() -> None:
    """A minute of it between two calm ones: the mails of the budget, nothing lost, and the way to the disk as short as it was."""
    now = time.time_ns() // 1000
    server = MailServer()
    with server.running(), bed() as on:
        settings: dict[str, dict[str, object]] = {
            "mail": {"host": "127.0.0.1", "port": server.port, "security": "none", "recipients": ["shift@plant.test"]},
            "alerts": {"daily_budget": BUDGET, "summary_seconds": 1.0, "routes": [{"kinds": ["opened"]}]},
        }
        with live(on, trained(ROOT / ".benchmarks", now, readings=READINGS), settings, print) as plant:
            before, storm, after = (ingest(plant, spikes, SECONDS) for spikes in (0.0, SPIKES, 0.0))
            plant.settle()
            wait_for(lambda: len(server.taken) >= BUDGET, 30)
            with psycopg.connect(on.dsn) as database:
                counts = database.execute("SELECT count(*), count(DISTINCT episode_id) FROM anomaly_detections").fetchone()
    assert counts is not None
    print(  # noqa: T201 - figures
        f"{counts[0]} anomalies, {counts[1]} episodes, {len(server.taken)} mails; p99 from receipt to the disk: "
        f"{before * 1e3:.1f} ms before, {storm * 1e3:.1f} ms in the storm, {after * 1e3:.1f} ms after"
    )
    assert counts[0] >= STORM
    assert len(server.taken) <= BUDGET
    assert storm <= 1.2 * max(before, after)
