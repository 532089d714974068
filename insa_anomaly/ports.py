"""Ports: small Protocols for everything that the daemon needs from outside.

Each port has a real body in `adapters` and an in-memory body in `testing`; a single suite in
`tests/contracts` holds both. Times are integer microseconds since the Unix epoch (`int`), unless a
name says otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

import msgspec
import numpy as np
import numpy.typing as npt

from insa_anomaly.core.notification.alert import Alert
from insa_anomaly.core.notification.cadence import Cadence
from insa_anomaly.core.notification.event import Anomaly, Episode
from insa_anomaly.core.notification.routing import DailyBudget, Dispatch, KnownCause
from insa_anomaly.core.operations.model_health import Decision
from insa_anomaly.core.reading.reading import Raw, Rejected
from insa_anomaly.core.reading.series_key import SeriesKey


# ------------------------------------------------------------------------------------------ the log
class Swap(msgspec.Struct, frozen=True, array_like=True):
    """A change of a series' model at this place in the log; `model_id` None removes the model.

    `threshold` was set by hand; if None, the model's own threshold counts. `shadow_id` is a second
    version that scores along and opens no episode.
    """

    device_id: str
    metric_name: str
    model_id: str | None
    threshold: float | None = None
    shadow_id: str | None = None

    @property
    def key(self) -> SeriesKey:
        """Key of the series or device."""
        return SeriesKey(self.device_id, self.metric_name)


CLOCK_SLACK = 10_000_000  # microseconds


def received(now: int, free: int) -> int:
    """Return the time of receipt of a log entry; `free` is the first time that is not used yet.

    Times are unique in a log. If the clock is set back by at most `CLOCK_SLACK`, entries continue
    at `free`. A clock that is set back further was wrong before, perhaps by a year, so the new time
    is believed.
    """
    return now if now < free - CLOCK_SLACK else max(now, free)


class Entry(msgspec.Struct, frozen=True):
    """A group commit of the log.

    Message i was received at `received + i`, which is unique in the log (see `received`).
    """

    seq: int
    received: int
    messages: list[tuple[str, bytes]]
    swaps: list[Swap]


class Log(Protocol):
    """The durable record of all received messages. A single thread appends; any thread may read."""

    @property
    def id(self) -> UUID:
        """Identity of this log.

        A new file is a new log, in which cursors of the old log are invalid.
        """

    @property
    def last(self) -> int:
        """Sequence of the newest entry; survives `drop` and a restart.

        A log that never had an entry returns 0.
        """

    def append(self, messages: list[tuple[str, bytes]], swaps: list[Swap], now: int) -> Entry:
        """Write an entry durably. Raises LogBroken: the entry was not written."""

    def read(self, after: int, most: int) -> list[Entry]:
        """Return entries with seq > after in order, until `most` messages are reached.

        At least a single entry is returned if any exists.
        """

    def drop(self, through: int) -> None:
        """Forget entries with seq <= through."""

    def received(self, after: int) -> int | None:
        """Return when the oldest entry with seq > after was received; None if there is none."""


class Reserve(Protocol):
    """Disk space held back for a full disk. Any thread may call; no call raises."""

    @property
    def held(self) -> bool:
        """Whether the space is held."""

    def hold(self) -> bool:
        """Hold the space if the disk has enough of it; return whether the space is held."""

    def release(self) -> None:
        """Release the space, because the disk is full."""


# ---------------------------------------------------------------------------------------- the state
class Outgoing(msgspec.Struct, frozen=True, array_like=True):
    """An event that waits to be published; `number` orders the outbox and is never used twice."""

    number: int
    topic: str
    payload: bytes


class State(Protocol):
    """The score reader's state: series states, unrecorded results, unpublished events.

    Any thread may call.
    """

    def bind(self, log_id: UUID) -> None:
        """Bind the state to this log.

        A state of another log is emptied, except its outgoing events.
        """

    @property
    def cursor(self) -> int:
        """Sequence of the last entry whose results are committed here."""

    def commit(
        self, seq: int, results: bytes | None, events: Sequence[tuple[str, bytes]]
    ) -> list[Outgoing]:
        """Commit the results and events of an entry, and the cursor, in a single transaction.

        `results` None stores no results; an event is (topic, payload).
        """

    def post(self, events: Sequence[tuple[str, bytes]]) -> list[Outgoing]:
        """Put events that stem from no log entry into the outbox: (topic, payload) of each."""

    def results(self, after: int, through: int) -> dict[int, bytes]:
        """Return results by sequence, after < seq <= through."""

    def forget(self, through: int) -> None:
        """Drop results with seq <= through, because they are recorded."""

    def outgoing(self, after: int, most: int) -> list[Outgoing]:
        """Return unpublished events with number > after, in order."""

    def told(self, numbers: Sequence[int]) -> None:
        """Drop events that the broker acknowledged."""

    def notices(self, most: int) -> list[Outgoing]:
        """Return the oldest events that the alerts have not taken yet, in order.

        Notices are stored apart from the outbox, so that MQTT does not affect them.
        """

    def noticed(self, through: int) -> None:
        """Drop notices with number <= through, because the alerts have taken them."""

    def untold(self) -> int:
        """Count the unpublished events."""

    def checkpoint(self, seq: int, states: dict[SeriesKey, bytes]) -> None:
        """Store the states of the series that moved; all stored states are then as of `seq`."""

    def restore(self) -> tuple[int, dict[SeriesKey, bytes]]:
        """Return the newest checkpoint: its sequence (0: none) and the state of every series."""

    def sync(self) -> None:
        """Put the whole state on disk, so that the log may drop the entries behind it."""


# --------------------------------------------------------------------------------------- the broker
class Delivery(msgspec.Struct, frozen=True):
    """Messages that arrived together.

    `mids` are their packet ids, 0 for a message without acknowledgement.
    """

    generation: int
    messages: list[tuple[str, bytes]]
    mids: list[int]


class Settled(msgspec.Struct, frozen=True):
    """The broker's answer to a publish: accepted, or refused with its reason."""

    token: int
    refused: str | None


