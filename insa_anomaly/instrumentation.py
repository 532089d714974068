"""Every event of the daemon by its name: a single function logs and counts it.

No other module touches a logger or a counter. Labels are bounded: a device or a series is a field
of a log line, never a label, except in the figures of single models, which are a text of their own.
Values that are known beforehand start at 0, so that the first rise is seen. `dashboards/README.md`
lists all metrics.
"""

import logging
import sys
import threading
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping
from math import inf
from typing import NamedTuple

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from insa_anomaly.core.notification.alert import Alert
from insa_anomaly.core.notification.event import Event, Transition
from insa_anomaly.core.operations.model_health import Decision
from insa_anomaly.core.reading.reading import RejectionReason

REGISTRY = CollectorRegistry()
PORT = CollectorRegistry()  # of the admin port's process; the other registry is the daemon's
# Values of the label of `insa_trouble`.
TROUBLES = ("broker", "canary", "log", "state", "database", "events", "alerts", "admin", "thread")
READERS = ("score", "record")
TRANSITIONS = [one.name.lower() for one in Transition if one is not Transition.NONE]
CACHED = ("anomaly_count",)
SILENCE_KINDS = ("device_silent", "device_back", "stream_silent", "stream_back")
DECISIONS = (  # (cause, kind) of every decision that a health check can make
    *(
        ("age", "retrain"),
        ("degraded", "retrain"),
        ("failing", "disable"),
        ("silent", "retire"),
        ("inactive", "clean_up"),
    ),
    *(
        (cause, kind)
        for cause in ("degraded", "failing", "slow")
        for kind in ("escalate", "recover")
    ),
)
_UNITS = {
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_entries": "entries",
    "_events": "events",
    "_rate": "share",
    "_accuracy": "share",
}
_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)


class Definition(NamedTuple):
    """Description of a metric, for readers of dashboards."""

    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    text: str


_DEFINED: list[Definition] = []


def _define(name: str, kind: str, text: str, labels: tuple[str, ...] = ()) -> None:
    """Record a metric; its unit is the end of its name, as Prometheus prefers.

    A metric without a unit is a count, or is 1 for yes and 0 for no.
    """
    stem = name.removesuffix("_total")
    of_name = next((unit for end, unit in _UNITS.items() if stem.endswith(end)), "count")
    _DEFINED.append(
        Definition(name, kind, "0 or 1" if text.startswith("1 w") else of_name, labels, text)
    )


def _counter(
    name: str,
    text: str,
    *labels: str,
    begin: Iterable[str | tuple[str, ...]] = (),
    registry: CollectorRegistry = REGISTRY,
) -> Counter:
    _define(f"insa_{name}_total", "counter", text, labels)
    counter = Counter(f"insa_{name}", text, labels, registry=registry)
    for value in begin:
        counter.labels(*((value,) if isinstance(value, str) else value))
    return counter


def _gauge(name: str, text: str, *labels: str, begin: Iterable[str] = ()) -> Gauge:
    _define(f"insa_{name}", "gauge", text, labels)
    gauge = Gauge(f"insa_{name}", text, labels, registry=REGISTRY)
    for value in begin:
        gauge.labels(value)
    return gauge


def _histogram(name: str, text: str) -> Histogram:
    _define(f"insa_{name}", "histogram", text)
    return Histogram(f"insa_{name}", text, buckets=_LATENCY, registry=REGISTRY)


