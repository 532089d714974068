"""The cost of a hardship for the parts that it does not concern, in short.

`make outage`, `strangers`, `noisy` and `soak` measure it at length.
"""

from pathlib import Path

import pytest

from insa_anomaly.adapters.embedded import Tools
from tests.chaos.pressure import noisy, outage, rig, soak, strangers

# Models are trained once, and stored for later runs.
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def test_while_the_database_is_away_events_go_out_and_nothing_is_lost(
    short_path: Path, tools: Tools
) -> None:
    """Events go out while the database is down, no reading is lost, and the backlog drains."""
    with rig(short_path, tools, 500.0) as found:
        figures = outage(found, 15.0)
    assert (figures["lost"], figures["duplicates"]) == (0, 0)
    assert figures["events_during"] > 20
    assert figures["entries_waiting"] > 100
    assert figures["drain_s"] < 10


def test_strangers_cost_little(short_path: Path, tools: Tools) -> None:
    """More unknown devices than there is room for cost little memory.

    Readings of known devices are stored and their events published.
    """
    with rig(short_path, tools, 500.0) as found:
        figures = strangers(found, 15.0, 5000)
    assert (figures["lost"], figures["duplicates"]) == (0, 0)
    assert figures["rss_mb_after"] - figures["rss_mb_before"] < 100
    assert figures["series"] == 4096
    assert figures["dead_letters"] == 5000 - (4096 - 1000)


def test_a_noisy_device_costs_the_others_nothing(short_path: Path, tools: Tools) -> None:
    """A noisy device and the others are stored completely, and events arrive as soon as before."""
    with rig(short_path, tools, 500.0) as found:
        figures = noisy(found, 20.0, 10.0)
    assert (figures["lost"], figures["duplicates"], figures["noisy_lost"]) == (0, 0, 0)
    assert figures["noisy_published"] > 500
    assert figures["event_p99_ms_during"] < max(100.0, 3 * figures["event_p99_ms_before"])
    assert figures["intake_p99_ms_during"] < max(100.0, 3 * figures["intake_p99_ms_before"])


def test_time_costs_little(short_path: Path, tools: Tools) -> None:
    """Half a minute of steady traffic costs no more than a few megabytes of memory."""
    with rig(short_path, tools, 500.0) as found:
        figures = soak(found, 30.0)
    assert (figures["lost"], figures["duplicates"]) == (0, 0)
    assert figures["events_before"] > 0
    assert abs(figures["rss_mb_after"] - figures["rss_mb_before"]) < 20
    # Memory was measured: no process has the same pages all along.
    assert figures["rss_slope_mb_an_hour"] != 0
