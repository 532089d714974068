"""The cost of a hardship for the parts that it does not concern; prints a JSON object last.

`python -m tests.chaos.pressure outage|strangers|noisy|soak`

outage: PostgreSQL is unreachable for `--seconds` at `--rate` readings a second. strangers:
`--devices` unknown devices report within `--seconds`. noisy: an additional device reports `--times`
as often as each of the others. soak: steady traffic; the growth of memory is measured.

Latencies are measured before and during the hardship: of events, from the reading's timestamp to a
subscriber, and of intake, from receipt to disk.
"""

import argparse
import itertools
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from urllib.request import urlopen

import numpy as np
import psycopg

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.embedded import EmbeddedBroker, Tools
from insa_anomaly.adapters.mqtt import Access, Feeder
from tests.benchmarks import fleet
from tests.benchmarks.audience import Audience, audience
from tests.benchmarks.child import ROOT, Child, child
from tests.benchmarks.live import percentile
from tests.benchmarks.publisher import Done, Order, Place
from tests.benchmarks.signals import SERIES, keys
from tests.benchmarks.subject import Subject, put_models, subject
from tests.conftest import Server

SPIKES = 0.02  # share of readings that open an episode
LEAD_SECONDS = 2.0  # at the beginning of a stretch, which are left out
WARM_ROUNDS = 75
LIVE_SECONDS = 10.0  # of traffic at a time, while the backlog is written
LOOK_SECONDS = 5.0  # between two measurements of memory
BEHIND = 50  # entries of the log: half a second of traffic
NOISY = "noisy"
DURABLE, SCORED = "insa_receive_to_durable_seconds", "insa_receive_to_score_seconds"
Buckets = list[tuple[float, float]]


@dataclass(frozen=True)
class Stretch:
    """Latencies of a stretch of traffic, in seconds."""

    events: list[float]
    intake_p99: float

    def figures(self, when: str) -> dict[str, float | int]:
        """Return the figures as they are printed."""
        return {
            f"events_{when}": len(self.events),
            f"event_p99_ms_{when}": round(1e3 * percentile(self.events, 99), 1),
            f"intake_p99_ms_{when}": round(1e3 * self.intake_p99, 1),
        }


@dataclass
class Rig:
    """Servers, plant, daemon and listener; the windows are full."""

    postgres: Server[str]
    listener: EmbeddedBroker
    plant: Child
    daemon: Subject
    heard: Audience
    rate: float
    published: int = 0

    def stretch(self, seconds: float) -> Stretch:
        """Publish for a number of seconds; return the latencies."""
        before = buckets(self._get("/metrics"), DURABLE)
        self.begin(seconds)
        done = self.end()
        time.sleep(1.0)
        events = self.heard.latencies(done.began + int(LEAD_SECONDS * 1e6), done.ended + 1)
        return Stretch(events, quantile(before, buckets(self._get("/metrics"), DURABLE)))

    def begin(self, seconds: float) -> None:
        """Start to publish for a number of seconds."""
        self.plant.tell(Order(int(self.rate * seconds), self.rate, None, SPIKES))

    def end(self) -> Done:
        """Wait for the end of the stretch."""
        done = self.plant.answer(Done)
        self.published += done.messages
        return done

    def behind(self) -> int:
        """Return the number of log entries that are not recorded."""
        status = self.status()
        return status["log_last"] - status["recorded"]

    def status(self) -> dict[str, int]:
        """Return the numbers of the status page."""
        return {
            name: said
            for name, said in json.loads(self._get("/api/v1/status")).items()
            if isinstance(said, int)
        }

    def rss_mb(self) -> float:
        """Return the resident megabytes of the daemon."""
        return (
            int(Path(f"/proc/{self.daemon.pid}/status").read_text().split("VmRSS:")[1].split()[0])
            / 1024
        )

    def wait_recorded(self, seconds: float = 120.0) -> None:
        """Wait until the whole log is recorded."""
        deadline = time.monotonic() + seconds
        while self.behind() > 0:
            assert time.monotonic() < deadline, "it is not recorded in time"
            time.sleep(0.2)

    def lost(self) -> dict[str, int]:
        """Count the plant's readings that are missing in the database, and the duplicates."""
        with psycopg.connect(self.postgres.address) as database:
            row = database.execute(
                "SELECT count(*), count(DISTINCT (series_id, ts))"
                " FROM telemetry JOIN series s ON s.id = series_id"
                " WHERE s.device_id LIKE 'line-%'"
            ).fetchone()
        assert row is not None
        return {
            "published": self.published,
            "lost": self.published - row[1],
            "duplicates": row[0] - row[1],
        }

    def _get(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.daemon.port}{path}", timeout=10.0) as answer:
            return str(answer.read().decode())


