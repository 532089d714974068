"""The disk: no message is acknowledged before it is synced.

A full disk is waited for; a failing disk ends the daemon.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from insa_anomaly.adapters import embedded
from tests.acceptance.daemon import Daemon
from tests.acceptance.plant import METRICS, Message, machines, stream
from tests.acceptance.site import Site
from tests.conftest import ROOT, wait_for

ROWS = 400
READINGS = 2 * ROWS * len(METRICS)
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace here")


def publish(site: Site, messages: list[Message]) -> None:
    """Publish as fast as possible."""
    with site.feeder() as feeder:
        for message in messages:
            feeder.publish(*message)


def test_a_full_disk_is_waited_for(trained: Site) -> None:
    """A full disk causes no acknowledgement, so that the broker keeps the messages.

    The daemon stays and reports the trouble; once there is room, it continues by itself.
    """
    pages = trained.folder / "pages"
    daemon = trained.daemon()
    daemon.program = ("tests.chaos.cramped", str(pages))
    daemon.start()
    messages = stream(machines(ROWS))
    third = len(messages) // 3
    publish(trained, messages[:third])
    wait_for(lambda: trained.stored() >= READINGS // 3, 60)
    daemon.wait_idle()
    pages.write_text("1")
    publish(trained, messages[third : 2 * third])
    wait_for(lambda: daemon.get("/readyz")[0] == 503, 30)
    wait_for(lambda: "the log cannot be written" in daemon.get("/readyz")[1], 30)
    logged = daemon.status()["log_last"]
    publish(trained, messages[2 * third :])
    assert daemon.status()["log_last"] == logged
    pages.unlink()
    daemon.wait_ready()
    wait_for(lambda: trained.stored() >= READINGS, 60)
    daemon.wait_idle()
    assert daemon.running
    assert daemon.terminate() == 0
    assert trained.stored() == READINGS
    stored = Counter(
        trained.query("SELECT device_id, metric_name, timestamp FROM telemetry_readings")
    )
    assert set(stored.values()) == {1}


# ------------------------------------------------------------------------------------- strace
def traced(daemon: Daemon, log: Path, *words: str) -> None:
    """Start the daemon under strace."""
    argv = [
        "strace",
        "-f",
        "-qq",
        "-o",
        str(log),
        *words,
        sys.executable,
        "-m",
        *daemon.program,
        "run",
        "--config",
        str(daemon.config),
    ]
    with daemon.config.with_name("daemon.log").open("ab") as said:
        daemon._process = embedded.spawn(argv, stdout=said.fileno(), stderr=said.fileno(), cwd=ROOT)
    daemon.wait_ready()


def dirty_pubacks(trace: Path) -> tuple[int, int]:
    """Return the number of PUBACKs sent, and of PUBACKs sent while the log held unsynced data."""
    text = trace.read_text(errors="replace")
    opened = set(re.findall(r'"[^"]*/spool\.db-wal", .*= (\d+)$', text, re.MULTILINE))
    calls = re.findall(
        r"^\d+ +(pwrite64|fdatasync|fsync|sendto|write)\((\d+)(.*)", text, re.MULTILINE
    )
    written = Counter(
        descriptor for name, descriptor, _ in calls if name == "pwrite64" and descriptor in opened
    )
    # Other descriptors of the same file drop finished entries, which needs no sync.
    [(log, _)] = written.most_common(1)
    dirty, sent, early = False, 0, 0
    for name, descriptor, rest in calls:
        if descriptor == log:
            dirty = name == "pwrite64"
        elif rest.startswith(', "@\\2'):
            sent += 1
            early += dirty
    return sent, early


@needs_strace
@pytest.mark.parametrize(
    ("program", "clean"), [("insa_anomaly", True), ("tests.chaos.unsynced", False)]
)
def test_what_is_acknowledged_is_synced_before(
    site: Site, tmp_path: Path, program: str, clean: bool
) -> None:
    """No PUBACK leaves while the log holds unsynced data, by the order of system calls.

    The test detects a log that does not sync.
    """
    daemon = site.daemon()
    daemon.program = (program,)
    traced(daemon, tmp_path / "trace", "-e", "trace=openat,pwrite64,fdatasync,fsync,sendto,write")
    with site.feeder() as feeder:
        # One message at a time: otherwise one is written while the one before is acknowledged.
        for number, message in enumerate(stream(machines(8))):
            feeder.publish(*message)
            wait_for(partial(logged_more_than, daemon, number), 30)
            time.sleep(0.05)
    wait_for(lambda: daemon.status()["log_last"] == daemon.status()["scored"] != 0, 30)
    end(daemon)
    sent, early = dirty_pubacks(tmp_path / "trace")
    assert sent >= 8
    assert (early == 0) == clean, f"{early} of {sent}"


def logged_more_than(daemon: Daemon, messages: int) -> bool:
    """Return whether the log has more than this number of messages."""
    return daemon.metric("insa_messages_total") > messages


def end(daemon: Daemon) -> None:
    """End the program that strace runs, and strace with it."""
    child = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    for pid in child:
        os.kill(int(pid), 15)
    daemon.wait()


@needs_strace
def test_a_failed_fsync_ends_the_daemon_and_is_not_tried_again(site: Site, tmp_path: Path) -> None:
    """A failed fsync acknowledges no message of its write and ends the daemon.

    The messages come again after the next start and are stored once.
    """
    daemon = site.daemon()
    daemon.start()
    assert daemon.terminate() == 0
    inject = ("-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=12+")
    traced(daemon, tmp_path / "trace", *inject)
    messages = stream(machines(100))
    publish(site, messages)
    assert daemon.wait(60) != 0
    assert "the device failed" in daemon.log.lower() or "disk I/O error" in daemon.log
    daemon.start()
    wait_for(lambda: site.stored() >= 2 * 100 * len(METRICS), 60)
    daemon.wait_idle()
    assert site.stored() == 2 * 100 * len(METRICS)
    assert daemon.terminate() == 0


# ------------------------------------------------------------------------------- a small disk
@pytest.fixture
def small_disk(short_path: Path) -> Iterator[Path]:
    """Mount a file system of 48 MiB; skip the test where mounting is not permitted."""
    place = short_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(place)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("we may not mount a file system here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_filled_by_somebody_else(trained: Site, small_disk: Path) -> None:
    """A disk filled by another program loses no message, also through a restart on the full disk.

    The daemon stays; once there is room, it continues by itself.
    """
    trained.put("storage", {"directory": str(small_disk / "storage"), "reserve_bytes": 4 << 20})
    daemon = trained.daemon()
    daemon.start()
    messages = stream(machines(ROWS))
    third = len(messages) // 3
    publish(trained, messages[:third])
    wait_for(lambda: trained.stored() >= READINGS // 3, 60)
    assert (small_disk / "storage" / "reserve").stat().st_size == 4 << 20
    hog = small_disk / "hog"
    fill(hog)
    publish(trained, messages[third : 2 * third])
    wait_for(lambda: daemon.get("/readyz")[0] == 503, 30)
    wait_for(lambda: "reserve" in daemon.get("/readyz")[1], 30)
    assert not (small_disk / "storage" / "reserve").exists()
    fill(hog)
    daemon.kill()
    publish(trained, messages[2 * third :])
    os.truncate(hog, hog.stat().st_size - (1 << 20))
    daemon.launch()
    wait_for(lambda: answers(daemon), 30)
    assert daemon.get("/readyz")[0] == 503
    hog.unlink()
    daemon.wait_ready()
    wait_for(lambda: trained.stored() >= READINGS, 60)
    daemon.wait_idle()
    assert daemon.terminate() == 0
    assert trained.stored() == READINGS
    assert (small_disk / "storage" / "reserve").exists()


def answers(daemon: Daemon) -> bool:
    """Return whether the admin port answers."""
    try:
        return daemon.get("/healthz")[0] == 200
    except OSError:
        return False


def fill(hog: Path) -> None:
    """Take all the room there is."""
    file = os.open(hog, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (1 << 16, 512):
        with suppress(OSError):
            while True:
                os.write(file, bytes(size))
    os.close(file)
