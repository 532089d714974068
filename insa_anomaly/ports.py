"""What the product needs from the world, as small Protocols.

Each has a real body in `adapters` and an in-memory body in `testing`; one suite in `tests/contracts` holds both.
Times are integer microseconds since the Unix epoch (`int`), unless a name says otherwise.
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
from insa_anomaly.core.notification.routing import Account, Dispatch, Known
from insa_anomaly.core.operations.model_health import Decision
from insa_anomaly.core.reading.reading import Raw, Rejected

SeriesKey = tuple[str, str]  # device_id, metric_name


# ------------------------------------------------------------------------------------------------- the log
class Swap(msgspec.Struct, frozen=True, array_like=True):
    """A model takes over a series from this place in the log on; `model_id` None: the series has no model any more.

    `threshold` is one that was set by hand; None: that of its training. `shadow_id`: a second version that scores along and says nothing.
    """

    device_id: str
    metric_name: str
    model_id: str | None
    threshold: float | None = None
    shadow_id: str | None = None


CLOCK_SLACK = 10_000_000  # microseconds


def received(now: int, free: int) -> int:
    """When an entry of the log was received, where the clock says `now` and the first time not used yet is `free`.

    Times are unique in a log, so a clock that is set back a little is waited for; one set back by more than `CLOCK_SLACK` was wrong before,
    by a year perhaps, and is believed.
    """
    return now if now < free - CLOCK_SLACK else max(now, free)


class Entry(msgspec.Struct, frozen=True):
    """One group commit of the log: message i was received at `received + i`, which is unique in the log (see `received`)."""

    seq: int
    received: int
    messages: list[tuple[str, bytes]]
    swaps: list[Swap]


class Log(Protocol):
    """The one durable truth of what came in. One thread appends, any thread reads."""

    @property
    def id(self) -> UUID:
        """Names this log; a new file is a new log, and cursors into the old one mean nothing to it."""

    @property
    def last(self) -> int:
        """Sequence of the newest entry, 0 where there was never one. Survives `drop` and a restart."""

    def append(self, messages: list[tuple[str, bytes]], swaps: list[Swap], now: int) -> Entry:
        """Write one entry; it is on disk when this returns. Raises LogBroken: nothing was written."""

    def read(self, after: int, most: int) -> list[Entry]:
        """Entries with seq > after in order: at least one where there is one, and no more once `most` messages are had."""

    def drop(self, through: int) -> None:
        """Forget entries with seq <= through."""

    def received(self, after: int) -> int | None:
        """When the oldest entry with seq > after was received; None where there is none."""


class Reserve(Protocol):
    """Room on the disk for a bad day. Any thread may call; nothing of it raises."""

    @property
    def held(self) -> bool:
        """Whether the room is taken."""

    def hold(self) -> bool:
        """Take it, where the disk has enough; answers whether it is taken."""

    def release(self) -> None:
        """Give it back: the disk is full."""


# ----------------------------------------------------------------------------------------------- the state
class Outgoing(msgspec.Struct, frozen=True, array_like=True):
    """An event waiting to be told; `number` orders the outbox and is never used twice."""

    number: int
    topic: str
    payload: bytes


class State(Protocol):
    """What the score reader knows: series states, results not yet recorded, events not yet told. Any thread may call."""

    def bind(self, log_id: UUID) -> None:
        """Belong to this log; a state of another log is emptied, outgoing events excepted."""

    @property
    def cursor(self) -> int:
        """Sequence of the last entry whose results are committed here."""

    def commit(
        self, seq: int, results: bytes | None, events: Sequence[tuple[str, bytes]]
    ) -> list[Outgoing]:
        """In one transaction: results of the entry (None: nothing to keep), (topic, payload) of its events, and the cursor."""

    def post(self, events: Sequence[tuple[str, bytes]]) -> list[Outgoing]:
        """Put events that no entry of the log made into the outbox: (topic, payload) of each."""

    def results(self, after: int, through: int) -> dict[int, bytes]:
        """Results by sequence, after < seq <= through."""

    def forget(self, through: int) -> None:
        """Drop results with seq <= through: they are recorded."""

    def outgoing(self, after: int, most: int) -> list[Outgoing]:
        """Events not yet told with number > after, in order."""

    def told(self, numbers: Sequence[int]) -> None:
        """These events were acknowledged by the broker; drop them."""

    def notices(self, most: int) -> list[Outgoing]:
        """The oldest events that the alerts have not taken yet, in order: kept apart, whatever becomes of them on MQTT."""

    def noticed(self, through: int) -> None:
        """Events with number <= through are taken; drop them from the notices."""

    def untold(self) -> int:
        """How many events are not yet told."""

    def checkpoint(self, seq: int, states: dict[SeriesKey, bytes]) -> None:
        """Keep the states of the series that moved; all states, kept now or before, are as of `seq`."""

    def restore(self) -> tuple[int, dict[SeriesKey, bytes]]:
        """The newest checkpoint: its sequence (0: none) and the state of every series."""

    def sync(self) -> None:
        """Put all of this on disk, so that the log may drop what it was made from."""


# ---------------------------------------------------------------------------------------------- the broker
class Delivery(msgspec.Struct, frozen=True):
    """Messages that arrived together; `mids` are their packet ids, 0 where none is to be acknowledged."""

    generation: int
    messages: list[tuple[str, bytes]]
    mids: list[int]


class Settled(msgspec.Struct, frozen=True):
    """The broker's answer to one publish: accepted, or refused with its reason."""

    token: int
    refused: str | None


