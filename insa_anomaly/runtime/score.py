"""The score reader: batches of the log in, results and events into the state.

Each batch is a transaction. Every result is a function of the log, so after a crash the reader
starts at the newest checkpoint and reads the same entries again; results before its cursor were
committed then and are not written again.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from heapq import merge
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from insa_anomaly.core.device.detector import DeviceModel
from insa_anomaly.core.notification.event import NO_MODEL, Anomaly, Event, event_of
from insa_anomaly.core.reading.parser import SECOND
from insa_anomaly.core.reading.reading import Flag
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.reading.topics import Acceptance
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.series.detector import Model, Results
from insa_anomaly.core.units import Ints
from insa_anomaly.errors import ModelFileError, ModelStorageError, StateUnwritable
from insa_anomaly.instrumentation import scoring
from insa_anomaly.instrumentation.models import model_fell_back, model_unusable
from insa_anomaly.instrumentation.storage import state_unwritable, states_restored
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.log import CLOCK_SLACK, Swap
from insa_anomaly.ports.models import ModelIndex
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.runtime.detections import (
    Detection,
    Detections,
    Late,
    ScoredReading,
    anomaly,
    detection,
    noteworthy,
)
from insa_anomaly.runtime.feed import Batch, Feed, joined
from insa_anomaly.runtime.fleet.devices import DeviceOutcome
from insa_anomaly.runtime.fleet.fleet import Fleet, due
from insa_anomaly.runtime.step import Step

MOST_READINGS = 2000
ANOMALY_TOPIC = "insa/iiot/ml/anomaly/"
_HISTORICAL = int(Flag.HISTORICAL)


class Audience(Protocol):
    """Recipients of scored batches."""

    def on_events(self, outgoing: list[Outgoing], came: float | None) -> None:
        """Receive new events of the outbox; `came` is the oldest message's receipt, monotonic."""

    def on_results(self, telemetry: Telemetry, results: Results) -> None:
        """Receive a scored batch."""

    def on_due(self, keys: list[SeriesKey]) -> None:
        """Receive series that are due for training."""


@dataclass(frozen=True)
class Scored:
    """Results of a group of batches, before and until they are committed."""

    group: list[Batch]
    telemetry: Telemetry
    seconds: float
    results: Results | None = None  # None without readings
    findings: Detections = field(default_factory=lambda: Detections([], []))
    told: list[Event] = field(default_factory=list)
    due: list[SeriesKey] = field(default_factory=list)


class _Advanced(NamedTuple):
    """Readings with their results, and the outcome of their devices."""

    telemetry: Telemetry
    results: Results
    devices: DeviceOutcome


