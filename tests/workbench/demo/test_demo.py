"""The demonstration on services in memory: true counts, readable output, and an end."""

import json
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from time import monotonic

import msgspec
import pytest

from insa_anomaly.core.notification.event import Event, Reason, episode_id, rfc3339
from insa_anomaly.core.reading.parser import Parser
from insa_anomaly.core.reading.reading import Raw, Reading
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.reading.topics import Acceptance
from insa_anomaly.errors import DatabaseAway
from insa_anomaly.workbench.demo.demo import Demo, DemoOutcome, Stored
from insa_anomaly.workbench.demo.leaving import leaving
from insa_anomaly.workbench.demo.plant import Plant, PlantFault, SeriesHistory
from insa_anomaly.workbench.demo.schedule import schedule
from insa_anomaly.workbench.progress import Advance, open_console

EPOCH = 1_763_800_000.0
KEYS = [
    "readings_published", "readings_stored", "lost", "duplicates", "events", "faults_injected",
    "faults_caught", "false_alarm_episodes", "p50_ms", "p99_ms",
]  # fmt: skip


@dataclass
class Services:
    """A broker, a database and a daemon in memory.

    The daemon knows the faults and publishes each from its second reading on.
    """

    plant: Plant = field(default_factory=Plant)
    blind: int = 0  # faults that the daemon does not detect
    losing: int = 0  # readings the database loses
    doubling: int = 0  # readings the database has twice
    away: int = 0  # queries that the database does not answer
    nervous: bool = False  # whether the daemon raises a false alarm, and publishes it twice
    on_reading: Callable[[int], None] = lambda _: None
    trained: list[SeriesKey] = field(default_factory=list)
    history: dict[SeriesKey, SeriesHistory] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    running: bool = False
    hear: Callable[[bytes], None] | None = None
    faults: list[PlantFault] = field(default_factory=list)
    born: float = field(default_factory=monotonic)
    parser: Parser = field(default_factory=lambda: Parser(Acceptance(max_age=None)))

    def addresses(self) -> Sequence[tuple[str, str]]:
        """Name the services, of which none runs."""
        return [("PostgreSQL", "in memory"), ("broker", "in memory")]

    def now(self) -> float:
        """Return the time of a clock that begins at EPOCH."""
        return EPOCH + monotonic() - self.born

    def record(self, history: Iterable[SeriesHistory], advance: Advance) -> None:
        """Store the history."""
        for series in history:
            self.history[series.key] = series
            advance(len(series.values))

    def train(self, series: Sequence[SeriesKey], advance: Advance) -> None:
        """Check for the history and note the series as trained."""
        for key in series:
            assert len(self.history[key].times) > 100
            self.trained.append(key)
            advance(1)

    def start_daemon(self) -> None:
        """Check for models and start the daemon."""
        assert self.trained
        self.running = True

    @contextmanager
    def feeder(self) -> Iterator["Services"]:
        """Connect a feeder; the services themselves are the broker."""
        assert self.hear, "someone must listen before the first reading"
        yield self

    @contextmanager
    def listen(self, topics: str, hear: Callable[[bytes], None]) -> Iterator[None]:
        """Deliver events to this function."""
        assert topics == "insa/iiot/ml/anomaly/#"
        self.hear = hear
        yield
        self.hear = None

    def publish(self, topic: str, payload: bytes) -> None:
        """Store a message's readings, and publish the daemon's events for them."""
        assert self.running
        received = round(self.now() * 1e6)
        assert abs(msgspec.json.decode(payload)["sent"] - self.now()) < 1
        readings = self.parser.parse(Raw(topic, payload, received))
        assert isinstance(readings, list), readings
        assert all(reading.timestamp <= received for reading in readings)
        if not self.readings:
            self.faults = list(schedule(self.now(), 1.0).faults(self.plant))[self.blind :]
            if self.nervous:
                self._tell("opened", readings[0])
                self._tell("opened", readings[0])
        self.readings += readings
        self.on_reading(len(self.readings))
        for reading in readings:
            for fault in self.faults:
                late = reading.timestamp - fault.start
                if (
                    reading.device_id,
                    reading.metric_name,
                ) == fault.key and 60_000_000 <= late < 120_000_000:
                    self._tell("opened", reading)
                if (
                    reading.device_id,
                    reading.metric_name,
                ) == fault.key and 0 <= reading.timestamp - fault.end < 60_000_000:
                    self._tell("closed", reading)

    def drain(self, timeout: float) -> int:
        """Report that no message is in transit."""
        assert timeout > 0
        return 0

    def stored(self, start: int, end: int) -> Stored:
        """Count the stored readings, with the failures that the test wants."""
        if self.away:
            self.away -= 1
            raise DatabaseAway
        kept = (
            len(
                {
                    (r.device_id, r.metric_name, r.timestamp)
                    for r in self.readings
                    if start <= r.timestamp < end
                }
            )
            - self.losing
        )
        return Stored(kept + self.doubling, kept)

    def _tell(self, kind: str, reading: Reading) -> None:
        key = reading.device_id, reading.metric_name
        started = next(
            (f.start for f in self.faults if f.key == key and f.start <= reading.timestamp),
            reading.timestamp,
        )
        event = Event(
            event_id=f"{kind}{reading.device_id}{reading.metric_name}{reading.timestamp}",
            kind=kind,
            episode_id=episode_id(reading.device_id, reading.metric_name, started),
            device_id=reading.device_id,
            metric_name=reading.metric_name,
            timestamp=rfc3339(reading.timestamp),
            value=reading.value,
            expected=50.0,
            lower=49.0,
            upper=51.0,
            score=-0.5,
            confidence=0.5,
            reasons=[Reason("difference", 0.7, "jump against the reading before")],
            model_id="m",
            model_version=1,
            started_at=rfc3339(started),
            historical=True,
        )
        assert self.hear
        threading.Thread(target=self.hear, args=(msgspec.json.encode(event),)).run()


