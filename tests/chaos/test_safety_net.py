"""The harness can fail: it complains when any strand of the safety net is cut.

A daemon that is killed at the worst places causes no complaint.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import psycopg
import pytest

from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.adapters.embedded import Tools
from insa_anomaly.core.series.detector import Model
from tests.acceptance.plant import machines
from tests.acceptance.site import COMMAND_SECONDS, EVENTS, Heard
from tests.adapters import test_mqtt
from tests.chaos import plant
from tests.chaos import run as running
from tests.chaos.checker import Left, judge
from tests.chaos.clients import Devices, operator
from tests.chaos.crashing import PLACES, TRAINING_PLACES
from tests.chaos.oracle import expected
from tests.chaos.run import Plan, run, settle
from tests.chaos.sabotaged import SABOTAGES, acknowledge_on_any_connection
from tests.chaos.world import World, opened
from tests.conftest import ROOT

TIMES = int(os.environ.get("INSA_TEST_CRASHES", "1"))  # kills at every place
CRASH_SECONDS = 20.0  # within which the daemon reaches a place
RARE = {"before log rows are dropped", "while log rows are dropped"}

# The faults that expose each sabotage, and words of the complaint.
SHOWN: Mapping[str, tuple[Plan, str]] = {
    "acknowledge_before_commit": (
        Plan(
            8.0, 1, 400.0, ["daemon kill"], pause=(2.5, 3.0), settings={"intake": {"seconds": 0.5}}
        ),
        "readings lost",
    ),
    "store_whatever_comes": (Plan(2.0, 1, 200.0, ["redis"]), "readings stored more than once"),
    "go_on_after_a_failed_page": (Plan(6.0, 1, 200.0, ["postgres stop"]), "readings lost"),
    "forget_what_is_not_sent": (
        Plan(10.0, 1, 600.0, ["wire to broker reset"], pause=(2.2, 3.0), latency=0.3),
        "events missing",
    ),
    "begin_anew_at_every_start": (
        Plan(9.0, 1, 600.0, ["daemon terminate"], pause=(2.5, 3.5)),
        "anomalies missing",
    ),
    "acknowledge_what_fails": (Plan(4.0, 1, 200.0, ["redis"]), "readings lost"),
    "publish_again_what_is_under_way": (
        Plan(6.0, 1, 600.0, ["redis"], latency=0.3),
        "events told again for no reason",
    ),
    "give_ids_by_chance": (Plan(5.0, 1, 600.0, ["redis"]), "events missing"),
}


LONG = {
    "go_on_after_a_failed_page",
    "begin_anew_at_every_start",
    "give_ids_by_chance",
    "publish_again_what_is_under_way",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in SHOWN]
)
def test_a_strand_that_is_cut_is_seen(
    short_path: Path, tools: Tools, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run of a sabotaged daemon ends, and the checker states the fault."""
    plan, words = SHOWN[name]
    if name == "store_whatever_comes":
        monkeypatch.setattr(running, "settle", keyless)
    outcome = run(
        replace(plan, program=("tests.chaos.sabotaged", name)), short_path, tools, lambda _: None
    )
    assert any(words in complaint for complaint in outcome.complaints), outcome


def keyless(world: World, devices: Devices, heard: Heard) -> None:
    """Repeat all messages, with a table that has no key."""
    with psycopg.connect(world.site.database, autocommit=True) as session:
        session.execute("ALTER TABLE telemetry DROP CONSTRAINT telemetry_pkey")
    devices.again()
    settle(world, devices, heard)


def test_every_strand_has_its_test() -> None:
    """Every sabotage has a test.

    The guard of connections has its own test below; a log that is not synced is exposed by the
    order of system calls.
    """
    assert {*SHOWN, "acknowledge_on_any_connection"} == set(SABOTAGES)


def test_without_the_guard_of_connections_its_own_test_fails() -> None:
    """The guard's own test fails without the guard.

    The test needs a broker that loses the session, which is scripted there.
    """
    acknowledge_on_any_connection()
    try:
        with pytest.raises(AssertionError):
            test_mqtt.test_stale_acknowledgements_cannot_swallow_messages_of_a_new_session("fast")
    finally:
        patch.stopall()


# ------------------------------------------------------------------------------ crash places
@pytest.mark.long
@pytest.mark.timeout(240 + 100 * TIMES)
def test_killed_at_the_worst_places_nothing_is_lost_doubled_or_untold(
    short_path: Path, tools: Tools
) -> None:
    """A daemon killed at each place, the nth time, leaves the results of an undisturbed run."""
    chance = random.Random(5)
    places = [place for place in PLACES for _ in range(TIMES)]
    chance.shuffle(places)
    heard = Heard()
    with ExitStack() as stack:
        world = stack.enter_context(opened(short_path, tools, {}))
        world.site.put("storage", {"checkpoint_seconds": 0.3})
        world.restart_as(("insa_anomaly",))  # from now on the broker keeps all messages
        assert world.daemon.terminate() == 0
        stack.enter_context(operator(world.broker.address, EVENTS, heard))
        devices = Devices(world.broker.address, plant.messages(5), 200.0, replay=False)
        stack.callback(devices.close)
        for place in places:
            crash(world, place, 1 if place in RARE else chance.randint(1, 4))
        world.daemon.program = ("insa_anomaly",)
        settle(world, devices, heard)
        left = Left.of(world.site, heard)
    everything = expected(devices.said)
    assert judge(devices.said, everything, left, everything).complaints == []
    assert len(left.episodes) > 10


def crash(world: World, place: str, nth: int) -> None:
    """Run until the daemon reaches the place for the nth time."""
    daemon = world.daemon
    daemon.program = ("tests.chaos.crashing", place, str(nth))
    daemon.launch()
    until = time.monotonic() + CRASH_SECONDS
    while daemon.running and time.monotonic() < until:
        time.sleep(0.02)
    assert not daemon.running, f"it never came to the place {place!r} {nth} times"
    assert daemon.wait() == -9, f"{place}: it ended otherwise: {daemon.log[-2000:]}"


@pytest.mark.long
def test_a_training_that_is_killed_leaves_what_was_or_what_is_to_be(tmp_path: Path) -> None:
    """A training killed at any place leaves complete models, and the next training succeeds."""
    training = tmp_path / "a.csv"
    lines = machines(0)[0].write_training(tmp_path).read_text().splitlines()[:200]
    training.write_text("\n".join(",".join(line.split(",")[:2]) for line in lines))
    section = {"directory": str(tmp_path / "ml_models"), "key_file": str(tmp_path / "model.key")}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"models": section}))
    words = ["train", "--config", str(config), "--csv", str(training)]
    assert command("insa_anomaly", *words) == 0
    for place in TRAINING_PLACES:
        assert command("tests.chaos.crashing", place, "1", *words) == -9
        with ModelFiles(tmp_path / "ml_models", tmp_path / "model.key") as files:
            assert (
                [
                    Model.from_bytes(files.scorer(model_id)).id
                    for model_id in files.active().values()
                ]
                == [*files.active().values()]
                != []
            )
    assert command("insa_anomaly", *words) == 0


def command(module: str, *words: str) -> int:
    """Run the module; return its exit status."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        check=False,
        capture_output=True,
        cwd=ROOT,
        timeout=COMMAND_SECONDS,
    )
    return done.returncode