MESSAGES = _counter("messages", "Messages written to the log")
READINGS = _counter("readings", "Readings scored, late and duplicate ones included")
REJECTED = _counter(
    "rejected_messages",
    "Messages that hold no reading we can take",
    "reason",
    begin=RejectionReason,
)
LETTERS_DROPPED = _counter(
    "dead_letters_dropped",
    "Rejected messages of which nothing is kept, because there were too many",
    "reason",
    begin=RejectionReason,
)
ANOMALIES = _counter("anomalies", "Readings with a score below 0")
EPISODES = _counter("episode_transitions", "Transitions of episodes", "kind", begin=TRANSITIONS)
EVENTS_TOLD = _counter("events_told", "Events acknowledged by the broker")
EVENTS_REFUSED = _counter(
    "events_refused", "Events refused by the broker", "reason", begin=("broker",)
)
EVENTS_DROPPED = _counter("events_dropped", "Events given up because the broker refused too many")
RECORDED = _counter("readings_recorded", "Readings recorded in PostgreSQL")
MODELS_TRAINED = _counter("models_trained", "Models trained")
TRAINING_FAILED = _counter("trainings_failed", "Trainings that ended without a model")
MODELS_FAILED = _counter(
    "models_failed", "Models put aside because their files are not what was written"
)
BROKER_CONNECTED = _gauge("broker_connected", "1 while the broker connection stands")
CONNECTIONS = _counter("broker_connections", "Connections made to the broker")
SESSIONS_LOST = _counter(
    "broker_sessions_lost", "Connections on which the broker had forgotten our session"
)
TAKEN_OVER = _counter(
    "broker_takeovers", "Connections ended because another client uses our client id"
)
SHED = _counter("messages_shed", "Messages given back to the broker because the hand-over was full")
CERTIFICATE_EXPIRES = _gauge(
    "certificate_expires_seconds",
    "Until a certificate in use ends: the broker's, our own to it, the port's",
    "of",
)
DATABASE_CONNECTED = _gauge("database_connected", "1 while PostgreSQL takes what we record")
CLOCK_STEPS = _counter("clock_steps", "Steps of the system clock by more than a second")
READER_LAG = _gauge(
    "reader_lag_entries",
    "Entries of the log that a reader has not dealt with",
    "reader",
    begin=READERS,
)
READER_LAG_SECONDS = _gauge(
    "reader_lag_seconds",
    "Since the oldest entry that a reader has not dealt with was received",
    "reader",
    begin=READERS,
)
OUTBOX = _gauge("outbox_events", "Events that wait to be told, or were told a moment ago")
STORAGE = _gauge("storage_bytes", "Size of the files on disk", "what")
SERIES = _gauge("series", "Series known")
SERIES_WITH_MODEL = _gauge("series_with_model", "Series that have a model")
REQUESTS_DENIED = _counter(
    "requests_denied", "Requests to the admin API that were denied", "reason", registry=PORT
)
REQUESTS_TOO_SLOW = _counter(
    "requests_too_slow",
    "Connections to the admin API ended because a request did not come whole in time",
    registry=PORT,
)
PREDICTIONS = _counter("predictions", "Predictions given over the admin API", registry=PORT)
PREDICTED_ANOMALIES = _counter(
    "predicted_anomalies",
    "Predictions given over the admin API of values that would be anomalous",
    registry=PORT,
)
DEGRADED = _gauge("degraded", "1 while something keeps the daemon from doing all of its job")
TROUBLE = _gauge("trouble", "1 while this is in trouble", "what", begin=TROUBLES)
CACHE_HITS = _counter(
    "cache_hits",
    "Answers of the admin API that were found in memory or in Redis",
    "kind",
    begin=CACHED,
    registry=PORT,
)
CACHE_MISSES = _counter(
    "cache_misses",
    "Answers of the admin API that had to be asked of PostgreSQL",
    "kind",
    begin=CACHED,
    registry=PORT,
)
ALERTS = _counter("alerts", "Alerts decided on, summaries included", "target")
ALERTS_HELD = _counter(
    "alerts_held", "Alerts beyond the daily budget, which became part of a summary", "target"
)
ALERTS_DELIVERED = _counter("alerts_delivered", "Alerts delivered", "target")
ALERTS_FAILED = _counter("alerts_failed", "Attempts to deliver an alert that failed", "target")
ALERTS_DEAD = _counter("alerts_dead", "Alerts given up", "target")
ALERT_BACKLOG = _gauge("alert_backlog", "Alerts that wait to be delivered", "target")
TARGET_RESTING = _gauge(
    "target_resting", "1 while a target that failed several times in a row is left alone", "target"
)
SILENCES = _counter(
    "silences", "Devices, or the stream, that went silent or came back", "kind", begin=SILENCE_KINDS
)
DEVICES_SILENT = _gauge("devices_silent", "Devices that are silent")
STREAM_SILENT = _gauge("stream_silent", "1 while the stream as a whole is silent")
ALERT_SECONDS = _histogram("alert_seconds", "From the decision on an alert to its delivery")
HEALTH_DECISIONS = _counter(
    "health_decisions", "Decisions of the daily health check", "cause", "kind", begin=DECISIONS
)
FLEET_HEALTHY = _gauge(
    "fleet_healthy",
    "1 where the last health check of this daemon found nothing that a person should look at",
)
HEALTH_SECONDS = _gauge(
    "health_check_seconds", "How long the last health check of this daemon took"
)
DURABLE_SECONDS = _histogram("receive_to_durable_seconds", "From receipt to the acknowledgement")
RESULT_SECONDS = _histogram(
    "receive_to_score_seconds",
    "From receipt of the oldest reading of a batch to its score, committed",
)
EVENT_SECONDS = _histogram(
    "receive_to_event_seconds",
    "From receipt of a reading to the broker's word that it has its event",
)
SCORE_SECONDS = _histogram("score_batch_seconds", "Scoring of one batch")
for _family in ProcessCollector(registry=REGISTRY).collect():
    _define(
        _family.name + "_total" * (_family.type == "counter"),
        _family.type,
        _family.documentation.rstrip("."),
    )


