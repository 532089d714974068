"""Files that are not what was written: set aside, told, and made good as far as that can be; none of them ends the service."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.plant import METRICS, machines, stream
from tests.acceptance.site import Site
from tests.conftest import wait_for

ROWS = 600
READINGS = 2 * ROWS * len(METRICS)


def cut(path: Path) -> None:
    """The second half is gone."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    """Something else stands there."""
    path.write_bytes(b"nonsense" * 2000)


def said(log: str, action: str) -> list[dict[str, object]]:
    """Lines of the log with this action."""
    return [
        line
        for line in map(json.loads, filter(lambda text: text.startswith("{"), log.splitlines()))
        if line["action"] == action
    ]


@pytest.mark.parametrize(("name", "damage"), [("spool.db", cut), ("state.db", overwrite)])
def test_a_damaged_file_ends_no_start(
    trained: Site, name: str, damage: Callable[[Path], None]
) -> None:
    """It is set aside and said so, and the daemon goes on: what was recorded stays, what comes is stored once, scored and told."""
    messages = stream(machines(ROWS))
    half = len(messages) // 2
    trained.put("logging", {"form": "json"})
    daemon = trained.daemon()
    daemon.start()
    with trained.feeder() as feeder:
        for message in messages[:half]:
            feeder.publish(*message)
    wait_for(lambda: trained.stored() >= READINGS // 2, 60)
    daemon.wait_idle()
    assert daemon.terminate() == 0  # all of it is in the file itself then
    damage(trained.folder / "storage" / name)
    with trained.listen() as heard:
        daemon.start()
        assert len(said(daemon.log, "log_damaged" if name == "spool.db" else "state_damaged")) == 1
        assert (trained.folder / "storage" / f"{name}.damaged-1").exists()
        with trained.feeder() as feeder:
            for message in messages[half:]:
                feeder.publish(*message)
        wait_for(lambda: trained.stored() >= READINGS, 60)
        daemon.wait_idle()
        wait_for(lambda: heard.events, 30)
    assert trained.stored() == READINGS
    assert daemon.terminate() == 0
    daemon.start()
    assert len(said(daemon.log, "log_damaged") + said(daemon.log, "state_damaged")) == 1
    assert daemon.terminate() == 0


def test_a_model_that_was_altered_is_put_aside(site: Site) -> None:
    """The version before it serves, it is said so, and nothing stops."""
    [first, *_] = machines(0)
    training = str(first.write_training(site.folder))
    for _ in range(2):
        done = site.run("train", "--csv", training)
        assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(site.run("models", "--json").stdout)
    bad, good = (
        [row for row in rows if row["metric_name"] == METRICS[0] and row["version"] == version]
        for version in (2, 1)
    )
    file = site.folder / "ml_models" / bad[0]["model_path"]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    site.put("logging", {"form": "json"})
    daemon = site.daemon()
    daemon.start()
    wait_for(lambda: said(daemon.log, "model_fell_back"), 30)
    wait_for(lambda: daemon.metric("insa_models_failed_total") == 1)
    wait_for(
        lambda: (
            [line["model_id"] for line in said(daemon.log, "model_swapped")][-1:] == [good[0]["id"]]
        ),
        30,
    )
    status = {row["id"]: row["status"] for row in json.loads(site.run("models", "--json").stdout)}
    assert (status[bad[0]["id"]], status[good[0]["id"]]) == ("failed", "active")
    assert daemon.terminate() == 0
