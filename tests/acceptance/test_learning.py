"""A series that was never announced: found, collected, learnt by another process, then watched."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.acceptance.site import Site
from tests.conftest import ROOT, wait_for

TOPIC = "insa/iiot/telemetry/newcomer"
STEP = 10.0  # seconds of event time between readings
COLLECTED = 520


def test_a_new_series_trains_itself_and_then_speaks(site: Site) -> None:
    """A new series has a model after 500 readings and an hour of event time.

    A later spike is published. The daemon itself loads no scikit-learn.
    """
    site.put("training", {"automatic": True})
    daemon = site.daemon()
    random = np.random.default_rng(7)
    begin = time.time() - (COLLECTED + 100) * STEP
    values = np.round(60 + random.normal(0, 0.5, COLLECTED + 40), 4)
    values[-5:] += 40
    with site.listen() as heard:
        daemon.start()
        publish(site, begin, values, 0, COLLECTED)
        wait_for(lambda: daemon.status()["series_with_model"] == 1, 90)
        assert daemon.status()["series"] == 1
        assert not loaded(daemon.pid), "the daemon has scikit-learn in memory"
        (trainer,) = [
            child
            for child in children(daemon.pid)
            if "train-orders" in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8")
        ]
        assert loaded(trainer), "the trainer is a process of its own"
        publish(site, begin, values, COLLECTED, len(values))
        wait_for(lambda: any(event.kind == "opened" for event in heard.events), 30)
        daemon.wait_idle()
    (event,) = [event for event in heard.events if event.kind == "opened"]
    assert (event.device_id, event.metric_name, event.historical) == (
        "newcomer",
        "temperature",
        False,
    )
    assert event.value > 90
    assert event.lower is not None
    assert event.upper is not None
    assert event.lower < 60 < event.upper
    assert event.reasons
    assert site.query("SELECT device_id, metric_name, status, version FROM ml_models") == [
        ("newcomer", "temperature", "active", 1)
    ]
    assert daemon.terminate() == 0
    assert not Path(f"/proc/{trainer}").exists(), "the trainer goes with the daemon"


def test_a_device_of_several_metrics_is_learnt_as_a_whole_and_then_speaks(site: Site) -> None:
    """A device whose metrics have models gets a model of its own.

    A lasting fault is published for the device, with the metric that causes it.
    """
    site.put("training", {"automatic": True})
    daemon = site.daemon()
    random = np.random.default_rng(7)
    begin = time.time() - (COLLECTED + 100) * STEP
    load = np.sin(np.arange(COLLECTED + 60) / 40)
    values = np.column_stack((60 + 5 * load, 4 + load, 9 + 2 * load)) + random.normal(
        0, 0.2, (len(load), 3)
    )
    values[-40:-10, 1] += 2.0
    with site.listen() as heard:
        daemon.start()
        publish_rows(site, begin, values, 0, COLLECTED)
        wait_for(lambda: daemon.status()["devices_with_model"] == 1, 120)
        publish_rows(site, begin, values, COLLECTED, len(values))
        wait_for(lambda: any(event.metric_name == "_device" for event in heard.events), 30)
        daemon.wait_idle()
    event = next(event for event in heard.events if event.metric_name == "_device")
    assert (event.kind, event.device_id, event.historical) == ("opened", "newcomer", False)
    assert event.reasons[0].feature == "pressure"
    assert event.value in values[-40:, 1]
    assert event.upper is not None
    assert site.query("SELECT status, version FROM ml_models WHERE metric_name = '_device'") == [
        ("active", 1)
    ]
    recorded = site.query(
        "SELECT value, episode_id, metadata FROM anomaly_detections WHERE metric_name = '_device' "
        "ORDER BY timestamp"
    )
    assert event.value in [value for value, _, _ in recorded]
    assert {str(episode) for _, episode, _ in recorded if episode} >= {event.episode_id}
    assert all(metadata["reasons"] for _, _, metadata in recorded)
    assert daemon.terminate() == 0


def publish_rows(
    site: Site,
    begin: float,
    values: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    first: int,
    last: int,
) -> None:
    """Publish rows `first` to `last`, a message for each."""
    with site.feeder() as feeder:
        for number in range(first, last):
            metrics = dict(
                zip(("temperature", "pressure", "current"), values[number].tolist(), strict=True)
            )
            feeder.publish(
                TOPIC, json.dumps({"metrics": metrics, "timestamp": begin + number * STEP}).encode()
            )


def publish(
    site: Site,
    begin: float,
    values: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    first: int,
    last: int,
) -> None:
    """Publish readings `first` to `last`, a message for each."""
    with site.feeder() as feeder:
        for number in range(first, last):
            feeder.publish(
                TOPIC,
                json.dumps(
                    {"temperature": values[number], "timestamp": begin + number * STEP}
                ).encode(),
            )


def loaded(pid: int) -> bool:
    """Return whether the process has code of scikit-learn in memory."""
    return "/sklearn/" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


def argv(pid: int) -> str:
    """Return the command line of the process."""
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")


def children(pid: int) -> list[int]:
    """Return the processes that any thread of this process started."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text(encoding="utf-8").split()
    ]


def test_the_daemon_imports_no_scikit_learn() -> None:
    """Neither the command line nor the wiring of the daemon imports scikit-learn."""
    said = (
        "import sys, insa_anomaly.cli, insa_anomaly.processes.daemon; "
        "print([name for name in sys.modules if name.startswith('sklearn')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", said],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