def set_up_logging(level: str = "INFO", form: str = "auto") -> None:
    """Send logs to standard error as `json` or `console`; `auto` picks `console` on a terminal."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Locals are not shown, because they may hold secrets.
    trace = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.ExceptionRenderer(trace), structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def definitions() -> tuple[Definition, ...]:
    """Return every metric: of the daemon, of its process, of single models."""
    return tuple(_DEFINED)


def metrics_text() -> bytes:
    """Return the daemon's metrics, except of single models, in Prometheus' text format."""
    return generate_latest(REGISTRY)


def port_metrics_text() -> bytes:
    """Return the metrics of the admin port's process, in Prometheus' text format."""
    return generate_latest(PORT)


_MODEL_LABELS = ("device_id", "metric_name")
_MODEL_METRICS = {
    "insa_model_accuracy": "Accuracy of the model that serves, as assessed at its training",
    "insa_model_false_positive_rate": (
        "False positive rate of the model that serves, of readings, as assessed at its training"
    ),
}
for _name, _text in _MODEL_METRICS.items():
    _define(_name, "gauge", _text, _MODEL_LABELS)


class ModelMetrics(Collector):
    """Accuracy and false positive rate of models, by (device_id, metric_name).

    An unknown figure is left out.
    """

    def __init__(self, figures: Iterable[tuple[str, str, float | None, float | None]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the two metric families."""
        families = [
            GaugeMetricFamily(name, text, labels=_MODEL_LABELS)
            for name, text in _MODEL_METRICS.items()
        ]
        for device_id, metric_name, *known in self._figures:
            for family, figure in zip(families, known, strict=True):
                if figure is not None:
                    family.add_metric((device_id, metric_name), figure)
        yield from families


def model_metrics_text(figures: Iterable[tuple[str, str, float | None, float | None]]) -> bytes:
    """Return the metrics of single models in Prometheus' text format.

    The metrics are as many as the models, so they are scraped separately and rarely.
    """
    registry = CollectorRegistry()
    registry.register(ModelMetrics(figures))
    return generate_latest(registry)


def _log(level: int, action: str, message: str, **fields: object) -> None:
    structlog.get_logger().log(level, message, action=action, **fields)


# --------------------------------------------------------------------------------------- the daemon
def daemon_started(version: str, **fields: object) -> None:
    _log(logging.INFO, "daemon_started", "insa-anomaly is running", version=version, **fields)


def settings_read(changed: Collection[str], waiting: Collection[str]) -> None:
    """Report changed settings; `waiting` settings changed in the file but need a restart."""
    _log(
        logging.INFO,
        "settings_read",
        "The settings were read again",
        changed=list(changed),
        wait_for_a_restart=list(waiting),
    )


def settings_refused(reason: str) -> None:
    _log(
        logging.ERROR,
        "settings_refused",
        "The settings were read again and hold a mistake: all stay as they are",
        reason=reason,
    )


def daemon_stopping(reason: str) -> None:
    _log(logging.INFO, "daemon_stopping", "Stopping", reason=reason)