def buckets(metrics: str, name: str) -> Buckets:
    """Return the upper bounds of a histogram's buckets, with the count at or below each."""
    found = re.findall(rf'^{name}_bucket\{{le="([^"]+)"\}} (\S+)$', metrics, re.MULTILINE)
    return [(float(bound), float(count)) for bound, count in found]


def quantile(before: Buckets, after: Buckets) -> float:
    """Return the 99th percentile of the values between two readings of a cumulative histogram.

    Values are interpolated within the buckets.
    """
    counts = [(bound, now - then) for (bound, now), (_, then) in zip(after, before, strict=True)]
    wanted, low, below = 0.99 * counts[-1][1], 0.0, 0.0
    for bound, count in counts:
        if count >= wanted:
            return (
                low + (bound - low) * (wanted - below) / max(1.0, count - below)
                if bound != float("inf")
                else low
            )
        low, below = bound, count
    return low


def outage(rig: Rig, seconds: float) -> dict[str, float | int]:
    """Stop PostgreSQL for a number of seconds, and measure."""
    before = rig.stretch(min(60.0, max(20.0, seconds)))
    rig.postgres.stop()
    during = rig.stretch(seconds)
    rig.postgres.start()
    began = time.monotonic()
    waiting = rig.behind()
    drained = _drained(rig)
    rig.wait_recorded()
    return {
        "away_s": seconds, "rate": rig.rate, **before.figures("before"), **during.figures("during"),
        "entries_waiting": waiting, "drain_s": round(drained - began, 1), **rig.lost(),
    }  # fmt: skip


def _drained(rig: Rig) -> float:
    """Return the time at which the recorder has caught up, with traffic continuing."""
    caught_up = None
    while caught_up is None:
        rig.begin(LIVE_SECONDS)
        until = time.monotonic() + LIVE_SECONDS
        while time.monotonic() < until:
            if caught_up is None and rig.behind() <= BEHIND:
                caught_up = time.monotonic()
            time.sleep(0.2)
        rig.end()
    return caught_up


def strangers(rig: Rig, seconds: float, devices: int) -> dict[str, float | int]:
    """Let unknown devices report once each, evenly within these seconds, and measure."""
    before, memory = rig.stretch(min(60.0, max(20.0, seconds))), rig.rss_mb()
    messages = (
        (f"insa/iiot/telemetry/stranger-{number:06}", b'{"temperature": 20.0}')
        for number in range(devices)
    )
    crowd = Crowd(rig.listener, messages, devices / seconds)
    during = rig.stretch(seconds)
    crowd.silence()
    rig.wait_recorded()
    status = rig.status()
    with psycopg.connect(rig.postgres.address) as database:
        (letters,) = database.execute("SELECT count(*) FROM dead_letters").fetchone() or (0,)
    after = {
        "rss_mb_before": round(memory, 1),
        "rss_mb_after": round(rig.rss_mb(), 1),
        "series": status["series"],
        "dead_letters": letters,
    }
    named = {"devices": devices, "seconds": seconds, "rate": rig.rate}
    return {**named, **before.figures("before"), **during.figures("during"), **after, **rig.lost()}


def noisy(rig: Rig, seconds: float, times: float) -> dict[str, float | int]:
    """Let an additional device report `times` as often as each of the others, and measure."""
    before = rig.stretch(min(60.0, max(20.0, seconds)))
    crowd = Crowd(
        rig.listener, chatter(NOISY), times * rig.rate / len({device_id for device_id, _ in keys()})
    )
    during = rig.stretch(seconds)
    said = crowd.silence()
    rig.wait_recorded()
    with psycopg.connect(rig.postgres.address) as database:
        (stored,) = database.execute(
            "SELECT count(*) FROM telemetry_readings WHERE device_id = %s", (NOISY,)
        ).fetchone() or (0,)
    named = {"times": times, "seconds": seconds, "rate": rig.rate}
    return {
        **named,
        **before.figures("before"),
        **during.figures("during"),
        "noisy_published": said,
        "noisy_lost": said - stored,
        **rig.lost(),
    }


def chatter(device_id: str) -> Iterator[tuple[str, bytes]]:
    """Yield messages of a single reading each, without end."""
    for number in itertools.count():
        yield (
            f"insa/iiot/telemetry/{device_id}",
            json.dumps(
                {"timestamp": time.time(), "id": number, "temperature": number % 7}
            ).encode(),
        )


