"""The ports in memory, with the same promises as the real bodies, for tests and for builders."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, cycle
from queue import Empty, SimpleQueue
from uuid import UUID, uuid4

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core.notification.cadence import Cadence
from insa_anomaly.core.notification.event import Anomaly, Episode
from insa_anomaly.core.notification.routing import DailyBudget, Dispatch, KnownCause
from insa_anomaly.core.reading.reading import Quality, Rejected
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import BrokerAway, ModelFileError, ModelStorageError
from insa_anomaly.ports.alerts import PendingAlert, SilenceState
from insa_anomaly.ports.broker import Delivery, Settled
from insa_anomaly.ports.log import Entry, Swap, received
from insa_anomaly.ports.models import ModelAccuracy, ModelRow
from insa_anomaly.ports.recorder import Page, Telemetry, letter_digest
from insa_anomaly.ports.state import Outgoing


class MemoryReserve:
    """The port `Reserve`, which can be held while there is `room`."""

    def __init__(self) -> None:
        self.held = True
        self.room = True

    def hold(self) -> bool:
        """Hold the space if there is room."""
        self.held = self.held or self.room
        return self.held

    def release(self) -> None:
        """Release the space."""
        self.held = False


class MemoryLog:
    """The port `Log`; survives no restart."""

    def __init__(self) -> None:
        self._id = uuid4()
        self._entries: dict[int, Entry] = {}
        self._last = 0
        self._free = 0

    @property
    def id(self) -> UUID:
        """Identity of this log."""
        return self._id

    @property
    def last(self) -> int:
        """Sequence of the newest entry, 0 for a log that never had any."""
        return self._last

    def append(self, messages: list[tuple[str, bytes]], swaps: list[Swap], now: int) -> Entry:
        """Store an entry."""
        entry = Entry(self._last + 1, received(now, self._free), list(messages), list(swaps))
        self._entries[entry.seq] = entry
        self._last, self._free = entry.seq, entry.received + max(1, len(messages))
        return entry

    def read(self, after: int, most: int) -> list[Entry]:
        """Return entries with seq > after in order, until `most` messages are reached.

        At least a single entry is returned if any exists.
        """
        entries: list[Entry] = []
        for seq in range(max(after, 0) + 1, self._last + 1):
            if seq in self._entries:
                entries.append(self._entries[seq])
                if sum(len(entry.messages) for entry in entries) >= most:
                    break
        return entries

    def drop(self, through: int) -> None:
        """Forget entries with seq <= through."""
        self._entries = {seq: entry for seq, entry in self._entries.items() if seq > through}

    def received(self, after: int) -> int | None:
        """Return when the oldest entry with seq > after was received; None if there is none."""
        return next((entry.received for entry in self.read(after, 1)), None)


class MemoryState:
    """The port `State`; `synced` is the cursor at the last `sync`."""

    def __init__(self) -> None:
        self.synced = 0
        self._lock = threading.Lock()
        self._log_id: UUID | None = None
        self._cursor = 0
        self._results: dict[int, bytes] = {}
        self._outbox: dict[int, Outgoing] = {}
        self._notices: dict[int, Outgoing] = {}
        self._number = 0
        self._checkpoint = 0
        self._states: dict[SeriesKey, bytes] = {}

    def bind(self, log_id: UUID) -> None:
        """Bind the state to this log.

        A state of another log is emptied, except its outgoing events.
        """
        with self._lock:
            if log_id != self._log_id:
                self._log_id, self._cursor, self._checkpoint = log_id, 0, 0
                self._results, self._states = {}, {}

    @property
    def cursor(self) -> int:
        """Sequence of the last entry whose results are committed here."""
        return self._cursor

    def commit(
        self, seq: int, results: bytes | None, events: Sequence[tuple[str, bytes]]
    ) -> list[Outgoing]:
        """Commit the results and events of an entry, and the cursor, all at once.

        `results` None stores no results; an event is (topic, payload).
        """
        with self._lock:
            if results is not None:
                self._results[seq] = results
            self._cursor = seq
            return self._add(events)

    def post(self, events: Sequence[tuple[str, bytes]]) -> list[Outgoing]:
        """Put events that stem from no log entry into the outbox: (topic, payload) of each."""
        with self._lock:
            return self._add(events)

    def _add(self, events: Sequence[tuple[str, bytes]]) -> list[Outgoing]:
        outgoing = [
            Outgoing(self._number + 1 + i, topic, payload)
            for i, (topic, payload) in enumerate(events)
        ]
        for kept in (self._outbox, self._notices):
            kept.update((event.number, event) for event in outgoing)
        self._number += len(outgoing)
        return outgoing

    def results(self, after: int, through: int) -> dict[int, bytes]:
        """Return results by sequence, after < seq <= through."""
        with self._lock:
            return {
                seq: body for seq, body in sorted(self._results.items()) if after < seq <= through
            }

    def forget(self, through: int) -> None:
        """Drop results with seq <= through."""
        with self._lock:
            self._results = {seq: body for seq, body in self._results.items() if seq > through}

    def outgoing(self, after: int, most: int) -> list[Outgoing]:
        """Return unpublished events with number > after, in order."""
        with self._lock:
            return [event for number, event in sorted(self._outbox.items()) if number > after][
                :most
            ]

    def told(self, numbers: Sequence[int]) -> None:
        """Drop events that the broker acknowledged."""
        with self._lock:
            for number in numbers:
                self._outbox.pop(number, None)

    def notices(self, most: int) -> list[Outgoing]:
        """Return the oldest events that the alerts have not taken yet, in order."""
        with self._lock:
            return [event for _, event in sorted(self._notices.items())][:most]

    def noticed(self, through: int) -> None:
        """Drop notices with number <= through, because the alerts have taken them."""
        with self._lock:
            self._notices = {
                number: event for number, event in self._notices.items() if number > through
            }

    def untold(self) -> int:
        """Count the unpublished events."""
        return len(self._outbox)

    def checkpoint(self, seq: int, states: dict[SeriesKey, bytes]) -> None:
        """Store the states of the series that moved."""
        with self._lock:
            self._states.update(states)
            self._checkpoint = seq

    def restore(self) -> tuple[int, dict[SeriesKey, bytes]]:
        """Return the newest checkpoint: its sequence (0: none) and the state of every series."""
        with self._lock:
            return self._checkpoint, dict(self._states)

    def sync(self) -> None:
        """Remember the cursor."""
        self.synced = self._cursor


# --------------------------------------------------------------------------------------- the broker
class MemoryBroker:
    """The port `Broker` without a connection: a test delivers messages and inspects publications.

    `published` holds the accepted messages as (token, topic, payload, retained). `refusing` maps
    topics to the reason of their refusal. With `answering` False, answers wait until `answer` is
    called. `acknowledged` holds the deliveries acknowledged in time.
    """

    def __init__(self, hand_over: Callable[[Delivery], bool] = lambda _: True) -> None:
        self.published: list[tuple[int, str, bytes, bool]] = []
        self.acknowledged: list[Delivery] = []
        self.refusing: dict[str, str] = {}
        self.answering = True
        self.trouble = "not connected yet"
        self.undelivered: str | None = None
        self._hand_over = hand_over
        self._generation = 0
        self._connected = False
        self._tokens = count(1)
        self._mids = cycle(range(1, 65536))
        self._waiting: list[Settled] = []
        self._settled: SimpleQueue[Settled] = SimpleQueue()

    def open(self, patience: float = 0.0) -> bool:
        """Connect."""
        del patience
        if not self._connected:
            self._connected = True
            self._generation += 1
        return True

    def close(self) -> None:
        """End the connection; pending answers are lost."""
        if self._connected:
            self._connected = False
            self._generation += 1
            self._waiting.clear()

    def deliver(self, messages: list[tuple[str, bytes]]) -> Delivery:
        """Deliver messages; without room for them, the connection is made anew."""
        delivery = Delivery(self._generation, messages, [next(self._mids) for _ in messages])
        if not self._hand_over(delivery):
            self.close()
            self.open()
        return delivery

    def answer(self) -> None:
        """Settle the published messages that are not answered yet."""
        while self._waiting:
            self._settled.put(self._waiting.pop(0))

    @property
    def generation(self) -> int:
        """Number of connections and disconnections so far."""
        return self._generation

    @property
    def listening(self) -> bool:
        """True between `open` and `close`."""
        return self._connected

    @property
    def silent_for(self) -> float:
        """Always 0, because there is no thread."""
        return 0.0

    @property
    def connected(self) -> bool:
        """True between `open` and `close`."""
        return self._connected

    def acknowledge(self, *deliveries: Delivery) -> None:
        """Remember the deliveries whose connection still stands."""
        self.acknowledged += [
            one for one in deliveries if self._connected and one.generation == self._generation
        ]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Send, and return a token. Raises BrokerAway."""
        if not self._connected:
            raise BrokerAway
        token = next(self._tokens)
        usable = topic and topic.isprintable() and not set(topic) & {"+", "#"}
        refused = self.refusing.get(topic) or (None if usable else "topic name invalid")
        if refused is None:
            self.published.append((token, topic, payload, retain))
        self._waiting.append(Settled(token, refused))
        if self.answering:
            self.answer()
        return token

    def settled(self, timeout: float) -> list[Settled]:
        """Return the answers since the last call; wait up to `timeout` seconds for the first."""
        answers: list[Settled] = []
        with suppress(Empty):
            answers.append(self._settled.get(block=timeout > 0, timeout=timeout or None))
            while True:
                answers.append(self._settled.get_nowait())
        return answers