def daemon_stopped(seconds: float) -> None:
    _log(logging.INFO, "daemon_stopped", "Stopped", seconds=round(seconds, 3))


def thread_died(thread: str, error: BaseException) -> None:
    """Report a thread that died or is stuck: the reason, and the stacks of all threads."""
    _log(
        logging.CRITICAL,
        "thread_died",
        "A thread died; the daemon ends so that it is restarted",
        thread=thread,
        exc_info=error,
        stacks=_stacks(),
    )


def _stacks() -> dict[str, list[str]]:
    names = {each.ident: each.name for each in threading.enumerate()}
    return {
        names.get(ident, str(ident)): [
            f"{place.filename}:{place.lineno} {place.name}"
            for place in traceback.extract_stack(frame)
        ]
        for ident, frame in sys._current_frames().items()  # noqa: SLF001 - the only way to them
    }


def state_watched(troubled: Collection[str]) -> None:
    """Publish the parts that are in trouble; `troubled` is a subset of `TROUBLES`."""
    DEGRADED.set(bool(troubled))
    for one in TROUBLES:
        TROUBLE.labels(one).set(one in troubled)


# --------------------------------------------------------------------------------------- the broker
def broker_connected(host: str, port: int, *, protocol: str, session_present: bool) -> None:
    CONNECTIONS.inc()
    BROKER_CONNECTED.set(1)
    _log(
        logging.INFO,
        "broker_connected",
        "Connected to the broker",
        host=host,
        port=port,
        protocol=protocol,
        session=session_present,
    )


def broker_disconnected(reason: str) -> None:
    BROKER_CONNECTED.set(0)
    _log(
        logging.WARNING,
        "broker_disconnected",
        "The broker connection ended; reconnecting",
        reason=reason,
    )


def broker_refused(reason: str) -> None:
    BROKER_CONNECTED.set(0)
    _log(logging.ERROR, "broker_refused", "The broker refuses us", reason=reason)


def broker_taken_over(client_id: str, reason: str, retry_seconds: float) -> None:
    BROKER_CONNECTED.set(0)
    TAKEN_OVER.inc()
    _log(
        logging.ERROR,
        "broker_taken_over",
        "Another client seems to connect with our client id: give each its own",
        client_id=client_id,
        reason=reason,
        retry_seconds=round(retry_seconds, 1),
    )


def session_lost() -> None:
    SESSIONS_LOST.inc()
    _log(
        logging.WARNING,
        "session_lost",
        "The broker had forgotten our session: what it queued for us while we were away is lost",
    )


def delivery_doubted(doubt: str | None) -> None:
    """Report that the broker may not deliver; `doubt` None: the broker delivers after all."""
    if doubt is None:
        _log(logging.INFO, "delivery_proved", "The broker delivers to us")
    else:
        _log(
            logging.ERROR,
            "delivery_doubted",
            "Nothing proves that the broker delivers to us",
            reason=doubt,
        )


def certificate_looked_at(of: str, seconds: float) -> None:
    """Publish the `seconds` until a certificate ends; `of` is broker, client or http."""
    CERTIFICATE_EXPIRES.labels(of).set(seconds)


def certificate_ending(of: str, seconds: float) -> None:
    whose = {
        "broker": "of the broker",
        "client": "of ours for the broker",
        "http": "of the admin port",
    }[of]
    message = (
        f"The certificate {whose} ends soon: renew it"
        if seconds > 0
        else f"The certificate {whose} has ended"
    )
    _log(logging.WARNING, "certificate_ending", message, of=of, days=round(seconds / 86_400, 1))


def messages_shed(count: int) -> None:
    SHED.inc(count)
    _log(
        logging.WARNING,
        "messages_shed",
        "The hand-over is full: messages go back to the broker",
        count=count,
    )


# ---------------------------------------------------------------------------------- the way of data
def messages_logged(count: int, seconds: float) -> None:
    MESSAGES.inc(count)
    DURABLE_SECONDS.observe(seconds)


def message_rejected(reason: str, detail: str, topic: str) -> None:
    REJECTED.labels(reason).inc()
    _log(
        logging.DEBUG,
        "message_rejected",
        "A message was rejected",
        reason=reason,
        detail=detail,
        topic=topic,
    )