class Crowd(Thread):
    """A publisher that sends messages evenly, at a rate, until they end or it is silenced."""

    def __init__(
        self, broker: EmbeddedBroker, messages: Iterable[tuple[str, bytes]], rate: float
    ) -> None:
        super().__init__(daemon=True)
        self._broker = broker
        self._messages = messages
        self._rate = rate
        self._silence = Event()
        self._failure: BaseException | None = None
        self._published = 0
        self.start()

    def silence(self) -> int:
        """Wait for the end; return the number of messages at the broker, or raise the failure."""
        self._silence.set()
        self.join(60.0)
        if self._failure is not None:
            raise self._failure
        return self._published

    def run(self) -> None:
        """Publish the messages."""
        try:
            self._publish()
        except BaseException as error:  # noqa: BLE001 - the measurement must see it
            self._failure = error

    def _publish(self) -> None:
        broker = self._broker
        with Feeder(
            Access(broker.host, broker.port, "crowd", broker.user, broker.password)
        ) as feeder:
            assert feeder.open(10.0), feeder.trouble
            began = time.monotonic()
            for topic, payload in self._messages:
                feeder.publish(topic, payload)
                self._published += 1
                if self._silence.wait(
                    max(0.0, began + self._published / self._rate - time.monotonic())
                ):
                    break
            assert feeder.drain(30.0) == 0


def soak(rig: Rig, seconds: float) -> dict[str, float | int]:
    """Measure the memory under steady traffic, after a tenth of the time in which caches fill."""
    before = rig.stretch(seconds / 10)
    began = time.monotonic()
    looks = []
    rig.begin(seconds)
    while (lived := time.monotonic() - began) < seconds:
        looks.append((lived, rig.rss_mb()))
        time.sleep(LOOK_SECONDS)
    rig.end()
    rig.wait_recorded()
    at, memory = np.array(looks).T
    slope = float(np.polyfit(at / 3600, memory, 1)[0])
    named = {"seconds": seconds, "rate": rig.rate, **before.figures("before")}
    return {
        **named,
        "rss_mb_before": looks[0][1],
        "rss_mb_after": looks[-1][1],
        "rss_slope_mb_an_hour": round(slope, 2),
        **rig.lost(),
    }


@contextmanager
def rig(folder: Path, tools: Tools, rate: float) -> Iterator[Rig]:
    """Start servers, plant, daemon and listener, in a folder of their own."""
    with ExitStack() as stack:
        data = folder / "pg"
        postgres = Server(
            lambda: embedded.postgres(data),
            lambda _: int((data / "postmaster.pid").read_text().split("\n", 1)[0]),
        )
        postgres.start()
        stack.callback(postgres.stop)
        listener = stack.enter_context(embedded.mosquitto(folder / "mosquitto", tools))
        place = Place(listener.host, listener.port, listener.user, listener.password)
        plant = stack.enter_context(child("tests.benchmarks.publisher"))
        plant.tell(place)
        put_models(
            folder,
            fleet.trained(ROOT / ".benchmarks", time.time_ns() // 1000),
            keys(),
            time.time_ns() // 1000,
        )
        heard = stack.enter_context(audience(place, "insa/iiot/ml/anomaly/#"))
        daemon = stack.enter_context(
            subject(folder, listener, postgres.address, {"record": {"last_retry": 2.0}})
        )
        found = Rig(postgres, listener, plant, daemon=daemon, heard=heard, rate=rate)
        plant.tell(Order(SERIES * WARM_ROUNDS, 10_000.0))
        found.end()
        found.wait_recorded()
        yield found


def main() -> int:
    """Measure the chosen hardship; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.pressure", description=__doc__)
    parser.add_argument("hardship", choices=("outage", "strangers", "noisy", "soak"))
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--times", type=float, default=10.0)
    given = parser.parse_args()
    unpacked = Path(os.environ.get("INSA_UNPACKED", ".tools/root"))
    with tempfile.TemporaryDirectory(prefix="insa-", ignore_cleanup_errors=True) as folder:
        # Servers that may not run as root must reach folders of their own.
        Path(folder).chmod(0o711)
        with rig(Path(folder), Tools(unpacked if unpacked.is_dir() else None), given.rate) as found:
            figures = {
                "outage": partial(outage, found, given.seconds),
                "strangers": partial(strangers, found, given.seconds, given.devices),
                "noisy": partial(noisy, found, given.seconds, given.times),
                "soak": partial(soak, found, given.seconds),
            }[given.hardship]()
    sys.stdout.write(json.dumps(figures) + "\n")
    return 1 if figures["lost"] or figures["duplicates"] or figures.get("noisy_lost") else 0


if __name__ == "__main__":
    sys.exit(main())
