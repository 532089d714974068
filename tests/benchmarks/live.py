"""The whole path, live: plant, mosquitto, PostgreSQL and the daemon, or the naive design."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.embedded import EmbeddedBroker, Tools
from insa_anomaly.core.series.training import Trained
from tests.benchmarks.audience import Audience, audience
from tests.benchmarks.child import ROOT, Child, child
from tests.benchmarks.naive import EVENTS, Situation
from tests.benchmarks.process import children, cpu_seconds, peak_bytes, shared_bytes
from tests.benchmarks.publisher import Done, Order, Place, Progress
from tests.benchmarks.signals import SERIES, keys
from tests.benchmarks.subject import Subject, put_models, subject

# Readings published and not yet in PostgreSQL, at most, when as many as possible are published.
_WINDOW = 30_000
_LOOKS = 0.25  # seconds between two measurements of the rows in PostgreSQL
# Rounds of readings of all series, so that every window is full and every reading is scored.
_WARM_ROUNDS = 75
_SETTLE_SECONDS = 60.0
_LEAD_SECONDS = 2.0  # at the beginning of a paced run, which are left out
Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """Result of a stretch of publishing.

    Seconds are from the first publish until the last reading was in PostgreSQL.
    """

    done: Done
    seconds: float
    behind: float  # seconds of these after the last publish
    cpu: dict[str, float]  # us of CPU a reading, by process

    @property
    def rate(self) -> float:
        """Readings a second."""
        return self.done.messages / self.seconds


@dataclass
class Bed:
    """Servers and plant."""

    folder: Path
    listener: EmbeddedBroker
    dsn: str
    database_pid: int
    plant: Child
    published: int = 0

    @property
    def place(self) -> Place:
        """Address of the broker."""
        return Place(
            self.listener.host, self.listener.port, self.listener.user, self.listener.password
        )


@contextmanager
def bed() -> Iterator[Bed]:
    """Start servers in a folder that is removed with them."""
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="insa-bench-", ignore_cleanup_errors=True)
            )
        )
        # The account that PostgreSQL and mosquitto run as under root passes through.
        folder.chmod(0o711)
        dsn = stack.enter_context(embedded.postgres(folder / "pg"))
        listener = stack.enter_context(
            embedded.mosquitto(folder / "mosquitto", Tools(ROOT / ".tools" / "root"))
        )
        database_pid = int((folder / "pg" / "postmaster.pid").read_text().split("\n", 1)[0])
        plant = stack.enter_context(child("tests.benchmarks.publisher"))
        found = Bed(folder, listener, dsn, database_pid, plant)
        plant.tell(found.place)
        yield found


# ------------------------------------------------------------------------------ the daemon
@dataclass
class Live:
    """The daemon on a bed, with full windows."""

    bed: Bed
    subject: Subject
    audience: Audience
    say: Say
    runs: list[Run] = field(default_factory=list)

    def publish(self, order: Order) -> Run:
        """Publish, and wait until all readings are in PostgreSQL."""
        before = self._cpu()
        self.bed.plant.tell(order)
        goal = self.bed.published + order.messages
        pacing = order.messages / order.rate if order.rate else 0.0
        began, deadline = time.time(), time.monotonic() + _SETTLE_SECONDS + (pacing or 120.0)
        time.sleep(pacing)  # progress is of no use meanwhile
        while (recorded := self.subject.recorded()) < goal:
            self.bed.plant.tell(Progress(recorded))
            if time.monotonic() > deadline:
                message = f"{goal - recorded} readings are not in PostgreSQL"
                raise TimeoutError(message)
            time.sleep(_LOOKS)
        ended = time.time()
        self.bed.published = goal
        done = self.bed.plant.answer(Done)
        spent = {
            name: (seconds - before[name]) / order.messages * 1e6
            for name, seconds in self._cpu().items()
        }
        run = Run(done, ended - began, max(0.0, ended - done.ended / 1e6), spent)
        self.say(_described(run))
        return run

    def _cpu(self) -> dict[str, float]:
        return {
            "daemon": cpu_seconds(self.subject.pid),
            "port": sum(map(cpu_seconds, children(self.subject.pid))),
            "broker": cpu_seconds(self.bed.listener.pid),
            "database": cpu_seconds(self.bed.database_pid, with_children=True),
            "plant": cpu_seconds(self.bed.plant.pid),
        }

    def saturated(self, seconds: float, spikes: float) -> Run:
        """Publish as fast as possible for about `seconds`; a short run first measures the rate."""
        trial = self.publish(Order(SERIES * 60, None, _WINDOW, spikes))
        return self.publish(Order(max(SERIES, int(trial.rate * seconds)), None, _WINDOW, spikes))

    def paced(self, rate: float, seconds: float, spikes: float) -> list[float]:
        """Return the latencies of events at a rate of readings, in seconds and ascending."""
        run = self.publish(Order(int(rate * seconds), rate, None, spikes))
        time.sleep(0.5)
        found = self.audience.latencies(
            run.done.began + int(_LEAD_SECONDS * 1e6), run.done.ended + 1
        )
        self.say(f"{rate:,.0f}/s: {_spread(found)}")
        return found

    def peak_bytes(self) -> int:
        """Return the sum of the largest memory of the daemon and of its admin port.

        Each is taken at its own time. Files that both map count once.
        """
        return peak_bytes(self.subject.pid) + sum(
            peak_bytes(child) - shared_bytes(child, self.subject.pid)
            for child in children(self.subject.pid)
        )

    def settle(self) -> None:
        """Check rows and events against the published readings. Raises AssertionError."""
        with psycopg.connect(self.bed.dsn) as database:
            row = database.execute(
                "SELECT count(*), count(DISTINCT (series_id, ts)) FROM telemetry"
            ).fetchone()
            told = database.execute(
                "SELECT count(*) + count(closed_at) FROM anomaly_episodes"
            ).fetchone()
            anomalies = database.execute("SELECT count(*) FROM anomaly_detections").fetchone()
        assert row is not None
        assert told is not None
        assert anomalies is not None
        deadline = time.monotonic() + 10.0
        while self.audience.events()[1] < told[0] and time.monotonic() < deadline:
            time.sleep(0.2)
        events, different = self.audience.events()
        self.say(
            f"published {self.bed.published:,}, stored {row[0]:,}: "
            f"lost {self.bed.published - row[1]}, duplicates {row[0] - row[1]}; "
            f"{anomalies[0]:,} anomalies; opened and closed {told[0]:,}, "
            f"events {events:,}, twice {events - different}"
        )
        assert row == (self.bed.published, self.bed.published), "lost or doubled"
        assert different >= told[0], "events were not told"


def _described(run: Run) -> str:
    cpu = ", ".join(f"{name} {microseconds:.1f}" for name, microseconds in run.cpu.items())
    return (
        f"{run.done.messages:,} readings ({run.done.spikes:,} spikes) in {run.seconds:.1f} s, "
        f"{run.rate:,.0f}/s; all stored {run.behind:.1f} s after the last publish; "
        f"CPU us a reading: {cpu}"
    )


def percentile(ascending: Sequence[float], percent: float) -> float:
    """Return a percentile by nearest rank, or NaN of an empty sequence."""
    return (
        ascending[min(len(ascending) - 1, int(len(ascending) * percent / 100))]
        if ascending
        else float("nan")
    )


def _spread(latencies: Sequence[float]) -> str:
    p50, p99, most = (1e3 * percentile(latencies, percent) for percent in (50, 99, 100))
    return f"{len(latencies)} events, p50 {p50:.1f} ms, p99 {p99:.1f} ms, most {most:.1f} ms"


@contextmanager
def live(
    on: Bed,
    trained: Sequence[Trained],
    settings: dict[str, dict[str, object]],
    say: Say,
    program: Sequence[str] = ("insa_anomaly",),
) -> Iterator[Live]:
    """Run the daemon on the bed, with a model for every series and full windows.

    `program` has the meaning that it has for `subject`.
    """
    say(f"writing {SERIES} models")
    put_models(on.folder, trained, keys(), time.time_ns() // 1000)
    with (
        audience(on.place, "insa/iiot/ml/anomaly/#") as heard,
        subject(on.folder, on.listener, on.dsn, settings, program) as running,
    ):
        found = Live(on, running, heard, say)
        say("filling the windows")
        found.publish(Order(SERIES * _WARM_ROUNDS, 10_000.0))
        yield found


# ------------------------------------------------------------------------ the naive design
@dataclass(frozen=True)
class Naive:
    """Performance of the naive design: readings a second, and latencies at a feasible pace."""

    rate: float
    latencies: list[float]


def naive(
    on: Bed, *, seconds: float, paced_seconds: float, pace: float, spikes: float, say: Say
) -> Naive:
    """Measure the naive design on the bed.

    The paced run comes first, because the design never catches up after a faster one.
    """
    with child("tests.benchmarks.naive") as process:
        process.tell(Situation(on.place, on.dsn, time.time_ns() // 1000))
        process.hear()
        latencies = _naive_latencies(on, paced_seconds, pace, spikes) if paced_seconds else []
        rate = _naive_rate(on, process, seconds) if seconds else float("nan")
    say(f"naive: {rate:,.0f} readings/s; at {pace:,.0f}/s {_spread(latencies)}")
    return Naive(rate, latencies)


def _naive_latencies(on: Bed, seconds: float, pace: float, spikes: float) -> list[float]:
    with audience(on.place, EVENTS + "#") as heard:
        done = _published(on, Order(int(pace * seconds), pace, None, spikes))
        time.sleep(1.0)
        return heard.latencies(done.began + int(_LEAD_SECONDS * 1e6), done.ended + 1)


def _naive_rate(on: Bed, process: Child, seconds: float) -> float:
    """Return the readings a second that it stores while far more are published."""
    on.plant.tell(Order(int(2000 * (seconds + 2)), 2000.0))
    time.sleep(1.0)
    before, began = _naive_stored(process), time.monotonic()
    time.sleep(seconds)
    stored, ended = _naive_stored(process), time.monotonic()
    on.plant.answer(Done)
    return (stored - before) / (ended - began)


def _naive_stored(process: Child) -> int:
    process.tell(None)
    return int(process.hear())


def _published(on: Bed, order: Order) -> Done:
    on.plant.tell(order)
    return on.plant.answer(Done)