@dataclass(eq=False)
class ScoreReader(Step):
    """The score reader.

    While the disk does not take its results, the reader waits with them: the windows have moved, so
    no reading is scored twice.
    """

    feed: Feed
    state: State
    fleet: Fleet
    models: ModelIndex
    audience: Audience
    _: KW_ONLY
    clock: Clock
    checkpoint_seconds: float = 10.0
    max_ahead: float = Acceptance.max_ahead  # seconds

    def __post_init__(self) -> None:
        self._ahead = int(self.max_ahead * SECOND) + 2 * CLOCK_SLACK  # microseconds
        self._reached = 0
        self._groups: deque[list[Batch]] = deque()  # read, and not scored yet
        self._waiting: Scored | None = None  # scored, and not committed yet
        self.writable = True
        self._next_checkpoint = self.clock.monotonic() + self.checkpoint_seconds
        self.checkpoint = 0  # sequence up to which the states are kept

    # Start
    def restore(self) -> None:
        """Take the newest checkpoint and advance again to the cursor, writing no result."""
        self.checkpoint, kept = self.state.restore()
        for key, model_id, threshold, shadow in self.fleet.restore(kept):
            self._swap(Swap(*key, model_id, threshold))
            if shadow is not None:
                self.fleet.shadow(key, self._loaded(key, shadow.model_id), shadow)
        again = self._again(self.state.cursor)
        states_restored(len(kept), self.checkpoint, again)

    def adopt_active_models(self) -> None:
        """Give every series its active model, before `restore`: for states that were lost."""
        thresholds, shadows = self.models.thresholds(), self.models.shadows()
        for key, model_id in self.models.active().items():
            self._swap(Swap(*key, model_id, thresholds.get(model_id), shadows.get(key)))
        self.state.checkpoint(0, self.fleet.moved())

    def _again(self, cursor: int) -> int:
        self._reached = self.checkpoint
        entries = 0
        while batches := self.feed.read(self._reached, MOST_READINGS, cursor):
            for batch in batches:
                for swap in batch.swaps:
                    self._swap(swap)
                if len(batch):
                    self._advance(batch.telemetry, batch.received)
            self._reached = batches[-1].seq
            entries += len(batches)
        self._reached = max(self._reached, cursor)
        return entries

    # Run
    def step(self, timeout_s: float) -> float:
        """Score the waiting batches; wait up to `timeout_s` seconds for some."""
        if not self._groups and self._waiting is None and self.feed.wait(self._reached, timeout_s):
            last = self.feed.last
            batches = self.feed.read(self._reached, MOST_READINGS)
            self._groups.extend(_groups(batches))
            if not batches:  # the log dropped what came before a state that is now lost
                self._reached = last
        try:
            self._finish()
            if self.clock.monotonic() >= self._next_checkpoint:
                self.write_checkpoint()
        except StateUnwritable as error:
            if self.writable:
                state_unwritable(str(error))
            self.writable = False
            return timeout_s
        return 0.0

    def drain(self) -> None:
        """Score all waiting batches and store the states, unless the disk refuses."""
        while self._reached < self.feed.last:
            self.step(0.0)
            if not self.writable:
                return
        with suppress(StateUnwritable):  # the next start computes them again
            self.write_checkpoint()

    def _finish(self) -> None:
        """Score and commit the batches that were read."""
        while self._waiting is not None or self._groups:
            if self._waiting is None:
                self._waiting = self._score(self._groups.popleft())
            self._commit(self._waiting)
            self._waiting = None

    def write_checkpoint(self) -> None:
        """Store the states of the series that moved."""
        moved = self.fleet.moved()
        try:
            self.state.checkpoint(self._reached, moved)
        except StateUnwritable:
            self.fleet.not_kept(moved)
            raise
        self.checkpoint, self.writable = self._reached, True
        self._next_checkpoint = self.clock.monotonic() + self.checkpoint_seconds
        scoring.series_known(self.fleet.series, int(self.fleet.with_model.sum()))

    def _score(self, group: list[Batch]) -> Scored:
        began = self.clock.monotonic()
        for swap in group[0].swaps:
            self._swap(swap)
        telemetry = joined(group)
        if not len(telemetry.value):
            return Scored(group, telemetry, self.clock.monotonic() - began)
        received = np.concatenate([batch.received for batch in group])
        advanced = self._advance(telemetry, received)
        findings, told = self._find(advanced)
        findings.late.extend(self._late(advanced, received))
        results, outcome = advanced.results, advanced.devices
        wanted = [telemetry.keys[index] for index in due(results, telemetry)] + outcome.due
        seconds = self.clock.monotonic() - began
        return Scored(group, telemetry, seconds, results, findings, told=told, due=wanted)

    def _commit(self, scored: Scored) -> None:
        events = [(ANOMALY_TOPIC + one.device_id, msgspec.json.encode(one)) for one in scored.told]
        outgoing = self.state.commit(scored.group[-1].seq, scored.findings.to_bytes(), events)
        self._reached = scored.group[-1].seq
        self.writable = True
        came = self.feed.arrived_at(scored.group[0].seq)
        if outgoing:
            self.audience.on_events(outgoing, came)
            for one in scored.told:
                scoring.episode_changed(one)
        if scored.results is not None:
            self.audience.on_results(scored.telemetry, scored.results)
            self.audience.on_due(scored.due)
        self._count(scored, came)

    def _count(self, scored: Scored, came: float | None) -> None:
        readings = len(scored.telemetry.value)
        since = self.clock.monotonic() - came if came is not None and readings else None
        scoring.readings_scored(readings, len(scored.findings.anomalies), scored.seconds, since)
        for rejected in (one for batch in scored.group for one in batch.rejected):
            scoring.message_rejected(rejected.reason, rejected.detail, rejected.raw.topic)

    def _advance(self, telemetry: Telemetry, received: Ints) -> _Advanced:
        """Move all states, devices first: a metric opens no episode while its device has one.

        No reading far ahead of its receipt is taken, so a window ahead of this batch was filled
        under a wrong clock.
        """
        self.fleet.turn_back(telemetry.key, int(received[-1]) + self._ahead)
        outcome = self.fleet.devices.advance(telemetry)
        results = self.fleet.advance(telemetry, outcome.episodes > 0)
        return _Advanced(telemetry, results, outcome)

    # Findings
    def _find(self, advanced: _Advanced) -> tuple[Detections, list[Event]]:
        """Return every anomaly, every changed episode, and an event for each change.

        Detections of a device come after those of the reading that completed its row.
        """
        found, events = Detections([], []), []
        of_devices = sorted(advanced.devices.findings(), key=_place)
        for one in merge(self._of_readings(advanced), of_devices, key=_place):
            if one.anomalous:
                found.anomalies.append(one.reading)
            if one.episode is not None:
                found.episodes.append(one.episode)
                events.append(event_of(one.transition, one.reading, one.episode))
        return found, events

    def _of_readings(self, advanced: _Advanced) -> Iterator[Detection]:
        """Yield detections of readings that moved a window; see `_late` for the others."""
        for i in noteworthy(advanced.results):
            yield detection(i, self._anomaly(advanced, i), advanced.results, i)

    def _late(self, advanced: _Advanced, received: Ints) -> list[Late]:
        """Return anomalous readings older than their window.

        Of a redelivered reading, the score against a later window must not replace the first
        result; only the record reader can tell a redelivery, and decides.
        """
        telemetry, results, _ = advanced
        found = np.flatnonzero((results.score < 0) & (results.status == Status.LATE)).tolist()
        told_apart = telemetry.discriminator
        return [
            Late(self._anomaly(advanced, i), int(told_apart[i]), int(received[i])) for i in found
        ]

    def _anomaly(self, advanced: _Advanced, i: int) -> Anomaly:
        telemetry, results, outcome = advanced
        index = int(telemetry.key[i])
        reading = ScoredReading(
            telemetry.keys[index],
            int(telemetry.timestamp[i]),
            int(telemetry.discriminator[i]),
            float(telemetry.value[i]),
            historical=bool(telemetry.flags[i] & _HISTORICAL),
            model=self.fleet.model.get(index, (NO_MODEL, 0)),
        )
        reasons = self.fleet.reasons(index, results, i) if results.score[i] < 0 else []
        return anomaly(reading, results, i, reasons, device_episode=int(outcome.episodes[i]))

    # Models
    def _swap(self, swap: Swap) -> None:
        """Serve with the model of the swap; with none if it cannot be loaded or has no room."""
        try:
            self.fleet.swap(swap.key, self._loaded(swap.key, swap.model_id), swap.threshold)
        except ValueError as error:  # more trees than the configuration makes room for
            model_unusable(*swap.key, swap.model_id or "", str(error))
            self.fleet.swap(swap.key, None)
        self._swap_shadow(swap.key, swap.shadow_id)

    def _swap_shadow(self, key: SeriesKey, model_id: str | None) -> None:
        """Replace the shadow; the running comparison of the same shadow model continues."""
        if model_id == self.fleet.shadows.model_of(self.fleet.registry.index_of(key)):
            return
        try:
            self.fleet.shadow(key, self._loaded(key, model_id))
        except ValueError as error:
            model_unusable(*key, model_id or "", str(error))
            self.fleet.shadow(key, None)

    def _fall_back(self, key: SeriesKey, model_id: str, reason: str) -> None:
        """Put the index back by a version; the trainer then writes the swap into the log."""
        try:
            earlier = self.models.fall_back(model_id, reason)
        except ModelFileError:
            return  # the index does not know it, or cannot be written: the series stays without
        model_fell_back(*key, model_id, None if earlier is None else earlier.id)

    def _loaded(self, key: SeriesKey, model_id: str | None) -> Model | DeviceModel | None:
        from_bytes = DeviceModel.from_bytes if key.is_device else Model.from_bytes
        try:
            return None if model_id is None else from_bytes(self.models.scorer(model_id))
        except ModelFileError as error:
            model_unusable(*key, model_id or "", str(error))
            if not isinstance(error, ModelStorageError):
                self._fall_back(key, model_id or "", str(error))
            return None


def _place(one: Detection) -> int:
    return one.at


def _groups(batches: list[Batch]) -> list[list[Batch]]:
    """Group batches to score together; a swap or a clock moved back begins a new group."""
    groups: list[list[Batch]] = []
    newest = 0
    for batch in batches:
        came = int(batch.received[0]) if len(batch) else newest
        if batch.swaps or not groups or came < newest:
            groups.append([])
        groups[-1].append(batch)
        newest = int(batch.received[-1]) if len(batch) else newest
    return groups
