"""Delivery to a target in a thread of its own, so that a slow target holds up no other.

Whatever a target does, its thread continues: an alert that fails is tried again after a pause, and
is a dead letter once it is too old.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from random import random
from threading import Event, Thread

from insa_anomaly.core.notification.alert import delivery_id
from insa_anomaly.core.operations.backoff import BackoffPolicy, Circuit, backoff, failed
from insa_anomaly.errors import TargetAway, TargetRefused
from insa_anomaly.instrumentation import alerts as instruments
from insa_anomaly.ports.alerts import AlertStore, PendingAlert
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.targets import AlertTarget
from insa_anomaly.runtime.step import Step

IDLE_SECONDS = 1.0
CLOSE_SECONDS = 2.0


@dataclass(eq=False)
class Courier(Step):
    """The thread that delivers the alerts of a target.

    An alert is tried for `keep` seconds, and at least once, even if the daemon was off for long or
    its clock jumped ahead.
    """

    name: str
    target: AlertTarget
    store: AlertStore
    retry: BackoffPolicy
    keep: float
    _: KW_ONLY
    clock: Clock

    def __post_init__(self) -> None:
        self._circuit = Circuit()
        self._news = Event()
        self._stop = Event()

    @property
    def failing(self) -> bool:
        """Whether several deliveries in a row failed."""
        return self._circuit.failures >= self.retry.trip

    def wake(self) -> None:
        """Look for an alert to deliver."""
        self._news.set()

    def run(self) -> None:
        """Deliver until `close`."""
        while not self._stop.is_set():
            try:
                pause = self.step(0.0)
            # Whatever it was, the alerts wait on disk and the stream goes on
            except Exception as error:  # noqa: BLE001
                pause = IDLE_SECONDS
                if not self._stop.is_set():
                    instruments.courier_stumbled(self.name, error)
            if pause:
                self._news.wait(pause)
                self._news.clear()

    def step(self, _: float) -> float:
        """Deliver the alert that is due first; return 0 while more may be due."""
        return 0.0 if self._deliver_next() else IDLE_SECONDS

    def _deliver_next(self) -> bool:
        if not self._circuit.permits(self.clock.monotonic()):
            return False
        one = self.store.next(self.name, self.clock.now())
        if one is None:
            return False
        if one.attempts and self.clock.now() - one.decided_at > self.keep * 1e6:
            self._give_up(one, "it could not be delivered in time")
            return True
        return self._deliver(one)

    def close(self) -> None:
        """End soon; an alert under way is delivered by the next run."""
        self._stop.set()
        self._news.set()
        self.target.interrupt()

    def _deliver(self, one: PendingAlert) -> bool:
        try:
            self.target.deliver(delivery_id(self.name, one.alert), one.alert, one.decided_at)
        except TargetRefused as error:
            self._succeed()  # it answers
            self._give_up(one, str(error))
        except TargetAway as error:
            return self._fail(one, error, error.retry_seconds)
        # A fault of ours in a way out must not end the stream
        except Exception as error:  # noqa: BLE001
            return self._fail(one, error, None)
        else:
            self.store.done(one)
            self._succeed()
            instruments.alert_delivered(self.name, (self.clock.now() - one.decided_at) / 1e6)
        return True

    def _succeed(self) -> None:
        failing, self._circuit = self._circuit.failing, Circuit()
        if failing:
            self.store.hasten(self.name)
            instruments.target_answers(self.name)

    def _fail(self, one: PendingAlert, error: Exception, asked: float | None) -> bool:
        if self._stop.is_set():
            return False
        chance = random()  # noqa: S311 - spreads retries
        self._circuit = failed(self._circuit, self.clock.monotonic(), self.retry, chance, asked)
        pause = max(backoff(one.attempts + 1, self.retry, random()), asked or 0.0)  # noqa: S311
        self.store.postpone(one, self.clock.now() + int(pause * 1e6))
        resting = not self._circuit.permits(self.clock.monotonic())
        instruments.target_away(self.name, error, pause, resting=resting)
        return not resting

    def _give_up(self, one: PendingAlert, reason: str) -> None:
        self.store.give_up(one, reason, self.clock.now())
        instruments.alert_given_up(self.name, one.alert, reason)


@contextmanager
def running(couriers: Sequence[Courier], clock: Clock) -> Iterator[None]:
    """Run the couriers' threads while the block runs.

    At the end no courier waits for a hanging target: its alerts are on disk.
    """
    threads = []
    for courier in couriers:
        threads.append(Thread(target=courier.run, name=f"courier-{courier.name}", daemon=True))
        threads[-1].start()
    try:
        yield
    finally:
        for courier in couriers:
            courier.close()
        deadline = clock.monotonic() + CLOSE_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - clock.monotonic()))
