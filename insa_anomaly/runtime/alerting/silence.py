"""Silence of devices and of the stream, and their return: events of a kind of their own."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from threading import Lock

import msgspec
import numpy as np

from insa_anomaly.core.notification.alert import SILENCE_TOPIC
from insa_anomaly.core.notification.cadence import Cadence, Patience
from insa_anomaly.core.notification.event import deterministic_id, rfc3339
from insa_anomaly.core.notification.silence import Silence, Silent
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import AlertsBroken, StateBroken
from insa_anomaly.instrumentation.alerts import alerts_unwritable, silence_changed, silent_watched
from insa_anomaly.ports.alerts import AlertStore, SilenceState
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.runtime.step import Step

CHECK_SECONDS = 1.0
SAVE_SECONDS = 600.0
SUSPENDED_SECONDS = 10.0  # between two checks that are a second apart
STREAM = SeriesKey("", "")


class SilenceEvent(msgspec.Struct, frozen=True):
    """A device or the stream went silent or is back; times are RFC 3339.

    Published on `insa/iiot/ml/silence`, of a device on `insa/iiot/ml/silence/<device>`.
    """

    event_id: str
    kind: str
    device_id: str | None
    timestamp: str
    since: str
    reason: str


@dataclass(eq=False)
class SilenceMonitor(Step):
    """Watch for silence: the scoring thread reports readings (`observe`), another checks (`step`).

    `known` are the series in the order of their indices; the list grows. `listening` returns
    whether readings can be received now.
    """

    state: State
    store: AlertStore
    known: Sequence[SeriesKey]
    patience: Patience
    listening: Callable[[], bool]
    _: KW_ONLY
    enqueue: Callable[[list[Outgoing]], None]
    clock: Clock

    def __post_init__(self) -> None:
        now = self.clock.monotonic()
        self._silence = Silence(self.patience, now)
        self._lock = Lock()
        self._reported = np.zeros(0, bool)  # since the last check, by series
        self._keys: list[SeriesKey] = []  # admitted series
        self._restored = False
        self._moved = np.zeros(0, bool)
        self._stored: dict[SeriesKey, int] = {}
        self._cadences = Cadence.unknown(0)
        self._since: dict[str | None, int] = {}
        self._checked_at = now
        self._next_save = now + SAVE_SECONDS

    def _restore(self) -> None:
        """Read stored cadences and silences; cadences that cannot be read are learnt again."""
        self._restored = True
        try:
            self._since = dict(self.store.silences().since)
            stored, self._cadences = self.store.cadences()
        except AlertsBroken as error:
            alerts_unwritable(str(error))
            stored, self._cadences = [], Cadence.unknown(0)
        self._stored = {key: row for row, key in enumerate(stored)}
        if STREAM in self._stored:
            self._silence.stream = self._cadences.rows(np.array([self._stored[STREAM]]))

    def observe(self, telemetry: Telemetry) -> None:
        """Take note of the series that reported."""
        with self._lock:
            new = len(telemetry.keys) - len(self._reported)
            if new > 0:
                self._reported = np.pad(self._reported, (0, new))
            self._reported[telemetry.key] = True

    def step(self, _: float) -> float:
        """Publish which devices fell silent and which are back."""
        if not self._restored:
            self._restore()
        now = self.clock.monotonic()
        if now - self._checked_at > SUSPENDED_SECONDS:
            self._silence.listen_anew(now)
        self._checked_at = now
        self._note_reports(now)
        try:
            self._publish(self._silence.look(self._since, now, listening=self.listening()))
            if now >= self._next_save:
                self.save()
        except (AlertsBroken, StateBroken) as error:
            alerts_unwritable(str(error))
        return CHECK_SECONDS

    def save(self) -> None:
        """Store the cadences. Raises AlertsBroken."""
        self._next_save = self.clock.monotonic() + SAVE_SECONDS
        moved = np.flatnonzero(self._moved)
        keys = [self._keys[index] for index in moved.tolist()]
        self.store.keep_cadences(keys, self._silence.series.rows(moved))
        self.store.keep_cadences([STREAM], self._silence.stream)
        self._moved[:] = False

    def _note_reports(self, now: float) -> None:
        with self._lock:
            reported, self._reported = self._reported, np.zeros(len(self._reported), bool)
        self._admit(now)
        indices = np.flatnonzero(reported)
        self._silence.hear(indices, now)
        self._moved[indices] = True

    def _admit(self, now: float) -> None:
        """Admit new series, with their stored cadences."""
        keys = list(self.known[len(self._keys) :])
        if keys:
            cadence = Cadence.unknown(len(keys))
            old = [(i, self._stored[key]) for i, key in enumerate(keys) if key in self._stored]
            if old:
                mine, stored = np.array(old).T
                cadence.put(mine, self._cadences.rows(stored))
            self._silence.admit([key.device_id for key in keys], cadence, now)
            self._keys += keys
            self._moved = np.pad(self._moved, (0, len(keys)))

    def _publish(self, silent: Silent) -> None:
        now, was = self.clock.now(), self._since
        began = {name: now - int(age * 1e6) for name, (age, _) in silent.items() if name not in was}
        events = [
            _event(name, "silent", now, since, silent[name][1]) for name, since in began.items()
        ]
        ended = {name: since for name, since in was.items() if name not in silent}
        reason = "it reports again"
        events += [_event(name, "back", now, since, reason) for name, since in ended.items()]
        if events:
            posts = [(_topic(event.device_id), msgspec.json.encode(event)) for event in events]
            self.enqueue(self.state.post(posts))
            self._since = {name: since for name, since in (was | began).items() if name in silent}
            for event in events:
                silence_changed(event.kind, event.device_id, event.reason)
            self.store.keep_silences(SilenceState(self._since))
        devices = sum(name is not None for name in silent)
        silent_watched(devices, stream=None in silent)


def _topic(device_id: str | None) -> str:
    return SILENCE_TOPIC if device_id is None else f"{SILENCE_TOPIC}/{device_id}"


def _event(device_id: str | None, change: str, now: int, since: int, reason: str) -> SilenceEvent:
    kind = f"{'stream' if device_id is None else 'device'}_{change}"
    event_id, at = deterministic_id("silence", kind, device_id or "", since), rfc3339(now)
    return SilenceEvent(event_id, kind, device_id, at, rfc3339(since), reason=reason)
