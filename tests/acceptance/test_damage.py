"""Damaged files: set aside, reported and repaired as far as possible; none ends the service."""

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
    """Cut off the second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    """Overwrite the file with garbage."""
    path.write_bytes(b"nonsense" * 2000)


def said(log: str, action: str) -> list[dict[str, object]]:
    """Return the lines of the log with this action."""
    return [
        line
        for line in map(json.loads, filter(lambda text: text.startswith("{"), log.splitlines()))
        if line["action"] == action
    ]


@pytest.mark.parametrize(("name", "damage"), [("spool.db", cut), ("state.db", overwrite)])
def test_a_damaged_file_ends_no_start(
    trained: Site, name: str, damage: Callable[[Path], None]
) -> None:
    """A damaged file is set aside and reported, and the daemon continues.

    Recorded rows stay; new readings are stored once, scored and published.
    """
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
    assert daemon.terminate() == 0  # so that the file itself holds all data
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
    """An altered model is reported and set aside; the version before it serves."""
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
