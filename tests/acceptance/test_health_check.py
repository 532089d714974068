"""The health check of a running daemon: asked for by hand, carried out, published, explained."""

import json

import pytest

from tests.acceptance.plant import DEVICES, METRICS
from tests.acceptance.site import Site
from tests.acceptance.test_commands import record_history
from tests.conftest import wait_for

DEVICE, METRIC = DEVICES[0], METRICS[0]


@pytest.mark.long
def test_an_old_model_is_found_by_hand_and_retrained_by_the_daemon(site: Site) -> None:
    """The command decides, the daemon trains and publishes, and the trail states the reason."""
    daemon = site.daemon()
    with site.listen("insa/iiot/ml/model/#") as heard:
        daemon.start()
        # The daemon has checked by itself, as on every day.
        wait_for(lambda: site.query("SELECT 1 FROM schedule"), 20)
        record_history(site)
        assert site.run("train", "--device", DEVICE, "--metric", METRIC).returncode == 0
        wait_for(lambda: site.query("SELECT 1 FROM ml_models"), 20)
        site.query(
            "UPDATE ml_models "
            "SET trained_at = now() - interval '8 days', last_used_at = now() RETURNING 1"
        )
        report = json.loads(site.run("health", "--json").stdout)
        assert (report["found"], report["decided"], report["healthy"]) == (
            {"old": 1},
            {"retrain": 1},
            True,
        )
        wait_for(lambda: any(topic.endswith("/retrained") for topic, _ in heard.told), 60)
    wait_for(lambda: site.query("SELECT 1 FROM training_jobs WHERE status = 'done'"), 20)
    [line] = site.run("health", "--why", f"{DEVICE}/{METRIC}").stdout.splitlines()
    assert "retrain version 1 (age): learnt 8.0 days ago, more than 7 [queued: job " in line
    assert " -> done -> " in line
    assert daemon.terminate() == 0
