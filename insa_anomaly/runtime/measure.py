"""Measurements of the backlog and of the storage, in a thread of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from insa_anomaly.errors import DiskUnreadable, LogBroken, StateBroken
from insa_anomaly.instrumentation.storage import (
    measuring_failed,
    outbox_measured,
    reader_lag,
    storage_measured,
)
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.log import Log
from insa_anomaly.ports.state import State
from insa_anomaly.runtime.step import Step

EVERY_SECONDS = 1.0
SIZES_EVERY_SECONDS = 300.0  # a thousand models are twelve thousand files


@dataclass(frozen=True)
class Backlog:
    """Waiting entries and events; `recorded` returns the sequence the record reader has reached."""

    log: Log
    state: State
    recorded: Callable[[], int]
    clock: Clock


class Measure(Step):
    """Measures the backlog every second, and the storage every five minutes.

    `sizes` returns bytes on disk by kind, and may raise DiskUnreadable.
    """

    def __init__(self, backlog: Backlog, sizes: Callable[[], Mapping[str, int]]) -> None:
        self._backlog = backlog
        self._sizes = sizes
        self._sizes_at = 0.0
        self._failed = False

    def step(self, _: float) -> float:
        """Measure; log only the first of several failures in a row."""
        try:
            self._measure()
            self._failed = False
        except (LogBroken, StateBroken, DiskUnreadable) as error:
            if not self._failed:
                measuring_failed(str(error))
            self._failed = True
        return EVERY_SECONDS

    def _measure(self) -> None:
        state = self._backlog.state
        for reader, reached in (("score", state.cursor), ("record", self._backlog.recorded())):
            reader_lag(reader, *self._lag(reached))
        outbox_measured(state.untold())
        now = self._backlog.clock.monotonic()
        if now >= self._sizes_at:
            self._sizes_at = now + SIZES_EVERY_SECONDS
            storage_measured(self._sizes())

    def _lag(self, reached: int) -> tuple[int, float]:
        """Return the count of entries after `reached`, and the age of the oldest in seconds."""
        log = self._backlog.log
        received = log.received(reached) if log.last > reached else None
        if received is None:
            return 0, 0.0
        return log.last - reached, max(0.0, (self._backlog.clock.now() - received) / 1e6)
