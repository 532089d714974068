"""Tells who has gone silent, and who is back: events of their own kind, no anomalies of a value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from time import monotonic

import msgspec
import numpy as np

from insa_anomaly import instrumentation
from insa_anomaly.core.notification.alert import SILENCE_TOPIC
from insa_anomaly.core.notification.cadence import Cadence, Patience
from insa_anomaly.core.notification.event import deterministic_id, rfc3339
from insa_anomaly.core.notification.silence import Silence, Silent
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import AlertsBroken, StateBroken
from insa_anomaly.ports.alerts import AlertStore, SilenceState
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.runtime.step import Step

LOOK_SECONDS = 1.0
KEEP_SECONDS = 600.0
SUSPENDED_SECONDS = 10.0  # between two looks that are to be a second apart
STREAM = SeriesKey("", "")


class SilenceEvent(msgspec.Struct, frozen=True):
    """Somebody went silent or is back, as published on `insa/iiot/ml/silence` and `insa/iiot/ml/silence/<device>`; times are RFC 3339."""

    event_id: str
    kind: str
    device_id: str | None
    timestamp: str
    since: str
    reason: str


@dataclass(frozen=True)
class ReceptionWatch:
    """Whether we can hear anything now, and what time it is: `clock` in microseconds since the epoch, `monotonic` in seconds."""

    listening: Callable[[], bool]
    clock: Callable[[], int]
    monotonic: Callable[[], float] = monotonic


class SilenceMonitor(Step):
    """One thread hears (`results`), another looks (`step`)."""

    def __init__(
        self,
        state: State,
        store: AlertStore,
        known: Sequence[SeriesKey],
        patience: Patience,
        ears: ReceptionWatch,
        enqueue: Callable[[list[Outgoing]], None],
    ) -> None:
        """`known` are the series in the order of their numbers; it grows."""
        self._state = state
        self._store = store
        self._known = known
        self._ears = ears
        self._enqueue = enqueue
        now = ears.monotonic()
        self._silence = Silence(patience, now)
        self._lock = Lock()
        self._heard = np.zeros(0, bool)
        self._keys: list[SeriesKey] = []  # that are admitted
        self._restored = False
        self._moved = np.zeros(0, bool)
        self._kept: dict[SeriesKey, int] = {}
        self._cadences = Cadence.unknown(0)
        self._since: dict[str | None, int] = {}
        self._looked = now
        self._next_keep = now + KEEP_SECONDS

    def _restore(self) -> None:
        """Take what was learnt, and who was silent; what cannot be read is learnt anew."""
        self._restored = True
        try:
            self._since = dict(self._store.silences().since)
            kept, self._cadences = self._store.cadences()
        except AlertsBroken as error:
            instrumentation.alerts_unwritable(str(error))
            kept, self._cadences = [], Cadence.unknown(0)
        self._kept = {key: index for index, key in enumerate(kept)}
        if STREAM in self._kept:
            self._silence.stream = self._cadences.rows(np.array([self._kept[STREAM]]))

    def observe(self, telemetry: Telemetry) -> None:
        """These readings came in."""
        with self._lock:
            if len(telemetry.keys) > len(self._heard):
                self._heard = np.pad(self._heard, (0, len(telemetry.keys) - len(self._heard)))
            self._heard[telemetry.key] = True

    def step(self, _: float) -> float:
        """Tell who fell silent and who is back; answers how many seconds may pass before the next call."""
        if not self._restored:
            self._restore()
        now = self._ears.monotonic()
        if now - self._looked > SUSPENDED_SECONDS:
            self._silence.listen_anew(now)
        self._looked = now
        self._hear(now)
        try:
            self._tell(self._silence.look(self._since, now, listening=self._ears.listening()))
            if now >= self._next_keep:
                self.save()
        except (AlertsBroken, StateBroken) as error:
            instrumentation.alerts_unwritable(str(error))
        return LOOK_SECONDS

    def save(self) -> None:
        """Put what was learnt on disk. Raises AlertsBroken."""
        self._next_keep = self._ears.monotonic() + KEEP_SECONDS
        moved = np.flatnonzero(self._moved)
        keys = [self._keys[index] for index in moved.tolist()]
        self._store.keep_cadences(keys, self._silence.series.rows(moved))
        self._store.keep_cadences([STREAM], self._silence.stream)
        self._moved[:] = False

    def _hear(self, now: float) -> None:
        with self._lock:
            heard, self._heard = self._heard, np.zeros(len(self._heard), bool)
        self._admit(now)
        indices = np.flatnonzero(heard)
        self._silence.hear(indices, now)
        self._moved[indices] = True

    def _admit(self, now: float) -> None:
        """Series that came to be known."""
        keys = list(self._known[len(self._keys) :])
        if keys:
            cadence = Cadence.unknown(len(keys))
            old = [(i, self._kept[key]) for i, key in enumerate(keys) if key in self._kept]
            if old:
                mine, kept = np.array(old).T
                cadence.put(mine, self._cadences.rows(kept))
            self._silence.admit([key.device_id for key in keys], cadence, now)
            self._keys += keys
            self._moved = np.pad(self._moved, (0, len(keys)))

    def _tell(self, silent: Silent) -> None:
        now, was = self._ears.clock(), self._since
        began = {name: now - int(age * 1e6) for name, (age, _) in silent.items() if name not in was}
        ended = [name for name in was if name not in silent]
        events = [
            _event(name, "silent", now, since, silent[name][1]) for name, since in began.items()
        ]
        events += [_event(name, "back", now, was[name], "it reports again") for name in ended]
        if events:
            self._enqueue(
                self._state.post(
                    [(_topic(event.device_id), msgspec.json.encode(event)) for event in events]
                )
            )
            self._since = {name: since for name, since in (was | began).items() if name in silent}
            for event in events:
                instrumentation.silence_changed(event.kind, event.device_id, event.reason)
            self._store.keep_silences(SilenceState(self._since))
        instrumentation.silent_watched(
            sum(name is not None for name in silent), stream=None in silent
        )


def _topic(device_id: str | None) -> str:
    return SILENCE_TOPIC if device_id is None else f"{SILENCE_TOPIC}/{device_id}"


def _event(device_id: str | None, change: str, now: int, since: int, reason: str) -> SilenceEvent:
    kind = f"{'stream' if device_id is None else 'device'}_{change}"
    return SilenceEvent(
        deterministic_id("silence", kind, device_id or "", since),
        kind,
        device_id,
        rfc3339(now),
        rfc3339(since),
        reason,
    )
