"""The threads of the daemon: started in order, watched, and stopped without half-done work.

A thread that dies or is stuck ends the process, with its reason and every thread's stack: a restart
is better than half a daemon.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Protocol

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.series.detector import Results
from insa_anomaly.errors import StateUnwritable
from insa_anomaly.instrumentation.daemon import state_watched, thread_died
from insa_anomaly.instrumentation.storage import log_not_trimmed
from insa_anomaly.ports.broker import Broker
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.log import Log
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.ports.reserve import Reserve
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.runtime.admin_process import AdminProcess
from insa_anomaly.runtime.alerting.dispatcher import AlertDispatcher
from insa_anomaly.runtime.alerting.silence import SilenceMonitor
from insa_anomaly.runtime.feed import Feed
from insa_anomaly.runtime.fleet.fleet import Fleet
from insa_anomaly.runtime.heartbeats import Heartbeats
from insa_anomaly.runtime.intake import Intake
from insa_anomaly.runtime.latest import LatestPublisher
from insa_anomaly.runtime.models.activity import Activity
from insa_anomaly.runtime.models.trainer import Trainer
from insa_anomaly.runtime.publish import EventPublisher
from insa_anomaly.runtime.record import RecordReader
from insa_anomaly.runtime.score import ScoreReader
from insa_anomaly.runtime.status import StatusPublisher
from insa_anomaly.runtime.step import Step

TURN_SECONDS = 0.2  # the longest a thread waits before it looks whether to stop
WATCH_SECONDS = 1.0
TRIM_SECONDS = 10.0
TELL_DRAIN_SECONDS = 2.0
RECORD_DRAIN_SECONDS = 10.0
JOIN_SECONDS = 15.0
OPEN_SECONDS = 5.0
STUCK_SECONDS = 60.0


class Stuck(RuntimeError):
    """A thread began no step for longer than a step can take."""


class BrokerConnection(Broker, Protocol):
    """A connection to the broker that can be opened and closed."""

    @property
    def listening(self) -> bool:
        """Whether the broker has granted every subscription of this connection."""

    @property
    def trouble(self) -> str:
        """Reason why the connection is down, or was last."""

    @property
    def undelivered(self) -> str | None:
        """Reason why no message proves that published messages arrive; None if one does or may."""

    @property
    def silent_for(self) -> float:
        """Seconds since the reading thread showed life; infinity once it has ended."""

    def open(self, patience: float) -> bool:
        """Connect and stay connected; wait `patience` seconds at first. Raises BrokerRefused."""

    def close(self) -> None:
        """Disconnect for good."""


@dataclass(frozen=True)
class Listeners:
    """Recipients of scored batches: the body of `score.Audience`."""

    publisher: EventPublisher
    trainer: Trainer
    latest: LatestPublisher | None
    activity: Activity
    dispatcher: AlertDispatcher | None = None
    silence: SilenceMonitor | None = None

    def on_events(self, outgoing: list[Outgoing], came: float | None) -> None:
        """Pass on new events of the outbox."""
        self.publisher.enqueue(outgoing, came)
        if self.dispatcher is not None:
            self.dispatcher.notify(outgoing)

    def on_results(self, telemetry: Telemetry, results: Results) -> None:
        """Pass on a scored batch."""
        self.activity.count(telemetry, results)
        if self.latest is not None:
            self.latest.update(telemetry, results)
        if self.silence is not None:
            self.silence.observe(telemetry)

    def on_due(self, keys: list[SeriesKey]) -> None:
        """Pass on series that are due for training."""
        self.trainer.request(keys)


@dataclass(frozen=True)
class DaemonParts:
    """The moving parts of the daemon."""

    log: Log
    state: State
    feed: Feed
    fleet: Fleet
    intake: Intake
    broker: BrokerConnection
    score: ScoreReader
    record: RecordReader
    publisher: EventPublisher
    latest: LatestPublisher | None
    trainer: Trainer
    others: tuple[tuple[str, Step], ...] = ()  # by the names of their threads
    dispatcher: AlertDispatcher | None = None
    reserve: Reserve | None = None
    admin: AdminProcess | None = None


@dataclass(frozen=True)
class Supervision:
    """Recipients of the daemon's condition.

    `notify` takes systemd's words; `give_up` is called when the process must end, in case the end
    hangs as well.
    """

    status: StatusPublisher | None = None
    heartbeats: Heartbeats = field(default_factory=lambda: Heartbeats(STUCK_SECONDS))
    notify: Callable[[str], None] = lambda _: None
    give_up: Callable[[], None] = lambda: None


class Daemon:
    """Daemon that runs its parts until it is stopped."""

    def __init__(
        self, parts: DaemonParts, clock: Clock, supervision: Supervision | None = None
    ) -> None:
        self._parts = parts
        self._clock = clock
        self._supervision = supervision or Supervision()
        self._stop = Event()
        self._end = Event()
        self._failure: tuple[str, BaseException] | None = None
        self._next_trim = 0.0

    def restore(self) -> None:
        """Restore the state at which the last run ended, before the broker is connected."""
        parts = self._parts
        parts.state.bind(parts.log.id)
        parts.score.restore()
        parts.trainer.follow_index(parts.fleet.serving)

    def run(self) -> int:
        """Run until `end` is called or a thread dies; return the exit status."""
        threads = [
            Thread(target=self._watched, args=(name, step), name=name, daemon=True)
            for name, step in self._steps()
        ]
        for thread in threads:
            thread.start()
        try:
            self._parts.broker.open(OPEN_SECONDS)
            self._supervision.notify("READY=1")
            while not self._end.wait(WATCH_SECONDS):
                self._watch()
                self._judge()
        finally:
            self._wind_down(threads)
        return 0 if self._failure is None else 1

    def end(self) -> None:
        """Ask the daemon to stop; a signal handler may call this."""
        self._end.set()

    def troubles(self) -> list[str]:
        """Return the reasons why the daemon does not do all of its work, in words."""
        return list(self._troubles().values())

    def _troubles(self) -> dict[str, str]:
        """Return the troubles by their subject: a label of a metric, so subjects are few."""
        parts, broker = self._parts, self._parts.broker
        connection = None if broker.listening else "the broker has not granted our subscriptions"
        if not broker.connected:
            connection = f"the broker is not connected: {broker.trouble}"
        thread, death = self._failure or ("", None)
        found = {
            "broker": connection,
            "canary": broker.undelivered,
            "log": _because("the log cannot be written", parts.intake.trouble),
            "state": None if parts.score.writable else "the states cannot be written",
            "database": _because("the database does not record", parts.record.trouble),
            "events": parts.publisher.trouble,
            "alerts": None if parts.dispatcher is None else parts.dispatcher.trouble,
            "admin": None if parts.admin is None else parts.admin.trouble,
            "thread": _because(f"the {thread} thread died", death),
        }
        return {subject: trouble for subject, trouble in found.items() if trouble is not None}

    def figures(self) -> dict[str, int]:
        """Return the position of every reader."""
        parts = self._parts
        return {
            "series": parts.fleet.series,
            "series_with_model": int(parts.fleet.with_model.sum()),
            "devices_with_model": len(parts.fleet.devices.models),
            "log_last": parts.feed.last,
            "scored": parts.state.cursor,
            "recorded": parts.record.reached,
            "checkpoint": parts.score.checkpoint,
        }

    def _steps(self) -> tuple[tuple[str, Step], ...]:
        parts = self._parts
        reading = ("intake", parts.intake), ("score", parts.score), ("tell", parts.publisher)
        recording = ("record", parts.record), ("trainer", parts.trainer)
        latest = () if parts.latest is None else (("show", parts.latest),)
        return *reading, *recording, *parts.others, *latest

    def _watched(self, name: str, step: Step) -> None:
        try:
            while not self._stop.is_set():
                self._supervision.heartbeats.beat(name, self._clock.monotonic())
                pause = step.step(TURN_SECONDS)
                if pause:
                    self._stop.wait(pause)
        # Whatever it was, the daemon must not go on with this thread missing
        except BaseException as error:  # noqa: BLE001
            self._fail(name, error)

    def _fail(self, name: str, error: BaseException) -> None:
        self._failure = self._failure or (name, error)
        thread_died(name, error)
        self._supervision.give_up()
        self._end.set()

    def _judge(self) -> None:
        """Report the condition; systemd sees the daemon alive only while every thread is."""
        now, others = self._clock.monotonic(), [("mqtt", self._parts.broker.silent_for)]
        stuck = self._supervision.heartbeats.stuck(now, others)
        if stuck is not None:
            self._fail(stuck[0], Stuck(f"it has been silent for {stuck[1]:.0f} s"))
        troubles = self._troubles()
        state_watched(troubles.keys())
        if self._supervision.status is not None:
            self._supervision.status.publish(list(troubles.values()))
        if self._failure is None:
            self._supervision.notify("WATCHDOG=1")
            self._supervision.notify(f"STATUS={'; '.join(troubles.values()) or 'running'}")

    def _watch(self) -> None:
        parts = self._parts
        if parts.reserve is not None and not parts.score.writable:
            # Taken messages must be finished; intake takes more once there is room again.
            parts.reserve.release()
        if self._clock.monotonic() >= self._next_trim:
            self._next_trim = self._clock.monotonic() + TRIM_SECONDS
            self._trim(min(parts.record.reached, parts.score.checkpoint))

    def _trim(self, through: int) -> None:
        """Drop log entries through a sequence, after the states that rest on them are on disk.

        A full disk keeps the entries until the next attempt.
        """
        try:
            self._parts.state.sync()
        except StateUnwritable as error:
            log_not_trimmed(str(error))
        else:
            self._parts.intake.drop(through)

    def _wind_down(self, threads: list[Thread]) -> None:
        """Take no more messages, finish the taken ones, store the states.

        Events and pages that cannot be finished in time are in the outbox and the log for the next
        start.
        """
        parts = self._parts
        self._supervision.notify("STOPPING=1")
        self._stop.set()
        for _, step in self._steps():
            step.close()
        for thread in threads:
            thread.join(JOIN_SECONDS)
        if self._failure is None and not any(thread.is_alive() for thread in threads):
            parts.intake.drain()
            parts.score.drain()
            if parts.latest is not None:
                parts.latest.flush()
            parts.publisher.drain(self._clock.monotonic() + TELL_DRAIN_SECONDS)
            if self._supervision.status is not None:
                self._supervision.status.publish_stopped()
            parts.broker.close()
            parts.record.drain(self._clock.monotonic() + RECORD_DRAIN_SECONDS)
        else:
            parts.broker.close()


def _because(trouble: str, reason: object) -> str | None:
    return None if reason is None else f"{trouble}: {reason}"