def message_unrecordable(reason: str, detail: str, topic: str) -> None:
    REJECTED.labels(reason).inc()
    message = (
        "PostgreSQL refuses what a message holds: it is a dead letter, the others are recorded"
    )
    _log(logging.WARNING, "message_unrecordable", message, reason=detail, topic=topic)


def letters_dropped(by_reason: Mapping[RejectionReason, int]) -> None:
    for reason, count in by_reason.items():
        LETTERS_DROPPED.labels(reason).inc(count)
    if by_reason:
        _log(
            logging.WARNING,
            "letters_dropped",
            "Too many messages hold no reading: a sample of them is kept",
            **{str(one): by_reason[one] for one in by_reason},
        )


def readings_scored(count: int, anomalies: int, seconds: float, since: float | None) -> None:
    """Count scored readings, and observe the time that scoring took (`seconds`).

    `since` is the time since the oldest reading was received, None if unknown.
    """
    READINGS.inc(count)
    ANOMALIES.inc(anomalies)
    SCORE_SECONDS.observe(seconds)
    if since is not None:
        RESULT_SECONDS.observe(since)


def episode_changed(event: Event) -> None:
    EPISODES.labels(event.kind).inc()
    _log(
        logging.INFO,
        f"episode_{event.kind}",
        f"Episode {event.kind}",
        device_id=event.device_id,
        metric_name=event.metric_name,
        value=event.value,
        expected=event.expected,
        confidence=round(event.confidence, 3),
        episode_id=event.episode_id,
    )


def event_told(seconds: float | None) -> None:
    """Count a published event; `seconds` since its reading arrived.

    `seconds` is None for an event that waited in the outbox for an unknown time.
    """
    EVENTS_TOLD.inc()
    if seconds is not None:
        EVENT_SECONDS.observe(seconds)


def event_refused(topic: str, reason: str) -> None:
    EVENTS_REFUSED.labels("broker").inc()
    _log(logging.ERROR, "event_refused", "The broker refused an event", topic=topic, reason=reason)


def event_dropped() -> None:
    EVENTS_DROPPED.inc()


def page_recorded(readings: int) -> None:
    DATABASE_CONNECTED.set(1)
    RECORDED.inc(readings)


def database_away(reason: str, retry_seconds: float) -> None:
    DATABASE_CONNECTED.set(0)
    _log(
        logging.WARNING,
        "database_away",
        "PostgreSQL is away; readings wait in the log",
        reason=reason,
        retry_seconds=round(retry_seconds, 2),
    )


def database_refused(reason: str) -> None:
    DATABASE_CONNECTED.set(0)
    _log(
        logging.ERROR,
        "database_refused",
        "PostgreSQL refuses what we record; readings wait in the log",
        reason=reason,
    )


def database_back() -> None:
    DATABASE_CONNECTED.set(1)
    _log(logging.INFO, "database_back", "PostgreSQL records again")


def upkeep_failed(reason: str) -> None:
    _log(
        logging.WARNING,
        "upkeep_failed",
        "Weeks of telemetry could not be made ahead, or what is too old not forgotten:"
        " tried again within the hour",
        reason=reason,
    )


def forgotten(what: str, count: int) -> None:
    _log(
        logging.INFO,
        "forgotten",
        "What is older than the settings keep is deleted",
        what=what,
        count=count,
    )


def clock_stepped(seconds: float) -> None:
    CLOCK_STEPS.inc()
    _log(logging.WARNING, "clock_stepped", "The system clock was set", seconds=round(seconds, 3))


def log_unwritable(reason: str) -> None:
    _log(
        logging.ERROR,
        "log_unwritable",
        "The log cannot be written; nothing is acknowledged until it can",
        reason=reason,
    )


def state_unwritable(reason: str) -> None:
    _log(
        logging.ERROR,
        "state_unwritable",
        "The states cannot be written; scoring waits until they can",
        reason=reason,
    )


def log_not_trimmed(reason: str) -> None:
    _log(
        logging.ERROR,
        "log_not_trimmed",
        "The log cannot forget what is done; it grows until it can",
        reason=reason,
    )


