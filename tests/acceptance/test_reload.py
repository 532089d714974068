"""SIGHUP: changeable settings change, the others are named, and a mistake changes nothing."""

import json
import os
import signal
from typing import Any

from tests.acceptance.daemon import Daemon
from tests.acceptance.site import Site
from tests.conftest import wait_for


def reloaded(daemon: Daemon, action: str, times: int = 1) -> dict[str, Any]:
    """Send SIGHUP; return the line of the log that answers."""

    def answers() -> list[dict[str, Any]]:
        return [
            line
            for line in map(json.loads, daemon.log.splitlines())
            if line.get("action") == action
        ]

    os.kill(daemon.pid, signal.SIGHUP)
    wait_for(lambda: len(answers()) == times)
    return answers()[-1]


def test_settings_are_read_again(site: Site) -> None:
    """Settings are in force at once where they can be.

    A file with a mistake is refused as a whole, even if it holds other changes, and the daemon
    continues.
    """
    site.put("logging", {"form": "json"})
    daemon = site.daemon()
    daemon.start()
    site.put("record", {"linger": 0.3})
    site.put("verdict", {"worsen_step": 0.5})
    site.config()
    said = reloaded(daemon, "settings_read")
    assert (said["changed"], said["wait_for_a_restart"]) == (
        ["record.linger"],
        ["verdict.worsen_step"],
    )

    site.put("record", {"linger": 0.4})
    site.put("broker", {"port": 0})
    site.config()
    assert "broker.port: 0 is not allowed" in reloaded(daemon, "settings_refused")["reason"]
    site.settings["broker"]["port"] = site.broker.port
    site.put("logging", {"level": "WARNING"})
    site.config()
    os.kill(daemon.pid, signal.SIGHUP)  # from here on the daemon logs less
    site.put("logging", {"level": "INFO"})
    wait_for(lambda: daemon.ready)
    with site.feeder() as feeder:
        feeder.publish("insa/iiot/telemetry/P-1", b'{"temperature": 60}')
    wait_for(lambda: site.stored() == 1)
    site.config()
    said = reloaded(daemon, "settings_read", 2)
    assert said["wait_for_a_restart"] == ["verdict.worsen_step"]
    assert daemon.terminate() == 0