def show(
    services: Services, duration: float | None = 1.0, patience: float = 5.0
) -> tuple[DemoOutcome, str]:
    """Run the demonstration; return its outcome and the printed text."""
    text = StringIO()
    with leaving() as state:
        demo = Demo(
            services.plant,
            services,
            open_console(text),
            state,
            history_days=0.2,
            patience=patience,
            quiet=0.1,
        )
        return demo.run(duration), text.getvalue()


def test_what_is_counted_is_what_happened() -> None:
    """Every reading of the span is published once, and every fault is caught at its alarm.

    Events are measured and figures are in order.
    """
    services = Services()
    outcome, text = show(services)
    figures = outcome.figures
    assert (
        figures.readings_published
        == figures.readings_stored
        == len(services.readings)
        == 42 * 60 * 30
    )
    assert (figures.lost, figures.duplicates, outcome.complete) == (0, 0, True)
    assert figures.faults_injected == figures.faults_caught >= 12
    assert figures.false_alarm_episodes == 0
    assert figures.events == 2 * figures.faults_injected
    assert {60_000_000 <= (finding.delay or 0) < 120_000_000 for finding in outcome.findings} == {
        True
    }
    assert figures.p50_ms is not None
    assert figures.p99_ms is not None
    assert 0 <= figures.p50_ms <= figures.p99_ms < 1000
    assert list(json.loads(outcome.json())) == KEYS
    assert "\n" not in outcome.json()
    assert services.trained == list(services.plant.series)
    assert (
        max(series.times[-1] for series in services.history.values())
        < services.readings[0].timestamp
    )
    assert "injected spike" in text


def test_nothing_is_hidden() -> None:
    """Missed faults, false alarms, lost and duplicate readings all show.

    An event published twice counts once.
    """
    services = Services(blind=3, losing=2, doubling=4, nervous=True)
    outcome, text = show(services, patience=0.6)
    figures = outcome.figures
    assert figures.faults_injected - figures.faults_caught == 3
    assert (figures.false_alarm_episodes, figures.lost, figures.duplicates, outcome.complete) == (
        1,
        2,
        4,
        False,
    )
    assert figures.events == 2 * figures.faults_caught + 1
    assert text.count("missed") == 3
    assert "false alarm:" in text


def test_what_people_see() -> None:
    """The output without a terminal is plain text.

    It has the addresses, a line for each event, a table of the faults and a summary.
    """
    _, text = show(Services())
    lines = text.splitlines()
    assert lines[0].split() == ["PostgreSQL:", "in", "memory"]
    assert "\x1b" not in text
    opened = next(line for line in lines if " opened " in line)
    for part in (
        "expected 50 (49 to 51)",
        "confidence 0.50",
        "jump against the reading before",
        "  injected ",
    ):
        assert part in opened
    assert "after" in next(line for line in lines if " closed " in line)
    assert len([line for line in lines if line.rstrip().endswith(" 2") and "caught" in line]) >= 12
    assert lines[-2].startswith("readings   75,600 published, 75,600 stored, 0 lost, 0 duplicates")
    assert lines[-1].startswith("events ")
    assert max(map(len, lines)) <= 160


def test_it_waits_for_a_database_that_comes_back() -> None:
    """A database that does not answer for a while is asked again."""
    outcome, _ = show(Services(away=3))
    assert outcome.figures.lost == 0


@pytest.mark.parametrize("duration", [30.0, None])
def test_a_signal_ends_it_with_the_table(duration: float | None) -> None:
    """A demonstration stopped in the middle accounts for its published readings.

    It may have an end in sight or none.
    """

    def stop(readings: int) -> None:
        if readings == 6000:
            signal.raise_signal(signal.SIGINT)

    services = Services(on_reading=stop)
    started = monotonic()
    outcome, text = show(services, duration)
    assert monotonic() - started < 15
    assert (
        outcome.figures.readings_published
        == len(services.readings)
        == outcome.figures.readings_stored
    )
    assert 6000 <= outcome.figures.readings_published < 6100
    assert "Injected faults" in text


def test_a_signal_before_the_plant_runs_ends_it_at_once() -> None:
    """A signal while history is stored or models are trained ends the demonstration at once."""
    services = Services()
    record = services.record

    def interrupted(history: Iterable[SeriesHistory], advance: Advance) -> None:
        signal.raise_signal(signal.SIGTERM)
        record(history, advance)

    services.record = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        show(services)
    assert not services.running


def test_left_alone_it_goes_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demonstration whose parent process is gone ends without output.

    Readings that were not counted are not reported as lost.
    """
    text = StringIO()
    with leaving() as state:
        services = Services(
            on_reading=lambda readings: monkeypatch.setattr("os.getppid", lambda: -readings)
        )
        demo = Demo(services.plant, services, open_console(text), state, history_days=0.2)
        with pytest.raises(KeyboardInterrupt):
            demo.run(30.0)
    assert len(services.readings) <= 12
    assert "lost" not in text.getvalue()