def log_damaged(aside: str, kept: int, lost: int) -> None:
    _log(
        logging.CRITICAL,
        "log_damaged",
        "The log was damaged: it is set aside, what could be read of it begins a new one,"
        " the rest is lost",
        aside=aside,
        entries_kept=kept,
        entries_lost=lost,
    )


def state_damaged(aside: str) -> None:
    _log(
        logging.CRITICAL,
        "state_damaged",
        "The file of states was damaged: it is set aside, and all of it is computed again"
        " from what the log still holds",
        aside=aside,
    )


def reader_lag(reader: str, entries: int, seconds: float) -> None:
    READER_LAG.labels(reader).set(entries)
    READER_LAG_SECONDS.labels(reader).set(seconds)


def outbox_measured(events: int) -> None:
    OUTBOX.set(events)


def storage_measured(sizes: Mapping[str, int]) -> None:
    """Publish the sizes on disk in bytes, by the kind of file."""
    for what, size in sizes.items():
        STORAGE.labels(what).set(size)


def measuring_failed(reason: str) -> None:
    _log(
        logging.WARNING,
        "measuring_failed",
        "What waits and what is stored cannot be measured now",
        reason=reason,
    )


def states_restored(series: int, checkpoint: int, readvanced: int) -> None:
    _log(
        logging.INFO,
        "states_restored",
        "States restored",
        series=series,
        checkpoint=checkpoint,
        entries_advanced_again=readvanced,
    )


def latest_unavailable(reason: str) -> None:
    _log(
        logging.WARNING,
        "latest_unavailable",
        "Redis is away; the latest results are not shown there",
        reason=reason,
    )


# --------------------------------------------------------------------------------------- the models
def series_known(series: int, with_model: int) -> None:
    SERIES.set(series)
    SERIES_WITH_MODEL.set(with_model)


def model_trained(device_id: str, metric_name: str, model_id: str, seconds: float) -> None:
    MODELS_TRAINED.inc()
    _log(
        logging.INFO,
        "model_trained",
        "Trained a model",
        device_id=device_id,
        metric_name=metric_name,
        model_id=model_id,
        seconds=round(seconds, 2),
    )


def training_failed(device_id: str, metric_name: str, reason: str) -> None:
    TRAINING_FAILED.inc()
    _log(
        logging.WARNING,
        "training_failed",
        "Training failed",
        device_id=device_id,
        metric_name=metric_name,
        reason=reason,
    )


def model_swapped(device_id: str, metric_name: str, model_id: str | None) -> None:
    _log(
        logging.INFO,
        "model_swapped",
        "A model took over",
        device_id=device_id,
        metric_name=metric_name,
        model_id=model_id,
    )


def shadow_swapped(device_id: str, metric_name: str, model_id: str | None) -> None:
    message = (
        "A version scores along, and says nothing"
        if model_id
        else "No version scores along any more"
    )
    _log(
        logging.INFO,
        "shadow_swapped",
        message,
        device_id=device_id,
        metric_name=metric_name,
        model_id=model_id,
    )


def model_unusable(device_id: str, metric_name: str, model_id: str, reason: str) -> None:
    _log(
        logging.ERROR,
        "model_unusable",
        "A model cannot be loaded; its series goes on without",
        device_id=device_id,
        metric_name=metric_name,
        model_id=model_id,
        reason=reason,
    )


def model_fell_back(device_id: str, metric_name: str, failed: str, to: str | None) -> None:
    """Report a failed model and its successor.

    `to` None: there is no earlier version, and the series trains a new model when it is due.
    """
    MODELS_FAILED.inc()
    _log(
        logging.ERROR,
        "model_fell_back",
        "A model failed its check and is put aside; the version before it serves",
        device_id=device_id,
        metric_name=metric_name,
        failed=failed,
        model_id=to,
    )


def index_unreadable(reason: str) -> None:
    _log(
        logging.ERROR,
        "index_unreadable",
        "The index of models cannot be read; the stream goes on with the models it has",
        reason=reason,
    )


def trainer_restarted(reason: str) -> None:
    _log(
        logging.WARNING,
        "trainer_restarted",
        "The training process ended and is started again",
        reason=reason,
    )


def event_waits(reason: str) -> None:
    _log(
        logging.WARNING,
        "event_waits",
        "An event of a model waits until the disk takes it",
        reason=reason,
    )


