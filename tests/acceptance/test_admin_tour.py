"""The tour of the admin API in the README, pasted into bash while a daemon streams.

The tour follows a model through its whole life.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.acceptance.site import Site
from tests.conftest import ROOT, wait_for

TOUR_SECONDS = 120.0


def tour() -> str:
    """Return the block of the README."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("### The admin API")[2]
    return section.partition("```bash\n")[2].partition("```")[0]


def answers(said: str) -> list[dict[str, Any]]:
    """Return the printed JSON documents, one from each line."""
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def test_the_tour_in_the_readme_works(site: Site) -> None:
    """The pasted tour runs without an error.

    At its end the old version serves again and the new version is deleted.
    """
    site.put("health", {"settle": 0})
    daemon = site.daemon()
    with site.listen("insa/iiot/ml/#") as heard:
        daemon.start()
        port = str(site.settings["http"]["port"])
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        argv = ["bash", "-euo", "pipefail", "-c", tour().replace("8787", port)]
        done = subprocess.run(
            argv,
            check=False,
            capture_output=True,
            text=True,
            cwd=site.folder,
            env=environment,
            timeout=TOUR_SECONDS,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{daemon.log[-3000:]}"
        wait_for(lambda: any(topic.endswith("retrained") for topic, _ in heard.told), 20)
    (
        model,
        one,
        batch,
        _taken,
        anomalies,
        feedback,
        performance,
        threshold,
        activated,
        deleted,
        models,
    ) = answers(done.stdout)[1:]
    assert (model["status"], model["live"]["state"], model["live"]["serving"]) == (
        "active",
        "serving",
        True,
    )
    assert (one["is_anomaly"], batch["anomaly_count"]) == (False, 1)
    assert (anomalies["anomalies"][0]["value"], feedback["feedback"]["verdict"]) == (
        95.0,
        "confirmed",
    )
    assert performance["feedback"]["precision"] == 1.0
    assert threshold["alarms_per_day"]["after"] > 0
    assert activated["replaced_model_id"] == deleted["model_id"]
    assert [(version["version"], version["status"]) for version in models["models"]] == [
        (2, "deleted"),
        (1, "active"),
    ]
    assert models["models"][0]["threshold"] == 0.5

    told = [
        (topic, json.loads(said))
        for topic, said in heard.told
        if topic.split("/")[3] in ("model", "anomaly")
    ]
    assert [topic for topic, _ in told] == [
        "insa/iiot/ml/model/trained",
        "insa/iiot/ml/anomaly/PUMP-101",
        "insa/iiot/ml/model/retrained",
    ]
    assert told[2][1]["new_model_id"] == deleted["model_id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", told[0][1]["model_id"])

    wait_for(
        lambda: (
            site.query("SELECT version, status FROM ml_models ORDER BY version")
            == [(1, "active"), (2, "deleted")]
        ),
        20,
    )
    # The daemon ran its health check by itself.
    assert site.query("SELECT task_type FROM schedule") == [("ml_model_health_check",)]
    actions = [
        row[0]
        for row in site.query(
            "SELECT action FROM audit_log WHERE action <> 'health.check' ORDER BY id"
        )
    ]
    assert actions[0] == "key.create"
    assert actions[1:] == [
        "model.train",
        "episode.feedback",
        "model.threshold",
        "model.retrain",
        "model.activate",
        "model.delete",
    ]
    daemon.wait_idle()
    assert daemon.terminate() == 0
    key = site.query("SELECT digest FROM api_keys")[0][0]
    assert "insa_" not in daemon.log.replace("insa_anomaly", "")
    assert key not in daemon.log
