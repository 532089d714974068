"""Ten thousand anomalies in a minute: mails stay within the budget, the stream is not slowed."""

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
from insa_anomaly.adapters.targets.mail import Mail, SmtpAccount
from insa_anomaly.core.notification.routing import Route, Target
from insa_anomaly.core.operations.backoff import BackoffPolicy
from insa_anomaly.runtime.alerting.courier import Courier, running
from insa_anomaly.runtime.alerting.dispatcher import AlertDispatcher
from insa_anomaly.settings.sections import AlertsSettings
from insa_anomaly.wiring.clock import clock
from tests.adapters.mail_server import MailServer
from tests.benchmarks.child import ROOT
from tests.benchmarks.fleet import trained
from tests.benchmarks.live import Live, bed, live
from tests.benchmarks.publisher import Order
from tests.benchmarks.timed import Span, p99
from tests.conftest import wait_for
from tests.core.notification.test_alert import EVENT

STORM = 10_000
TOGETHER = 20  # events in a commit
BUDGET = 20
RATE = 4000.0  # readings a second, of the whole daemon
# Pairs of a calm and a stormy stretch; seconds of a stretch that do not count, and that count.
PAIRS, LEAD_SECONDS, SECONDS = 6, 4.0, 10.0
READINGS = 2000  # from which a series is learnt
SPIKES, QUIET = 0.2, 20  # share of readings that spike; readings of a series between two spikes


def counted(server: MailServer) -> int:
    """Return the number of anomalies that the mails report."""
    summaries = [re.search(r"(\d+) more alerts", mail.get_content()) for mail in server.taken]
    return sum(1 if found is None else int(found[1]) for found in summaries)


@contextmanager
def alerting(state: StateFile, folder: Path, server: MailServer) -> Iterator[AlertFile]:
    """Run the alerts of a daemon on these events, delivered by this server."""
    with AlertFile(folder / "alerts.db") as store:
        mail = Mail(
            SmtpAccount("127.0.0.1", server.port, "none", "insa@plant.test", ("shift@plant.test",))
        )
        courier = Courier(
            "mail", mail, store=store, retry=BackoffPolicy(), keep=86_400.0, clock=clock
        )
        settings = AlertsSettings(daily_budget=BUDGET, summary_seconds=1.0)
        reader = AlertDispatcher(
            state,
            store,
            targets=[Target("mail", (Route(),), BUDGET)],
            couriers=[courier],
            alerting=settings,
            clock=clock,
        )
        stop = threading.Event()
        thread = threading.Thread(
            target=lambda: [stop.wait(reader.step(0.2)) for _ in iter(stop.is_set, True)]
        )
        thread.start()
        try:
            with running([courier], clock):
                yield store
        finally:
            stop.set()
            thread.join()


def committed(state: StateFile) -> list[float]:
    """Commit the storm as the score reader does; return the seconds of each commit."""
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
    """A storm sends as many mails as the budget allows, the last of them a summary.

    Later anomalies are counted for the next day's mail. Every event is handled.
    """
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
        assert len(state.outgoing(0, 2 * STORM)) == STORM  # the events for MQTT stay in the outbox
    print(  # noqa: T201
        f"a commit in the storm: p50 {np.median(took) * 1e3:.2f} ms, "
        f"p99 {np.percentile(took, 99) * 1e3:.2f} ms"
    )
    assert np.median(took) < 0.02


# ---------------------------------------------------------------------------- the whole daemon
def stretch(plant: Live, spikes: float) -> Span:
    """Publish a stretch with this share of spikes; return its span.

    The span leaves out the lead, in which the previous stretch still has effects.
    """
    done = plant.publish(
        Order(int(RATE * (LEAD_SECONDS + SECONDS)), RATE, None, spikes, QUIET)
    ).done
    return Span(done.began / 1e6 + LEAD_SECONDS, done.ended / 1e6)


def anomalies(database: "psycopg.Connection[tuple[int]]", spans: list[Span]) -> int:
    """Return the number of anomalies in these spans."""
    return sum(
        row[0]
        for span in spans
        for row in database.execute(
            "SELECT count(*) FROM anomaly_detections "
            "WHERE timestamp BETWEEN to_timestamp(%s) AND to_timestamp(%s)",
            span,
        )
    )


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_whole_daemon_in_a_storm(tmp_path: Path) -> None:
    """A storm of a minute stays within the budget of mails, loses no reading and slows no commit.

    The storm comes in pieces, each beside a calm stretch of as many readings. The ratio is the
    median over the pairs, whose order alternates, so that other work of the machine falls on both.
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
        "lost": 0,  # otherwise `settle` fails
        "ingest_p99_ms_calm": round(1e3 * p99(commits, calm), 1),
        "ingest_p99_ms_storm": round(1e3 * p99(commits, storm), 1),
        "ratio": round(median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }
    print(json.dumps(figures))  # noqa: T201 - figures
    assert figures["anomalies_a_minute"] >= STORM
    assert len(server.taken) <= BUDGET
    assert median(ratios) <= 1.2
