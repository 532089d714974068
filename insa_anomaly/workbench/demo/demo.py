"""A simulated plant through the real daemon, from an empty database to events."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import msgspec
from rich.console import Console

from insa_anomaly.core.notification.event import Event
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import DatabaseAway
from insa_anomaly.workbench.demo import scoreboard
from insa_anomaly.workbench.demo.leaving import Leaving
from insa_anomaly.workbench.demo.ledger import Ledger
from insa_anomaly.workbench.demo.plant import DEVICES, MINUTE, Plant, PlantFault, SeriesHistory
from insa_anomaly.workbench.demo.report import event_line, tell_outcome
from insa_anomaly.workbench.demo.schedule import Schedule, schedule
from insa_anomaly.workbench.demo.scoreboard import Alarm, DemoFigures, FaultMatch, percentile
from insa_anomaly.workbench.progress import Advance, progress
from insa_anomaly.workbench.recordings.replay import MessagePublisher

EVENTS = "insa/iiot/ml/anomaly/#"
# Per series, for the policy of the demonstration's daemon: one a day from the whole plant.
FALSE_ALARMS_PER_DAY = 0.03
_PAUSE = 0.25  # seconds between two looks at signals and the parent
_HURRY = 10.0  # seconds to wait for the database when a person has ended the show


class Stored(msgspec.Struct, frozen=True):
    """Readings of a span in the database.

    Rows, and the number of different (series, time) in them.
    """

    rows: int = 0
    distinct: int = 0


class DemoServices(Protocol):
    """Servers around the demonstration, already running but for the daemon."""

    def addresses(self) -> Sequence[tuple[str, str]]:
        """Return the names and addresses of the running servers."""

    def record(self, history: Iterable[SeriesHistory], advance: Advance) -> None:
        """Store history in the database.

        `advance` takes the number of readings stored since the last call.
        """

    def train(self, series: Sequence[SeriesKey], advance: Advance) -> None:
        """Train a model for every series from stored readings.

        `advance` takes the number of models trained since the last call.
        """

    def start_daemon(self) -> None:
        """Start the daemon; on return it is connected and subscribed. Raises InsaError."""

    def feeder(self) -> AbstractContextManager[MessagePublisher]:
        """Return a connection for publishing."""

    def listen(self, topics: str, hear: Callable[[bytes], None]) -> AbstractContextManager[None]:
        """Subscribe to topics; `hear` is called with every payload, from another thread."""

    def stored(self, start: int, end: int) -> Stored:
        """Return readings with start <= time < end (microseconds) in the database.

        Raises DatabaseAway.
        """

    def now(self) -> float:
        """Return the seconds since the epoch."""


@dataclass(frozen=True)
class DemoOutcome:
    """The faults with their alarms, and the figures."""

    findings: list[FaultMatch]
    false_alarms: list[Alarm]
    figures: DemoFigures

    @property
    def complete(self) -> bool:
        """Whether every reading is stored exactly once."""
        return not (self.figures.lost or self.figures.duplicates)

    def json(self) -> str:
        """Return the figures as a JSON object on a single line."""
        return msgspec.json.encode(self.figures).decode()


@dataclass(frozen=True)
class Demo:
    """A plant with its servers and a console.

    `patience`: seconds to wait for the database at the end; `quiet`: seconds without an event after
    which the events count as complete.
    """

    plant: Plant
    services: DemoServices
    console: Console
    leaving: Leaving
    history_days: float = 8.0
    patience: float = 60.0
    quiet: float = 1.5

    def run(self, duration: float | None) -> DemoOutcome:
        """Show the whole way, for `duration` seconds or until stopped; return the outcome.

        Raises KeyboardInterrupt when it is stopped before the plant runs, and InsaError when a part
        fails.
        """
        self._introduce()
        self._learn(schedule(self.services.now(), duration).start)
        self.console.print("daemon: starting")
        self.services.start_daemon()
        self.leaving.check()
        ledger = Ledger(self.services.now)
        with self.services.listen(EVENTS, ledger.hear), self.services.feeder() as feeder:
            plan = schedule(self.services.now(), duration)
            self._stream(plan, ledger, feeder)
            stored = self._settle(plan, ledger, feeder)
        outcome = _outcome(self._begun(plan, ledger.last), ledger, stored)
        tell_outcome(self.console, outcome.findings, outcome.false_alarms, outcome.figures)
        return outcome

    def _introduce(self) -> None:
        for name, address in self.services.addresses():
            self.console.print(f"{name + ':':<12} {address}")
        series = len(self.plant.series)
        self.console.print(
            f"{'plant:':<12} {len(DEVICES)} devices, {series} series, a reading a minute each, "
            "simulated"
        )

    def _learn(self, until: int) -> None:
        """Give every series a history, and a model learnt from it."""
        days, series = self.history_days, self.plant.series
        title, readings = f"history of {days:g} days, readings", round(days * 1440) * len(series)
        with progress(self.console, title, readings) as advance:
            self.services.record(self.plant.history(days, until), self._checking(advance))
        with progress(self.console, "models trained", len(series)) as advance:
            self.services.train(series, self._checking(advance))

    def _checking(self, advance: Advance) -> Advance:
        def checked(steps: int) -> None:
            self.leaving.check()
            advance(steps)

        return checked

    def _stream(self, plan: Schedule, ledger: Ledger, feeder: MessagePublisher) -> None:
        """Publish the plant, each reading when it is due, and print the events."""
        pace = f"{plan.speed / 60:.0f} simulated minutes a second"
        later = "" if plan.end else ", in real time once the present is reached; Ctrl-C ends it"
        self.console.print(f"streaming: {pace}{later}")
        total = None if plan.end is None else (plan.end - plan.start) // MINUTE * len(DEVICES)
        with progress(self.console, "messages published", total) as advance:
            for row in self.plant.stream(plan.start, plan.end, plan.faults(self.plant)):
                if not self._wait(plan.due(row.timestamp), plan, ledger):
                    return
                feeder.publish(*ledger.message(row))
                advance(1)

    def _wait(self, due: float, plan: Schedule, ledger: Ledger) -> bool:
        """Print events until `due` (seconds since the epoch); False: it is time to leave."""
        while not self.leaving.due:
            left = due - self.services.now()
            event = ledger.next_event(min(left, _PAUSE))
            if event:
                self._tell(event, plan)
            elif left <= 0:
                return True
        return False

    def _tell(self, event: Event, plan: Schedule) -> None:
        alarm = scoreboard.alarm_of(event)
        fault = scoreboard.cause(alarm, self._begun(plan, alarm.at)) if alarm else None
        self.console.print(event_line(event, fault))

    def _begun(self, plan: Schedule, at: int) -> list[PlantFault]:
        return list(takewhile(lambda fault: fault.start <= at, plan.faults(self.plant)))

    def _settle(self, plan: Schedule, ledger: Ledger, feeder: MessagePublisher) -> Stored:
        """Wait, within bounds, until broker and database have everything and events cease."""
        patience = min(self.patience, _HURRY) if self.leaving.due else self.patience
        deadline = time.monotonic() + patience
        feeder.drain(patience)
        stored = self._stored(ledger, Stored())
        quiet_since = time.monotonic()
        while time.monotonic() < deadline:
            if self.leaving.orphaned:
                raise KeyboardInterrupt
            event = ledger.next_event(_PAUSE)
            if event:
                self._tell(event, plan)
                quiet_since = time.monotonic()
            elif stored.distinct < ledger.readings:
                stored = self._stored(ledger, stored)
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > self.quiet:
                break
        return stored

    def _stored(self, ledger: Ledger, known: Stored) -> Stored:
        try:
            return self.services.stored(ledger.first, ledger.last + 1)
        except DatabaseAway:
            return known


def _outcome(begun: list[PlantFault], ledger: Ledger, stored: Stored) -> DemoOutcome:
    found = [
        finding
        for finding in scoreboard.findings(begun, ledger.alarms)
        if finding.alarm or finding.fault.end <= ledger.last
    ]
    false = scoreboard.false_alarms(begun, ledger.alarms)
    p50, p99 = percentile(ledger.latencies, 50), percentile(ledger.latencies, 99)
    figures = DemoFigures(
        readings_published=ledger.readings,
        readings_stored=stored.rows,
        lost=ledger.readings - stored.distinct,
        duplicates=stored.rows - stored.distinct,
        events=ledger.events,
        faults_injected=len(found),
        faults_caught=sum(finding.alarm is not None for finding in found),
        false_alarm_episodes=len(false),
        p50_ms=None if p50 is None else round(p50, 3),
        p99_ms=None if p99 is None else round(p99, 3),
    )
    return DemoOutcome(found, false, figures)
