"""A device at ten times its rate: all is stored and no other device waits; see `make noisy`."""

import time
from collections import Counter

from tests.acceptance.daemon import Daemon
from tests.acceptance.plant import Message
from tests.acceptance.site import Site
from tests.chaos.pressure import SCORED, Crowd, buckets, chatter, quantile

DEVICES = 20
RATE = 100.0  # messages a second of all other devices together
ITS_RATE = 20.0
SECONDS = 3.0


def others(first: int) -> list[Message]:
    """Return the messages of the other devices in a stretch, from this number on."""
    return [
        (
            f"insa/iiot/telemetry/press-{number % DEVICES:02}",
            f'{{"timestamp": {1_760_000_000 + number}, "force": {number % 13}}}'.encode(),
        )
        for number in range(first, first + int(RATE * SECONDS))
    ]


def stretch(site: Site, daemon: Daemon, first: int, its_rate: float) -> tuple[int, float]:
    """Run the other devices as usual and the noisy device at this rate.

    Return the number of its messages, and the p99 from receipt to score.
    """
    before = buckets(daemon.get("/metrics")[1], SCORED)
    crowd = Crowd(site.broker, chatter("noisy"), its_rate)
    with site.publishing(others(first), RATE):
        time.sleep(SECONDS)
    said = crowd.silence()
    daemon.wait_idle()
    return said, quantile(before, buckets(daemon.get("/metrics")[1], SCORED))


def test_a_device_at_ten_times_its_rate_is_stored_and_delays_nobody(site: Site) -> None:
    """A noisy device loses no reading and delays no other device.

    The latency is compared with a calm stretch of the same daemon, with room for a busy machine.
    """
    daemon = site.daemon()
    daemon.start()
    calm, calm_p99 = stretch(site, daemon, 0, ITS_RATE)
    loud, loud_p99 = stretch(site, daemon, int(RATE * SECONDS), 10 * ITS_RATE)
    assert loud > 5 * calm
    assert loud_p99 < max(0.5, 5 * calm_p99)
    stored = Counter(
        dict(site.query("SELECT device_id, count(*) FROM telemetry_readings GROUP BY 1"))
    )
    assert stored.pop("noisy") == calm + loud
    assert stored == {
        f"press-{number:02}": int(2 * RATE * SECONDS) // DEVICES for number in range(DEVICES)
    }
    assert site.query("SELECT count(*) FROM dead_letters") == [(0,)]
    assert daemon.terminate() == 0
