"""Ten thousand anomalies in a minute: no more mails than the budget has, nothing lost, and the stream does not feel it."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import psycopg
import pytest

from insa_anomaly.adapters.disk.alerts import AlertFile
from insa_anomaly.adapters.disk.state import StateFile
from insa_anomaly.adapters.targets.mail import Mail, Post
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
from tests.benchmarks.timed import Span, p99
from tests.conftest import wait_for
from tests.core.test_alert import EVENT

STORM = 10_000
TOGETHER = 20  # events of one commit
BUDGET = 20
RATE = 4000.0  # readings a second, of the whole daemon
PAIRS, LEAD_SECONDS, SECONDS = (
    6,
    4.0,
    10.0,
)  # of calm and storm; seconds of each that do not count, and that do
READINGS = 2000  # a series is learnt from
SPIKES, QUIET = 0.2, 20  # of readings; but a series that had one has no other for so many readings


def counted(server: MailServer) -> int:
    """Anomalies that the mails speak of."""
    summaries = [re.search(r"(\d+) more alerts", mail.get_content()) for mail in server.taken]
    return sum(1 if found is None else int(found[1]) for found in summaries)


@contextmanager
def alerting(state: StateFile, folder: Path, server: MailServer) -> Iterator[AlertFile]:
    """The alerts of a daemon, on these events and by this server."""
    with AlertFile(folder / "alerts.db") as store:
        mail = Mail(
            Post("127.0.0.1", server.port, "none", "insa@plant.test", ("shift@plant.test",))
        )
        courier = Courier("mail", mail, store, Retry(), 86_400.0, clock.now)
        settings = Alerting(daily_budget=BUDGET, summary_seconds=1.0)
        reader = Alert(
            state, store, [Target("mail", (Route(),), BUDGET)], [courier], settings, clock.now
        )
        stop = threading.Event()
        thread = threading.Thread(
            target=lambda: [stop.wait(reader.step()) for _ in iter(stop.is_set, True)]
        )
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
        each = [
            msgspec.structs.replace(EVENT, event_id=f"e{i}", episode_id=f"ep{i}")
            for i in range(begin, begin + TOGETHER)
        ]
        events = [("insa/iiot/ml/anomaly/press-1", msgspec.json.encode(one)) for one in each]
        began = time.perf_counter()
        state.commit(begin + 1, b"r" * 2000, events)
        took.append(time.perf_counter() - began)
        time.sleep(0.002)
    return took


def test_a_storm_is_a_budget_of_mails_and_every_anomaly_is_counted(tmp_path: Path) -> None:
    """One mail each while the budget lasts, one summary; what comes after that is counted for tomorrow's. No event is left over."""
    server = MailServer()
    with (
        server.running(),
        StateFile(tmp_path / "state.db") as state,
        alerting(state, tmp_path, server) as store,
    ):
        took = np.array(committed(state))
        wait_for(
            lambda: (state.notices(9), store.backlog(), len(server.taken)) == ([], {}, BUDGET), 20
        )
        assert counted(server) + store.accounts()["mail"].digest.count == STORM
        assert len(state.outgoing(0, 2 * STORM)) == STORM  # what goes to MQTT is not ours to take
    print(  # noqa: T201
        f"a commit in the storm: p50 {np.median(took) * 1e3:.2f} ms, p99 {np.percentile(took, 99) * 1e3:.2f} ms"
    )
    assert np.median(took) < 0.02


# ------------------------------------------------------------------------------------------- the whole daemon
def stretch(plant: Live, spikes: float) -> Span:
    """Publish for a while with so many spikes; when that was, but for its beginning, in which the stretch before echoes."""
    done = plant.publish(
        Order(int(RATE * (LEAD_SECONDS + SECONDS)), RATE, None, spikes, QUIET)
    ).done
    return Span(done.began / 1e6 + LEAD_SECONDS, done.ended / 1e6)


def anomalies(database: "psycopg.Connection[tuple[int]]", spans: list[Span]) -> int:
    """How many there are of these spans."""
    return sum(
        row[0]
        for span in spans
        for row in database.execute(
            "SELECT count(*) FROM anomaly_detections WHERE timestamp BETWEEN to_timestamp(%s) AND to_timestamp(%s)",
            span,
        )
    )


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_whole_daemon_in_a_storm(tmp_path: Path) -> None:
    """A minute of it in pieces, each beside a calm one of as many readings: the mails of the budget, nothing lost, ingest as fast.

    The ratio is the median over the pairs, whose order alternates: what else the machine does falls on both.
    """
    now = time.time_ns() // 1000
    server = MailServer()
    with server.running(), bed() as on:
        settings: dict[str, dict[str, object]] = {
            "mail": {
                "host": "127.0.0.1",
                "port": server.port,
                "security": "none",
                "recipients": ["shift@plant.test"],
            },
            "alerts": {
                "daily_budget": BUDGET,
                "summary_seconds": 1.0,
                "routes": [{"kinds": ["opened"]}],
            },
        }
        commits = tmp_path / "commits"
        program = ("tests.benchmarks.timed", str(commits))
        with live(
            on, trained(ROOT / ".benchmarks", now, readings=READINGS), settings, print, program
        ) as plant:
            calm, storm = list[Span](), list[Span]()
            for pair in range(PAIRS):
                for spans, spikes in ((calm, 0.0), (storm, SPIKES))[:: -1 if pair % 2 else 1]:
                    spans.append(stretch(plant, spikes))
            plant.settle()
            with (
                psycopg.connect(on.dsn) as database,
                AlertFile(on.folder / "storage" / "alerts.db") as store,
            ):
                found = anomalies(database, storm)
                ((opened,),) = database.execute("SELECT count(*) FROM anomaly_episodes")
                wait_for(
                    lambda: counted(server) + store.accounts()["mail"].digest.count == opened, 30
                )
    ratios = sorted(
        p99(commits, [stormy]) / p99(commits, [still])
        for still, stormy in zip(calm, storm, strict=True)
    )
    figures = {
        "anomalies_a_minute": round(found / sum(span.end - span.begin for span in storm) * 60),
        "readings_a_second": RATE,
        "mails": len(server.taken),
        "mails_most": BUDGET,
        "episodes": opened,
        "lost": 0,  # else `settle` has failed
        "ingest_p99_ms_calm": round(1e3 * p99(commits, calm), 1),
        "ingest_p99_ms_storm": round(1e3 * p99(commits, storm), 1),
        "ratio": round(median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }
    print(json.dumps(figures))  # noqa: T201 - figures
    assert figures["anomalies_a_minute"] >= STORM
    assert len(server.taken) <= BUDGET
    assert median(ratios) <= 1.2
