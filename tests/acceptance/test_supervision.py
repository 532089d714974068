"""Reports of the daemon's state: by itself, by the broker and to systemd."""

import json
import socket
from collections.abc import Callable

import pytest

from insa_anomaly.runtime.status import TOPIC
from tests.acceptance.site import Heard, Site
from tests.conftest import wait_for


def states(heard: Heard) -> list[str]:
    """Return the states published so far."""
    return [json.loads(payload)["state"] for topic, payload in heard.payloads if topic == TOPIC]


def test_the_state_is_retained_and_the_last_will_speaks_for_the_dead(site: Site) -> None:
    """The state is retained: running, offline by the last will after kill -9, running, stopped.

    A later subscriber receives the last state at once.
    """
    daemon = site.daemon()
    with site.listen(TOPIC) as heard:
        daemon.start()
        wait_for(lambda: states(heard) == ["running"])
        daemon.kill()
        wait_for(lambda: states(heard) == ["running", "offline"], 30)
        daemon.start()
        wait_for(lambda: states(heard)[2:] == ["running"])
        assert daemon.metric("insa_degraded") == 0
        assert daemon.terminate() == 0
        wait_for(lambda: states(heard)[3:] == ["stopped"])
    with site.listen(TOPIC) as later:
        wait_for(lambda: states(later) == ["stopped"])


def test_systemd_is_told_that_we_live(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon notifies systemd when it is ready, every second, and when it stops."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(site.folder / "notify"))
        systemd.settimeout(30.0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(site.folder / "notify"))
        daemon = site.daemon()
        daemon.start()
        assert systemd.recv(500) == b"READY=1"
        hear(systemd, lambda word: word == b"WATCHDOG=1")
        hear(systemd, lambda word: word == b"STATUS=running")
        assert daemon.terminate() == 0
        hear(systemd, lambda word: word == b"STOPPING=1")


def hear(systemd: socket.socket, wanted: Callable[[bytes], bool]) -> None:
    """Receive until the wanted word arrives; fail after 30 s without a word."""
    while not wanted(systemd.recv(500)):
        pass