@dataclass
class MemoryTables:
    """Rows that a MemoryRecorder wrote, by the keys of PostgreSQL's tables.

    A telemetry row is (value, quality, flags, original).
    """

    telemetry: dict[tuple[SeriesKey, int, int], tuple[float, int, int, str | None]] = field(
        default_factory=dict
    )
    anomalies: dict[str, Anomaly] = field(default_factory=dict)
    episodes: dict[str, Episode] = field(default_factory=dict)
    dead_letters: dict[bytes, tuple[Rejected, int, int]] = field(default_factory=dict)
    models: dict[str, ModelRow] = field(default_factory=dict)
    cursors: dict[UUID, int] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)  # by the id of the episode


class MemoryRecorder:
    """The port `Recorder`; while `trouble` is set, every call raises it and records no row."""

    def __init__(self, tables: MemoryTables | None = None) -> None:
        self.tables = tables or MemoryTables()
        self.trouble: Exception | None = None

    def cursor(self, log_id: UUID) -> int:
        """Return the sequence recorded for this log, 0 for none."""
        self._answer()
        return self.tables.cursors.get(log_id, 0)

    def record(self, page: Page) -> None:
        """Record the page and its cursor; repetition changes no row."""
        self._answer()
        late = [
            anomaly
            for row, anomaly in page.late
            if _place(page.telemetry, row) not in self.tables.telemetry
        ]
        self._record_telemetry(page.telemetry)
        for anomaly in [*page.anomalies, *late]:
            self.tables.anomalies.setdefault(anomaly.id, anomaly)
        for episode in page.episodes:
            known = self.tables.episodes.setdefault(episode.id, episode)
            self.tables.episodes[episode.id] = max(known, episode, key=_progress)
        for rejected in page.rejected:
            self._record_letter(rejected)
        for row in page.models:
            self._record_model(row)
        self.tables.cursors[page.log_id] = max(page.seq, self.tables.cursors.get(page.log_id, 0))

    def _answer(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    def _record_telemetry(self, telemetry: Telemetry) -> None:
        places = zip(
            telemetry.key.tolist(),
            telemetry.timestamp.tolist(),
            telemetry.discriminator.tolist(),
            strict=True,
        )
        values = zip(
            telemetry.value.tolist(),
            telemetry.quality.tolist(),
            telemetry.flags.tolist(),
            strict=True,
        )
        for row, ((key, time, discriminator), (value, quality, flags)) in enumerate(
            zip(places, values, strict=True)
        ):
            place = (telemetry.keys[key], time, discriminator)
            self.tables.telemetry.setdefault(
                place, (value, quality, flags, telemetry.original.get(row))
            )

    def _record_letter(self, rejected: Rejected) -> None:
        digest, received = letter_digest(rejected.raw), rejected.raw.received
        first, times, last = self.tables.dead_letters.get(digest, (rejected, 0, received - 1))
        if received > last:
            self.tables.dead_letters[digest] = first, times + 1, received

    def _record_model(self, row: ModelRow) -> None:
        models = self.tables.models
        if row.status == "active":
            for other in list(models.values()):
                if (other.device_id, other.metric_name, other.status) == (
                    row.device_id,
                    row.metric_name,
                    "active",
                ):
                    models[other.id] = msgspec.structs.replace(other, status="archived")
        models[row.id] = row


def _place(telemetry: Telemetry, row: int) -> tuple[SeriesKey, int, int]:
    return (
        telemetry.keys[int(telemetry.key[row])],
        int(telemetry.timestamp[row]),
        int(telemetry.discriminator[row]),
    )


def _progress(episode: Episode) -> tuple[bool, int, int]:
    return episode.closed_at is not None, episode.updated_at, episode.readings


class MemoryHistory:
    """The port `History`, over the tables of a MemoryRecorder."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def series(self) -> list[SeriesKey]:
        """Return every series with readings, by name."""
        return sorted({key for key, _, _ in self._tables.telemetry})

    def readings(
        self, key: SeriesKey, since: int, most: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return times and values of good readings from `since` on, in time order.

        Only the newest `most` are returned.
        """
        good = sorted(
            (time, discriminator, row[0])
            for (series, time, discriminator), row in self._tables.telemetry.items()
            if series == key and time >= since and row[1] == Quality.GOOD
        )[-most:]
        return np.array([time for time, _, _ in good], np.int64), np.array(
            [value for _, _, value in good], np.float64
        )

    def anomalous(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of anomalous readings from `since` on; no episode is dismissed here."""
        return np.array([one.timestamp for one in self._anomalies(key, since)], np.int64)

    def in_episodes(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of anomalous readings that belong to an episode."""
        return np.array(
            [one.timestamp for one in self._anomalies(key, since) if one.episode_id is not None],
            np.int64,
        )

    def confirmed(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of readings in episodes that an operator confirmed to be a fault."""
        verdicts = self._tables.verdicts
        return np.array(
            [
                one.timestamp
                for one in self._anomalies(key, since)
                if verdicts.get(one.episode_id or "") == "confirmed"
            ],
            np.int64,
        )

    def _anomalies(self, key: SeriesKey, since: int) -> Iterator[Anomaly]:
        found = self._tables.anomalies.values()
        return (
            one
            for one in found
            if (one.device_id, one.metric_name) == key and one.timestamp >= since
        )


# --------------------------------------------------------------------------------------- the models
class MemoryModels:
    """The port `Models`.

    `lost` holds ids of models whose scorers cannot be loaded; with `away`, no scorer can be loaded
    for now.
    """

    def __init__(self) -> None:
        self.away = False
        self.lost: set[str] = set()
        self._rows: dict[str, ModelRow] = {}
        self._scorers: dict[str, bytes] = {}
        self._revision = 0

    def put(self, row: ModelRow, scorer: bytes) -> None:
        """Store a model; an active model replaces the active model of its series."""
        for other in list(self._rows.values()):
            if row.status == other.status == "active" and row.key == other.key:
                self._rows[other.id] = msgspec.structs.replace(other, status="archived")
        self._rows[row.id], self._scorers[row.id] = row, scorer
        self._revision += 1

    @property
    def revision(self) -> object:
        """A value that is new after every change of the index."""
        return self._revision

    def active(self) -> dict[SeriesKey, str]:
        """Return the id of the active model, of every series that has an active model."""
        return {row.key: row.id for row in self._rows.values() if row.status == "active"}

    def thresholds(self) -> dict[str, float]:
        """Return the thresholds that were set by hand, by the id of the active model."""
        rows = [row for row in self._rows.values() if row.status == "active"]
        return {row.id: row.set_threshold for row in rows if row.set_threshold is not None}

    def figures(self) -> list[ModelAccuracy]:
        """Return the assessment of every active model, in the order of their series."""
        rows = [row for row in self._rows.values() if row.status == "active"]
        return sorted(
            ModelAccuracy(row.device_id, row.metric_name, row.accuracy, row.false_positive_rate)
            for row in rows
        )

    def shadows(self) -> dict[SeriesKey, str]:
        """Return the id of the shadow, of every series that has a shadow."""
        return {row.key: row.id for row in self._rows.values() if row.status == "shadow"}

    def disabled(self) -> set[SeriesKey]:
        """Return series with a disabled model and no active model."""
        without = {row.key for row in self._rows.values() if row.status == "disabled"}
        return without - self.active().keys()

    def rows(self) -> list[ModelRow]:
        """Return every model, newest first."""
        return sorted(
            self._rows.values(), key=lambda row: (row.trained_at, row.version), reverse=True
        )

    def of_series(self, key: SeriesKey) -> list[ModelRow]:
        """Return the models of a series, newest first."""
        return sorted(
            (row for row in self._rows.values() if row.key == key), key=lambda row: -row.version
        )

    def row(self, model_id: str) -> ModelRow:
        """Return a model. Raises ModelFileError."""
        if model_id not in self._rows:
            raise ModelFileError(f"there is no model {model_id}")
        return self._rows[model_id]

    def scorer(self, model_id: str) -> bytes:
        """Return the scorer file. Raises ModelFileError, or ModelStorageError with `away`."""
        self.row(model_id)
        if self.away:
            raise ModelStorageError
        if model_id in self.lost:
            raise ModelFileError(f"the scorer of model {model_id} cannot be read")
        return self._scorers[model_id]

    def fall_back(self, model_id: str, reason: str) -> ModelRow | None:
        """Set this model aside as failed, and let the newest earlier version serve.

        Returns the row of the earlier version, or None. Raises ModelFileError.
        """
        row = self.row(model_id)
        key = row.key
        others = [
            one
            for one in self._rows.values()
            if (one.device_id, one.metric_name, one.status) == (*key, "archived")
        ]
        earlier = max(
            (one for one in others if one.version < row.version),
            key=lambda one: one.version,
            default=None,
        )
        self._rows[model_id] = msgspec.structs.replace(row, status="failed", reason=reason)
        self._revision += 1
        if earlier is None or row.status != "active":
            return None
        self._rows[earlier.id] = msgspec.structs.replace(
            earlier, status="active", reason=f"version {row.version} failed"
        )
        return self._rows[earlier.id]


# --------------------------------------------------------------------------------------- the alerts
class MemoryAlerts:
    """The port `AlertStore`; `dead` holds the dead letters with their reasons."""

    def __init__(self) -> None:
        self.dead: list[tuple[PendingAlert, str]] = []
        self._lock = threading.Lock()
        self._recent: set[str] = set()
        self._known: dict[tuple[str, str], KnownCause] = {}
        self._accounts: dict[str, DailyBudget] = {}
        self._waiting: dict[int, tuple[int, PendingAlert]] = {}  # by number: due time, alert
        self._numbers = count(1)
        self._cadences: dict[SeriesKey, Cadence] = {}
        self._silences = SilenceState()

    def recent(self) -> set[str]:
        """Return the event ids of the last decision."""
        return set(self._recent)

    def known(self, causes: Sequence[str]) -> dict[tuple[str, str], KnownCause]:
        """Return the state of these causes at every target, by (target, cause)."""
        return {key: known for key, known in self._known.items() if key[1] in set(causes)}

    def accounts(self) -> dict[str, DailyBudget]:
        """Return today's account of every target."""
        return dict(self._accounts)

    def keep(self, dispatch: Dispatch, event_ids: Sequence[str], now: int) -> None:
        """Store the whole dispatch at once."""
        with self._lock:
            for target, alert in dispatch.sent:
                number = next(self._numbers)
                self._waiting[number] = 0, PendingAlert(number, target, alert, now)
            for key, known in dispatch.known.items():
                self._known.pop(key, None)
                if known is not None:
                    self._known[key] = known
            self._accounts |= dispatch.accounts
            self._recent = set(event_ids) or self._recent

    def next(self, target: str, now: int) -> PendingAlert | None:
        """Return the alert that is due first, if any; alerts of the same cause keep their order."""
        with self._lock:
            first: dict[str, tuple[int, PendingAlert]] = {}
            for at, one in self._waiting.values():
                if one.target == target:
                    first.setdefault(one.alert.cause, (at, one))
            due = [(at, one.number, one) for at, one in first.values() if at <= now]
            return min(due, key=lambda one: one[:2])[2] if due else None

    def done(self, one: PendingAlert) -> None:
        """Record that the alert was delivered."""
        with self._lock:
            self._waiting.pop(one.number, None)

    def postpone(self, one: PendingAlert, due: int) -> None:
        """Record a failed attempt; the next attempt is at `due`."""
        with self._lock:
            known = self._waiting[one.number][1]
            self._waiting[one.number] = (
                due,
                msgspec.structs.replace(known, attempts=known.attempts + 1),
            )

    def hasten(self, target: str) -> None:
        """Make all alerts of a target due, because the target answers again."""
        with self._lock:
            self._waiting = {
                number: (0 if one.target == target else at, one)
                for number, (at, one) in self._waiting.items()
            }

    def give_up(self, one: PendingAlert, reason: str, now: int) -> None:
        """Give up an alert, which becomes a dead letter."""
        del now
        self.done(one)
        self.dead.append((one, reason))

    def backlog(self) -> dict[str, int]:
        """Count the alerts that wait for each target."""
        with self._lock:
            return dict(Counter(one.target for _, one in self._waiting.values()))

    def forget(self, now: int) -> None:
        """Keep everything, because no entry grows old here."""

    def cadences(self) -> tuple[list[SeriesKey], Cadence]:
        """Return how often series report."""
        rows = list(self._cadences.values())
        columns = (
            [float(getattr(row, name)[0]) for row in rows] for name in ("longest", "pauses", "span")
        )
        return list(self._cadences), Cadence(*map(np.array, columns))

    def keep_cadences(self, keys: Sequence[SeriesKey], cadence: Cadence) -> None:
        """Store how often these series report, a row each."""
        self._cadences |= {key: cadence.rows(np.array([row])) for row, key in enumerate(keys)}

    def silences(self) -> SilenceState:
        """Return the silences stored last."""
        return self._silences

    def keep_silences(self, silences: SilenceState) -> None:
        """Store the current silences."""
        self._silences = silences


# --------------------------------------------------------------------------------- the latest state
class MemoryLatest:
    """The port `Latest`; `shown` and `serving` hold the current values."""

    def __init__(self) -> None:
        self.shown: dict[SeriesKey, bytes] = {}
        self.serving: dict[SeriesKey, str] = {}

    def show(self, results: dict[SeriesKey, bytes]) -> None:
        """Replace the results of these series."""
        self.shown.update(results)

    def serve(self, models: dict[SeriesKey, str]) -> None:
        """Replace the models of these series."""
        self.serving.update(models)


class MemoryCache:
    """The port `Cache`, in which values never expire; `kept` holds them."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        """Return the stored value."""
        return self.kept.get(name)

    def put(self, name: str, value: bytes, seconds: int) -> None:
        """Store a value."""
        del seconds
        self.kept[name] = value