class Publisher(Protocol):
    """The way out. A token is good for one connection: when `generation` changes, what is not settled must go again."""

    @property
    def generation(self) -> int:
        """Counts connections and disconnections."""

    @property
    def connected(self) -> bool:
        """True between a granted connection and its end."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Send at QoS 1; answers a token. Raises BrokerAway."""

    def settled(self, timeout: float) -> list[Settled]:
        """Answers that came since the last call; waits up to `timeout` seconds for the first."""


class Broker(Publisher, Protocol):
    """The daemon's one connection: deliveries in (handed to the callback it was built with), acknowledgements and events out."""

    def acknowledge(self, *deliveries: Delivery) -> None:
        """PUBACK all of them but those of a connection that is no longer the current one: they will be delivered again."""


# --------------------------------------------------------------------------------------------- the database
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
    original: dict[int, str] = field(
        default_factory=dict
    )  # row -> timestamp as sent, where it was not accepted


class ModelRow(msgspec.Struct, frozen=True):
    """A trained model as the index and `ml_models` know it."""

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


@dataclass(frozen=True)
class Page:
    """What one transaction records, and the place in the log it reaches."""

    log_id: UUID
    seq: int
    telemetry: Telemetry
    anomalies: Sequence[Anomaly] = ()
    episodes: Sequence[Episode] = ()
    rejected: Sequence[Rejected] = ()
    models: Sequence[ModelRow] = ()
    late: Sequence[
        tuple[int, Anomaly]
    ] = ()  # anomalies that count only where their reading, with its row here, is not recorded yet


def letter_digest(raw: Raw) -> bytes:
    """What a dead letter is known by: SHA-256 of its topic, a zero byte and its payload."""
    return sha256(raw.topic.encode(errors="backslashreplace") + b"\0" + raw.payload).digest()


class Recorder(Protocol):
    """The database as the record reader sees it. Every call has a deadline."""

    def cursor(self, log_id: UUID) -> int:
        """Sequence recorded for this log, 0 for none. Raises DatabaseAway."""

    def record(self, page: Page) -> None:
        """All of the page and its cursor in one transaction; repeating it changes nothing.

        Raises DatabaseAway or DatabaseRefused, which is RowsRefused where it is for what a row holds.
        """