# --------------------------------------------------------------------------------------- the alerts
def alert_targets_known(targets: Collection[str]) -> None:
    """Create the metrics of every target at 0, so that the first alert is seen as a rise."""
    for target in targets:
        for metric in (
            ALERTS,
            ALERTS_HELD,
            ALERTS_DELIVERED,
            ALERTS_FAILED,
            ALERTS_DEAD,
            ALERT_BACKLOG,
            TARGET_RESTING,
        ):
            metric.labels(target)


def alerts_decided(sent: Collection[str], held: Mapping[str, int]) -> None:
    """Count the alerts to deliver by target (`sent`), and the alerts beyond the budget (`held`)."""
    for target in sent:
        ALERTS.labels(target).inc()
    for target, count in held.items():
        ALERTS_HELD.labels(target).inc(count)


def alert_budget_spent(target: str) -> None:
    _log(
        logging.WARNING,
        "alert_budget_spent",
        "The daily budget of alerts is spent: what comes now waits for a summary",
        target=target,
    )


def alerts_waiting(backlog: Mapping[str, int]) -> None:
    for target, count in backlog.items():
        ALERT_BACKLOG.labels(target).set(count)


def alert_delivered(target: str, seconds: float) -> None:
    ALERTS_DELIVERED.labels(target).inc()
    ALERT_SECONDS.observe(seconds)


def target_away(target: str, error: Exception, retry_seconds: float, *, resting: bool) -> None:
    ALERTS_FAILED.labels(target).inc()
    TARGET_RESTING.labels(target).set(resting)
    message = "An alert could not be delivered; it is tried again"
    _log(
        logging.WARNING,
        "target_away",
        message,
        target=target,
        reason=str(error) or repr(error),
        retry_seconds=round(retry_seconds, 1),
    )


def recipients_refused(recipients: Collection[str]) -> None:
    message = "The mail server takes an alert, but not for everybody"
    _log(logging.ERROR, "recipients_refused", message, recipients=list(recipients))


def target_answers(target: str) -> None:
    TARGET_RESTING.labels(target).set(0)
    _log(logging.INFO, "target_answers", "Alerts are delivered again", target=target)


def alert_given_up(target: str, alert: Alert, reason: str) -> None:
    ALERTS_DEAD.labels(target).inc()
    _log(
        logging.ERROR,
        "alert_given_up",
        "An alert was not delivered and will not be",
        target=target,
        reason=reason,
        event_id=alert.event_id,
        kind=alert.kind,
        about=alert.subject,
        text=alert.text,
    )


def courier_stumbled(target: str, error: Exception) -> None:
    _log(
        logging.ERROR,
        "courier_stumbled",
        "The delivery of alerts ran into a fault; it goes on",
        target=target,
        exc_info=error,
    )


def alerts_unwritable(reason: str) -> None:
    _log(
        logging.ERROR,
        "alerts_unwritable",
        "The file of alerts cannot be used now; events wait until it can",
        reason=reason,
    )


def alerts_damaged(aside: str) -> None:
    message = (
        "The file of alerts was damaged: it is set aside, and what it still had to deliver with it"
    )
    _log(logging.CRITICAL, "alerts_damaged", message, aside=aside)


def silence_changed(kind: str, device_id: str | None, reason: str) -> None:
    SILENCES.labels(kind).inc()
    level = logging.INFO if kind.endswith("_back") else logging.WARNING
    _log(level, kind, kind.replace("_", " ").capitalize(), device_id=device_id, reason=reason)


def silent_watched(devices: int, *, stream: bool) -> None:
    DEVICES_SILENT.set(devices)
    STREAM_SILENT.set(stream)


# --------------------------------------------------------------------------------- the health check
def batches_scored(seconds: float) -> tuple[int, int]:
    """Return the batches scored since the start, and the number that took longer than `seconds`.

    Between two buckets, the lower bound counts.
    """
    [metric] = SCORE_SECONDS.collect()
    below = {
        float(one.labels["le"]): int(one.value)
        for one in metric.samples
        if one.name.endswith("_bucket")
    }
    return below[inf], below[inf] - below[
        max((bound for bound in below if bound <= seconds), default=min(below))
    ]


