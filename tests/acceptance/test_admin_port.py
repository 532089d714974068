"""The admin port, the latest results in Redis and a clean end of the daemon."""

import json
import os
import signal
import time
from pathlib import Path

import redis

from tests.acceptance.plant import DEVICES, METRICS, machines, stream
from tests.acceptance.site import Site
from tests.benchmarks.process import children
from tests.conftest import wait_for

ROWS = 100
READINGS = len(DEVICES) * ROWS * len(METRICS)
STOP_SECONDS = 15.0  # generous for a busy machine; a healthy stop takes 1 s


def test_it_answers_shows_and_ends(trained: Site, redis_url: str) -> None:
    """Health, readiness, status and metrics agree with the published readings.

    The newest results stay in Redis for minutes, not forever.
    """
    trained.put("redis", {"url": redis_url})
    daemon = trained.daemon()
    daemon.start()
    with trained.feeder() as feeder:
        for message in stream(machines(ROWS)):
            feeder.publish(*message)
    wait_for(lambda: trained.stored() == READINGS, 60)
    daemon.wait_idle()

    assert daemon.get("/healthz") == (200, "ok\n")
    assert json.loads(daemon.get("/readyz")[1]) == {"ready": True, "reasons": []}
    status = daemon.status()
    assert status["state"] == "running"
    assert status["reasons"] == []
    assert status["series"] == status["series_with_model"] == len(DEVICES) * len(METRICS)
    assert status["log_last"] == status["scored"] == status["recorded"] != 0
    assert daemon.get("/nowhere")[0] == 404

    assert (
        daemon.metric("insa_readings_total")
        == daemon.metric("insa_readings_recorded_total")
        == READINGS
    )
    assert daemon.metric("insa_messages_total") == len(stream(machines(ROWS)))
    assert daemon.metric("insa_broker_connected") == daemon.metric("insa_database_connected") == 1
    wait_for(lambda: daemon.metric("insa_series_with_model") == len(DEVICES) * len(METRICS))
    assert (
        daemon.metric("insa_anomalies_total")
        == trained.query("SELECT count(*) FROM anomaly_detections")[0][0]
    )

    newest = dict(
        trained.query(
            "SELECT device_id || ':' || metric_name, max(timestamp) FROM telemetry_readings "
            "GROUP BY 1"
        )
    )
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        wait_for(lambda: len(client.keys("ml:predictions:*")) == len(newest))
        time.sleep(1.5)  # shown once a second
        for key, at in newest.items():
            name = f"ml:predictions:{key}:latest"
            assert 0 < int(client.ttl(name)) <= 300
            shown = json.loads(client.get(name) or "{}")
            assert shown["timestamp"] == at.isoformat()
            assert shown["is_anomaly"] == (shown["score"] < 0)
            assert -1 <= shown["score"] <= 1

    began = time.monotonic()
    assert daemon.terminate() == 0
    assert time.monotonic() - began < STOP_SECONDS
    last = json.loads(daemon.log.splitlines()[-1])
    assert last["action"] == "daemon_stopped"


def test_redis_away_changes_nothing_else(trained: Site) -> None:
    """An unreachable Redis affects no reading and no readiness; a line of the log reports it."""
    trained.put("redis", {"url": "redis://127.0.0.1:1/0"})
    daemon = trained.daemon()
    daemon.start()
    with trained.feeder() as feeder:
        for message in stream(machines(10)):
            feeder.publish(*message)
    wait_for(lambda: trained.stored() == 10 * len(DEVICES) * len(METRICS), 60)
    wait_for(lambda: "latest_unavailable" in daemon.log)
    assert daemon.ready
    assert daemon.terminate() == 0


def test_the_port_is_a_process_of_its_own(trained: Site) -> None:
    """The admin port is a process of its own, which ends with the daemon.

    When it is killed, it is started again and the stream is not disturbed. A frozen daemon is not
    reported as alive.
    """
    daemon = trained.daemon()
    daemon.start()
    [port] = children(daemon.pid)
    with trained.feeder() as feeder:
        for number, message in enumerate(stream(machines(ROWS))):
            feeder.publish(*message)
            if number == 10:
                os.kill(port, signal.SIGKILL)
    wait_for(lambda: trained.stored() == READINGS, 60)
    wait_for(lambda: daemon.ready, 30)
    [again] = children(daemon.pid)
    assert again != port
    assert "the process of the admin port ended with status -9" in daemon.log
    assert daemon.metric("insa_readings_total") == READINGS

    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        status, body = daemon.get("/healthz")
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert status == 503
    assert "does not answer" in body
    wait_for(lambda: daemon.get("/healthz")[0] == 200)
    daemon.kill()
    wait_for(lambda: not Path(f"/proc/{again}").exists())