class History(Protocol):
    """Recorded readings, for training."""

    def series(self) -> list[SeriesKey]:
        """Every series with readings."""

    def readings(
        self, key: SeriesKey, since: int, most: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Times and values of good readings from `since` on, the newest `most`, in time order; without what was confirmed a fault."""

    def anomalous(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Times of readings from `since` on that were called anomalous, but for those of episodes that were dismissed."""

    def in_episodes(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """The same, but for those that were part of no episode."""

    def confirmed(self, key: SeriesKey, since: int) -> npt.NDArray[np.int64]:
        """Of those in episodes, the ones that somebody confirmed to be a fault."""


class Job(msgspec.Struct, frozen=True):
    """A training that was asked for. Times in microseconds; `champion_id` is the model that a retraining is held against.

    A fleet has a pattern for its `device_id`, and its `outcome` says how far it is.
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


# ------------------------------------------------------------------------------------------------ what was found
@dataclass(frozen=True)
class Filter:
    """Which anomalies or episodes; None: any. since <= time < until, of the reading, or of the one that opened the episode."""

    device_id: str | None = None
    metric_name: str | None = None
    model_id: str | None = None
    episode_id: str | None = None
    since: int | None = None
    until: int | None = None
    least_confidence: float | None = None
    open: bool | None = None  # of episodes


class Place(NamedTuple):
    """Where a page ended: the next one has what is older."""

    time: int
    id: str


class Feedback(msgspec.Struct, frozen=True):
    """What an operator says of an episode."""

    verdict: Literal["confirmed", "dismissed"]
    note: str
    given_by: str
    given_at: int


class Tally(msgspec.Struct, frozen=True):
    """What came of a model: what it found in a span, and what operators said of all that it ever found."""

    anomalies: int
    episodes: int
    confirmed: int
    dismissed: int


# ---------------------------------------------------------------------------------------------- the health check
class Counted(msgspec.Struct, frozen=True):
    """What was scored in a while: readings and anomalies a series, and batches with those of them that were slow."""

    keys: Sequence[SeriesKey]
    readings: Sequence[int]
    anomalies: Sequence[int]
    batches: int
    slow: int


class KeptDecision(msgspec.Struct, frozen=True):
    """A decision of a check, and what became of it: it waits, is done, or void, since there was nothing to do any more."""

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
    """Which decisions; None: any."""

    device_id: str | None = None
    metric_name: str | None = None
    model_id: str | None = None
    run_id: str | None = None


# ---------------------------------------------------------------------------------------------- who may do what
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
    predictions_a_minute: int | None = None  # None: what the settings say


class Change(msgspec.Struct, frozen=True):
    """A change for the audit log: who, from where, what, of which thing, and what it was and is to be."""

    who: str
    origin: str
    action: str
    subject: str
    before: object = None
    after: object = None


# ----------------------------------------------------------------------------------------------- the alerts
class Waiting(msgspec.Struct, frozen=True):
    """An alert to be delivered to one target, decided at that time (microseconds), after so many failed attempts."""

    number: int
    target: str
    alert: Alert
    decided_at: int
    attempts: int = 0


class DeadAlert(msgspec.Struct, frozen=True):
    """An alert that was given up at that time (microseconds); None where it cannot be read any more."""

    number: int
    target: str
    alert: Alert | None
    given_up_at: int
    reason: str


class Silences(msgspec.Struct, frozen=True):
    """What is silent now, and since when (microseconds); the stream is `None`."""

    since: dict[str | None, int] = {}


class AlertStore(Protocol):
    """What was decided about alerts and is not done. Any thread may call; any call may raise AlertsBroken, and then has changed nothing."""

    def recent(self) -> set[str]:
        """Ids of the events of the last decision: after a crash they come again."""

    def known(self, causes: Sequence[str]) -> dict[tuple[str, str], Known]:
        """What targets know of these causes, by (target, cause)."""

    def accounts(self) -> dict[str, Account]:
        """What every target has had today."""

    def keep(self, dispatch: Dispatch, event_ids: Sequence[str], now: int) -> None:
        """All of the decision at once, on disk when this returns."""

    def next(self, target: str, now: int) -> Waiting | None:
        """The alert that is due first, if any is; those of one cause go in their order."""

    def done(self, one: Waiting) -> None:
        """It was delivered."""

    def postpone(self, one: Waiting, due: int) -> None:
        """It failed once more, and is to be tried again then."""

    def hasten(self, target: str) -> None:
        """The target answers again: everything that waits for it is due."""

    def give_up(self, one: Waiting, reason: str, now: int) -> None:
        """It will not be delivered: a dead letter."""

    def backlog(self) -> dict[str, int]:
        """How many alerts wait for each target."""

    def forget(self, now: int) -> None:
        """Drop causes that nobody spoke of for long, and old dead letters."""

    def cadences(self) -> tuple[list[SeriesKey], Cadence]:
        """How often series report; of the stream under two empty names."""

    def keep_cadences(self, keys: Sequence[SeriesKey], cadence: Cadence) -> None:
        """Keep how often these report, a row each."""

    def silences(self) -> Silences:
        """What was silent when that was last kept."""

    def keep_silences(self, silences: Silences) -> None:
        """What is silent now."""


class AlertTarget(Protocol):
    """The way to somebody who hears: a mail server, a webhook, an issue tracker."""

    def deliver(self, delivery_id: str, alert: Alert, decided_at: int) -> None:
        """Tell it. The same id again is the same delivery. Raises TargetAway (later, perhaps), TargetRefused (never)."""

    def interrupt(self) -> None:
        """End a delivery under way, from another thread: it raises TargetAway."""


# ----------------------------------------------------------------------------------------------- the models
class Figures(NamedTuple):
    """How good a model was found to be at its training; None: that is not known."""

    device_id: str
    metric_name: str
    accuracy: float | None
    false_positive_rate: float | None


class Models(Protocol):
    """The index of models on disk: works with the database away."""

    @property
    def revision(self) -> object:
        """Differs from every value it had before the index changed, by this process or another."""

    def active(self) -> dict[SeriesKey, str]:
        """Id of the active model of every series that has one."""

    def thresholds(self) -> dict[str, float]:
        """Thresholds that were set by hand, by the id of the active model."""

    def figures(self) -> list[Figures]:
        """What is known of every active model, in the order of their series."""

    def shadows(self) -> dict[SeriesKey, str]:
        """Id of the version that scores along, of every series that has one."""

    def disabled(self) -> set[SeriesKey]:
        """Series that have a disabled model and no active one: nothing serves them until a person says so."""

    def rows(self) -> list[ModelRow]:
        """Every model, newest first."""

    def of_series(self, key: SeriesKey) -> list[ModelRow]:
        """The models of one series, newest first."""

    def row(self, model_id: str) -> ModelRow:
        """One model. Raises ModelFileError."""

    def scorer(self, model_id: str) -> bytes:
        """Its verified scorer file, for `core.series.detector.Model.from_bytes`. Raises ModelFileError; ModelStorageError: later, perhaps."""

    def fall_back(self, model_id: str, reason: str) -> ModelRow | None:
        """Put this model aside as failed, and let the newest earlier version serve; answers that one. Raises ModelFileError."""


class Latest(Protocol):
    """The newest result of every series, for whoever looks; losable."""

    def show(self, results: dict[SeriesKey, bytes]) -> None:
        """Replace the results of these series. Never raises, never waits longer than its deadline."""

    def serve(self, models: dict[SeriesKey, str]) -> None:
        """Show the ids of the models that serve these series. As `show`."""


class Cache(Protocol):
    """Answers that may be asked for again, where all daemons find them; losable."""

    def get(self, name: str) -> bytes | None:
        """What was put under this name, while it is good. Never raises, never waits longer than its deadline."""

    def put(self, name: str, value: bytes, seconds: int) -> None:
        """Keep it for so long. As `get`."""