class Publisher(Protocol):
    """The sending side of a broker connection.

    A token is valid for a single connection: when `generation` changes, unsettled events must be
    sent again.
    """

    @property
    def generation(self) -> int:
        """Number of connections and disconnections so far."""

    @property
    def connected(self) -> bool:
        """True between a granted connection and its end."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Send at QoS 1, and return a token. Raises BrokerAway."""

    def settled(self, timeout: float) -> list[Settled]:
        """Return the answers since the last call; wait up to `timeout` seconds for the first."""


class Broker(Publisher, Protocol):
    """The daemon's connection to the broker: deliveries in, acknowledgements and events out.

    Deliveries go to the callback that the broker was built with.
    """

    def acknowledge(self, *deliveries: Delivery) -> None:
        """Send PUBACK for deliveries of the current connection.

        Deliveries of an earlier connection are skipped, because the broker will deliver them again.
        """


# ------------------------------------------------------------------------------------- the database
@dataclass(frozen=True)
class Telemetry:
    """Readings as columns, n long; row i belongs to `keys[key[i]]`."""

    keys: Sequence[SeriesKey]
    key: npt.NDArray[np.int32]
    timestamp: npt.NDArray[np.int64]
    discriminator: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.int16]
    flags: npt.NDArray[np.int16]
    # by row: the timestamp as sent, where it was not accepted
    original: dict[int, str] = field(default_factory=dict)


class ModelRow(msgspec.Struct, frozen=True):
    """A trained model as the index and `ml_models` store it."""

    id: str
    device_id: str
    metric_name: str
    version: int
    status: str
    model_path: str
    trained_at: int
    training_samples: int
    threshold: float
    parameters: dict[str, float | int | str | bool | None]
    figures: dict[str, float | int | str | dict[str, float] | None]
    sha256: str
    accuracy: float | None = None
    false_positive_rate: float | None = None
    reason: str = ""
    set_threshold: float | None = None  # by hand; then `threshold` is the same

    @property
    def key(self) -> SeriesKey:
        """Key of the series or device."""
        return SeriesKey(self.device_id, self.metric_name)


@dataclass(frozen=True)
class Page:
    """The content of a recording transaction, and the place in the log it reaches."""

    log_id: UUID
    seq: int
    telemetry: Telemetry
    anomalies: Sequence[Anomaly] = ()
    episodes: Sequence[Episode] = ()
    rejected: Sequence[Rejected] = ()
    models: Sequence[ModelRow] = ()
    # (row, anomaly): counted only if the reading, with this row of `telemetry`, is not recorded yet
    late: Sequence[tuple[int, Anomaly]] = ()


def letter_digest(raw: Raw) -> bytes:
    """Return a dead letter's identity: SHA-256 of its topic, a zero byte and its payload."""
    return sha256(raw.topic.encode(errors="backslashreplace") + b"\0" + raw.payload).digest()


class Recorder(Protocol):
    """The database as the record reader sees it. Every call has a deadline."""

    def cursor(self, log_id: UUID) -> int:
        """Return the sequence recorded for this log, 0 for none. Raises DatabaseAway."""

    def record(self, page: Page) -> None:
        """Record the page and its cursor in a single transaction; repetition changes no row.

        Raises DatabaseAway or DatabaseRefused; the latter is RowsRefused if the values of a row are
        refused.
        """


