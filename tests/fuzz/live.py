"""Random messages through a real broker into the daemon; a JSON line at the end.

`python -m tests.fuzz.live PAYLOADS [SEED]`

The results are counted from outside. Every message is in the daemon's log, and either its readings
are in the database, or it is a dead letter there.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import msgspec
from paho.mqtt.client import topic_matches_sub
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.embedded import Tools
from insa_anomaly.adapters.mqtt.packets import unpublishable
from tests.acceptance.daemon import Daemon
from tests.acceptance.site import Site, empty_database, opened
from tests.fuzz.payloads import SUBSCRIPTIONS, messages

STUCK_SECONDS = 60.0  # without any progress
_MOST = 262_144
_TOGETHER = 1000


class Figures(msgspec.Struct, frozen=True):
    """Figures of a run.

    `accounted` counts messages that were read or stored as dead letters, `crashes` ends of the
    daemon; `stuck` is 1 where the daemon made no progress.
    """

    payloads: int
    readings: int
    dead_letters: int
    accounted: int
    crashes: int
    stuck: int
    seconds: float


def fuzz(
    folder: Path, tools: Tools, payloads: int, seed: int, progress: Callable[[int], None]
) -> Figures:
    """Publish messages and wait for their results; report the number published to `progress`."""
    began = time.monotonic()
    with ExitStack() as stack:
        server = stack.enter_context(embedded.postgres(folder / "pg", settings={"fsync": "off"}))
        site = stack.enter_context(
            opened(folder, tools, stack.enter_context(empty_database(server)))
        )
        site.put(
            "readings",
            {
                "subscriptions": [
                    {"topic": one.topic, "format": one.format} for one in SUBSCRIPTIONS
                ]
            },
        )
        site.put("record", {"letters_an_hour": 10**9, "letter_bytes_an_hour": 10**12})
        daemon = site.daemon()
        daemon.start()
        _publish(site, payloads, seed, progress)
        stuck = not _settled(daemon, payloads)
        crashes = 0 if daemon.running else 1
        rejected = 0 if crashes else _rejected(daemon)
        stored = site.stored()
        (kept,) = site.query("SELECT coalesce(sum(times), 0)::bigint, count(*) FROM dead_letters")
        logged = 0 if crashes else int(daemon.metric("insa_messages_total"))
        crashes += 0 if crashes or daemon.terminate() == 0 else 1
    accounted = logged if kept[0] == rejected else logged - abs(rejected - kept[0])
    return Figures(
        payloads=payloads,
        readings=stored,
        dead_letters=kept[0],
        accounted=accounted,
        crashes=crashes,
        stuck=int(stuck),
        seconds=round(time.monotonic() - began, 1),
    )


def _publish(site: Site, payloads: int, seed: int, progress: Callable[[int], None]) -> None:
    """Publish messages that a broker accepts and that the daemon subscribes to."""
    filters = [one.filter for one in SUBSCRIPTIONS]
    usable = (
        one
        for one in messages(seed)
        if unpublishable(*one, _MOST) is None
        and any(topic_matches_sub(name, one[0]) for name in filters)
    )
    with site.feeder() as feeder:
        for number, message in enumerate(islice(usable, payloads), 1):
            feeder.publish(*message)
            if number % _TOGETHER == 0:
                progress(number)
        feeder.drain(60.0)


def _settled(daemon: Daemon, payloads: int) -> bool:
    """Return whether all messages are logged, scored and recorded; False if progress ends."""
    before, moved = (0, 0, 0.0), time.monotonic()
    while time.monotonic() < moved + STUCK_SECONDS and daemon.running:
        status = daemon.status()
        now = (
            int(str(status["scored"])),
            int(str(status["recorded"])),
            daemon.metric("insa_messages_total"),
        )
        if now[2] >= payloads and status["log_last"] == now[0] == now[1]:
            return True
        if now != before:
            before, moved = now, time.monotonic()
        time.sleep(0.2)
    return False


def _rejected(daemon: Daemon) -> int:
    return int(
        sum(
            float(line.rsplit(" ", 1)[1])
            for line in daemon.get("/metrics")[1].splitlines()
            if line.startswith("insa_rejected_messages_total{")
        )
    )


def main() -> int:
    """Fuzz the daemon; return the exit status."""
    payloads, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    unpacked = Path(os.environ.get("INSA_UNPACKED", ".tools/root"))
    columns = TextColumn("fuzz"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with (
        tempfile.TemporaryDirectory(prefix="insa-", ignore_cleanup_errors=True) as folder,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        # Servers that may not run as root must reach folders of their own.
        Path(folder).chmod(0o711)
        task = bar.add_task("", total=payloads)
        done = fuzz(
            Path(folder),
            Tools(unpacked if unpacked.is_dir() else None),
            payloads,
            seed,
            lambda number: bar.update(task, completed=number),
        )
    sys.stdout.write(msgspec.json.encode(done).decode() + "\n")
    return 0 if (done.accounted, done.crashes, done.stuck) == (payloads, 0, 0) else 1


if __name__ == "__main__":
    sys.exit(main())