def health_decided(one: Decision) -> None:
    HEALTH_DECISIONS.labels(one.cause, one.kind).inc()
    level = {"disable": logging.ERROR, "escalate": logging.WARNING}.get(one.kind, logging.INFO)
    _log(
        level,
        f"health_{one.kind}",
        f"Health check: {one.kind.replace('_', ' ')}",
        cause=one.cause,
        reason=one.reason,
        device_id=one.device_id,
        metric_name=one.metric_name,
        model_id=one.model_id,
    )


def health_acted(one: Decision, outcome: str) -> None:
    _log(
        logging.DEBUG,
        "health_acted",
        "A decision of the health check was carried out",
        kind=one.kind,
        device_id=one.device_id,
        metric_name=one.metric_name,
        outcome=outcome,
    )


def health_checked(summary: str, seconds: float, *, healthy: bool) -> None:
    FLEET_HEALTHY.set(healthy)
    HEALTH_SECONDS.set(seconds)
    _log(
        logging.INFO,
        "health_checked",
        "Health check",
        summary=summary,
        seconds=seconds,
        healthy=healthy,
    )


def health_unreachable(reason: str) -> None:
    _log(
        logging.WARNING,
        "health_unreachable",
        "The health check, or what it decided, waits",
        reason=reason,
    )


# ------------------------------------------------------------------------------------ the admin API
def request_denied(reason: str, origin: str) -> None:
    REQUESTS_DENIED.labels(reason).inc()
    _log(
        logging.WARNING,
        "request_denied",
        "A request to the admin API was denied",
        reason=reason,
        origin=origin,
    )


def request_unanswerable(method: str, reason: str) -> None:
    _log(
        logging.WARNING,
        "request_unanswerable",
        "A request to the admin API cannot be answered now",
        method=method,
        reason=reason,
    )


def request_too_slow(origin: str, seconds: float) -> None:
    REQUESTS_TOO_SLOW.inc()
    _log(
        logging.WARNING,
        "request_too_slow",
        "A request to the admin API did not come whole in time",
        origin=origin,
        seconds=seconds,
    )


def question_failed(error: BaseException) -> None:
    structlog.get_logger().error(
        "a question of the admin port has no answer", action="question_failed", exc_info=error
    )


def admin_process_ended(reason: str, retry_seconds: float) -> None:
    _log(
        logging.ERROR,
        "admin_process_ended",
        f"{reason}; it begins again",
        retry_seconds=round(retry_seconds, 1),
    )


def request_failed(method: str, error: BaseException) -> None:
    _log(
        logging.ERROR,
        "request_failed",
        "A request to the admin API ran into a fault",
        method=method,
        exc_info=error,
    )


def catalogue_behind(model_id: str, reason: str) -> None:
    _log(
        logging.WARNING,
        "catalogue_behind",
        "A model was changed, and PostgreSQL does not show it until its series is swapped again",
        model_id=model_id,
        reason=reason,
    )


def jobs_unreachable(reason: str) -> None:
    _log(
        logging.WARNING,
        "jobs_unreachable",
        "The table of training jobs cannot be read or written now",
        reason=reason,
    )


def rate_limit_local(reason: str) -> None:
    _log(
        logging.WARNING,
        "rate_limit_local",
        "Redis is away; rate limits are counted by this process alone",
        reason=reason,
    )


def predictions_given(count: int, anomalies: int) -> None:
    PREDICTIONS.inc(count)
    PREDICTED_ANOMALIES.inc(anomalies)


def cache_looked_up(kind: str, *, hit: bool) -> None:
    (CACHE_HITS if hit else CACHE_MISSES).labels(kind).inc()


def cache_unavailable(reason: str) -> None:
    _log(
        logging.WARNING,
        "cache_unavailable",
        "Redis is away; what it would know is asked of PostgreSQL",
        reason=reason,
    )


def port_unprotected(host: str) -> None:
    _log(
        logging.WARNING,
        "port_unprotected",
        "The admin port is open to the network without TLS: keys can be overheard",
        host=host,
    )


def keys_unreadable(reason: str) -> None:
    _log(
        logging.WARNING,
        "keys_unreadable",
        "The API keys cannot be read; those that are known go on being good",
        reason=reason,
    )