class History(Protocol):
    """Recorded readings, for training."""

    def series(self) -> list[SeriesKey]:
        """Return every series with readings."""

    def readings(
        self, key: SeriesKey, since: int, most: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return times and values of good readings from `since` on, in time order.

        Only the newest `most` are returned. Readings of confirmed faults are left out.
        """

    def anomalous(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of anomalous readings from `since` on, except in dismissed episodes."""

    def in_episodes(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of anomalous readings in episodes, except in dismissed episodes."""

    def confirmed(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Return times of readings in episodes that an operator confirmed to be a fault."""


class Job(msgspec.Struct, frozen=True):
    """A requested training. Times are in microseconds.

    `champion_id` is the model that a retraining is compared with. The job of a fleet has a pattern
    as its `device_id`, and its progress in `outcome`.
    """

    id: str
    kind: Literal["train", "retrain", "fleet"]
    device_id: str
    metric_name: str
    window_days: float | None
    champion_id: str | None
    requested_by: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: int  # percent
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    model_id: str | None = None
    seconds: float | None = None
    outcome: dict[str, float | int | str | bool | None] = {}
    reason: str = ""


# ------------------------------------------------------------------------------------- the findings
@dataclass(frozen=True)
class Filter:
    """Filter of anomalies or episodes; None admits any value.

    `since` <= time < `until` holds for the reading, or for the reading that opened the episode.
    """

    device_id: str | None = None
    metric_name: str | None = None
    model_id: str | None = None
    episode_id: str | None = None
    since: int | None = None
    until: int | None = None
    least_confidence: float | None = None
    open: bool | None = None  # for episodes only


class PageCursor(NamedTuple):
    """End of a page: the next page holds older rows."""

    time: int
    id: str


class Feedback(msgspec.Struct, frozen=True):
    """An operator's verdict on an episode."""

    verdict: Literal["confirmed", "dismissed"]
    note: str
    given_by: str
    given_at: int


class AnomalyCounts(msgspec.Struct, frozen=True):
    """A model's findings in a span, and the operators' verdicts on all its episodes."""

    anomalies: int
    episodes: int
    confirmed: int
    dismissed: int


# --------------------------------------------------------------------------------- the health check
class ScoringCounts(msgspec.Struct, frozen=True):
    """Counts over a while: readings and anomalies of every series, and batches.

    `slow` counts the slow ones among the batches.
    """

    keys: Sequence[SeriesKey]
    readings: Sequence[int]
    anomalies: Sequence[int]
    batches: int
    slow: int


class KeptDecision(msgspec.Struct, frozen=True):
    """A stored decision of a check and its outcome.

    The decision waits, is done, or is void because it no longer applies.
    """

    id: str
    run_id: str
    at: int
    decision: Decision
    status: Literal["waiting", "done", "void"]
    due_at: int | None
    settled_at: int | None
    outcome: str
    job_id: str | None
    job_status: str | None
    job_outcome: str | None


class DecisionFilter(msgspec.Struct, frozen=True):
    """Filter of decisions; None admits any value."""

    device_id: str | None = None
    metric_name: str | None = None
    model_id: str | None = None
    run_id: str | None = None


# --------------------------------------------------------------------------------- keys and changes
class Key(msgspec.Struct, frozen=True):
    """An API key as it is stored: known by its id, proved by a digest."""

    id: str
    name: str
    digest: str
    permissions: tuple[str, ...]
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None
    predictions_a_minute: int | None = None  # None: the limit of the settings


class Change(msgspec.Struct, frozen=True):
    """A change for the audit log: author, origin, action, subject, and the values around it."""

    who: str
    origin: str
    action: str
    subject: str
    before: object = None
    after: object = None


# --------------------------------------------------------------------------------------- the alerts
class PendingAlert(msgspec.Struct, frozen=True):
    """An alert that waits for delivery to a target.

    `decided_at` is in microseconds; `attempts` counts failed attempts.
    """

    number: int
    target: str
    alert: Alert
    decided_at: int
    attempts: int = 0


class DeadAlert(msgspec.Struct, frozen=True):
    """An alert that was given up at `given_up_at` (microseconds).

    `alert` is None if its stored form is no longer readable.
    """

    number: int
    target: str
    alert: Alert | None
    given_up_at: int
    reason: str


class SilenceState(msgspec.Struct, frozen=True):
    """Silent devices, and since when (microseconds); the stream as a whole is `None`."""

    since: dict[str | None, int] = {}


class AlertStore(Protocol):
    """Decided alerts that are not delivered yet.

    Any thread may call. Any call may raise AlertsBroken; the store is then unchanged.
    """

    def recent(self) -> set[str]:
        """Return the event ids of the last decision: after a crash these events come again."""

    def known(self, causes: Sequence[str]) -> dict[tuple[str, str], KnownCause]:
        """Return the state of these causes at every target, by (target, cause)."""

    def accounts(self) -> dict[str, DailyBudget]:
        """Return today's account of every target."""

    def keep(self, dispatch: Dispatch, event_ids: Sequence[str], now: int) -> None:
        """Store the whole decision at once, durably."""

    def next(self, target: str, now: int) -> PendingAlert | None:
        """Return the alert that is due first, if any; alerts of the same cause keep their order."""

    def done(self, one: PendingAlert) -> None:
        """Record that the alert was delivered."""

    def postpone(self, one: PendingAlert, due: int) -> None:
        """Record a failed attempt; the next attempt is at `due`."""

    def hasten(self, target: str) -> None:
        """Make all alerts of a target due, because the target answers again."""

    def give_up(self, one: PendingAlert, reason: str, now: int) -> None:
        """Give up an alert, which becomes a dead letter."""

    def backlog(self) -> dict[str, int]:
        """Count the alerts that wait for each target."""

    def forget(self, now: int) -> None:
        """Drop causes without news for long, and old dead letters."""

    def cadences(self) -> tuple[list[SeriesKey], Cadence]:
        """Return how often series report; the stream as a whole has two empty names."""

    def keep_cadences(self, keys: Sequence[SeriesKey], cadence: Cadence) -> None:
        """Store how often these series report, a row each."""

    def silences(self) -> SilenceState:
        """Return the silences stored last."""

    def keep_silences(self, silences: SilenceState) -> None:
        """Store the current silences."""


class AlertTarget(Protocol):
    """A receiver of alerts: a mail server, a webhook or an issue tracker."""

    def deliver(self, delivery_id: str, alert: Alert, decided_at: int) -> None:
        """Deliver an alert; the same id again is the same delivery.

        Raises TargetAway (a later attempt may succeed) or TargetRefused (no attempt will).
        """

    def interrupt(self) -> None:
        """End a delivery under way, from another thread; the delivery raises TargetAway."""


# --------------------------------------------------------------------------------------- the models
class ModelAccuracy(NamedTuple):
    """Assessment of a model at its training; None for an unknown figure."""

    device_id: str
    metric_name: str
    accuracy: float | None
    false_positive_rate: float | None


class ModelIndex(Protocol):
    """The index of models on disk, which works without the database."""

    @property
    def revision(self) -> object:
        """A value that is new after every change of the index, by this process or another."""

    def active(self) -> dict[SeriesKey, str]:
        """Return the id of the active model, of every series that has an active model."""

    def thresholds(self) -> dict[str, float]:
        """Return the thresholds that were set by hand, by the id of the active model."""

    def figures(self) -> list[ModelAccuracy]:
        """Return the assessment of every active model, in the order of their series."""

    def shadows(self) -> dict[SeriesKey, str]:
        """Return the id of the shadow, of every series that has a shadow."""

    def disabled(self) -> set[SeriesKey]:
        """Return series with a disabled model and no active model.

        No model serves such a series until a person trains or activates a model.
        """

    def rows(self) -> list[ModelRow]:
        """Return every model, newest first."""

    def of_series(self, key: SeriesKey) -> list[ModelRow]:
        """Return the models of a series, newest first."""

    def row(self, model_id: str) -> ModelRow:
        """Return a model. Raises ModelFileError."""

    def scorer(self, model_id: str) -> bytes:
        """Return the verified scorer file, for `core.series.detector.Model.from_bytes`.

        Raises ModelFileError, or ModelStorageError if a later call may succeed.
        """

    def fall_back(self, model_id: str, reason: str) -> ModelRow | None:
        """Set this model aside as failed, and let the newest earlier version serve.

        Returns the row of the earlier version, or None. Raises ModelFileError.
        """


class Latest(Protocol):
    """The newest result of every series, for display; losable."""

    def show(self, results: dict[SeriesKey, bytes]) -> None:
        """Replace the results of these series. Never raises, never waits beyond its deadline."""

    def serve(self, models: dict[SeriesKey, str]) -> None:
        """Show the ids of the models that serve these series.

        Never raises, never waits beyond its deadline.
        """


class Cache(Protocol):
    """Answers for repeated requests, shared by all daemons; losable."""

    def get(self, name: str) -> bytes | None:
        """Return the stored value while it is valid.

        Never raises, never waits beyond its deadline.
        """

    def put(self, name: str, value: bytes, seconds: int) -> None:
        """Store a value for some seconds. Never raises, never waits beyond its deadline."""
