"""Metrics: what the daemon and its admin port count, and the texts that Prometheus reads.

Labels are bounded: a device or a series is no label, except in the figures of single models, which
are a text of their own. Values that are known beforehand start at 0, so that the first rise is
seen. `dashboards/README.md` lists all metrics.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import NamedTuple, TypeVar

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

from insa_anomaly.core.notification.event import Transition
from insa_anomaly.core.reading.reading import RejectionReason

M = TypeVar("M", Counter, Gauge)
REGISTRY = CollectorRegistry()
PORT = CollectorRegistry()  # of the admin port's process; the other registry is the daemon's
# Values of the label of `insa_trouble`.
TROUBLES = ("broker", "canary", "log", "state", "database", "events", "alerts", "admin", "thread")
_READERS = ("score", "record")
_CACHED = ("anomaly_count",)
_UNITS = {unit: unit for unit in ("seconds", "bytes", "entries", "events")}
_UNITS |= {"rate": "share", "accuracy": "share"}
_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)


class Definition(NamedTuple):
    """Description of a metric, for readers of dashboards."""

    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    text: str


_DEFINED: list[Definition] = []


def _define(name: str, kind: str, text: str, labels: Iterable[str] = ()) -> None:
    """Record a metric; its unit is the end of its name, as Prometheus prefers.

    A metric without a unit is a count, or is 1 for yes and 0 for no.
    """
    end = name.removesuffix("_total").rsplit("_", 1)[-1]
    unit = "0 or 1" if text.startswith("1 w") else _UNITS.get(end, "count")
    _DEFINED.append(Definition(name, kind, unit, tuple(labels), text))


def _counter(
    name: str, text: str, *, registry: CollectorRegistry = REGISTRY, **labels: Iterable[str]
) -> Counter:
    _define(f"insa_{name}_total", "counter", text, labels)
    return _from_zero(Counter(f"insa_{name}", text, labels, registry=registry), labels)


def _gauge(name: str, text: str, **labels: Iterable[str]) -> Gauge:
    _define(f"insa_{name}", "gauge", text, labels)
    return _from_zero(Gauge(f"insa_{name}", text, labels, registry=REGISTRY), labels)


def _from_zero(metric: M, labels: Mapping[str, Iterable[str]]) -> M:
    """Start the values of the labels that are known beforehand at 0."""
    for values in product(*labels.values()) if labels else ():
        metric.labels(*values)
    return metric


def _histogram(name: str, text: str) -> Histogram:
    _define(f"insa_{name}", "histogram", text)
    return Histogram(f"insa_{name}", text, buckets=_LATENCY, registry=REGISTRY)


MESSAGES = _counter("messages", "Messages written to the log")
READINGS = _counter("readings", "Readings scored, late and duplicate ones included")
REJECTED = _counter(
    "rejected_messages", "Messages that hold no reading we can take", reason=RejectionReason
)
LETTERS_DROPPED = _counter(
    "dead_letters_dropped",
    "Rejected messages of which nothing is kept, because there were too many",
    reason=RejectionReason,
)
ANOMALIES = _counter("anomalies", "Readings with a score below 0")
EPISODES = _counter(
    "episode_transitions",
    "Transitions of episodes",
    kind=[each.name.lower() for each in Transition if each is not Transition.NONE],
)
EVENTS_TOLD = _counter("events_told", "Events acknowledged by the broker")
EVENTS_REFUSED = _counter("events_refused", "Events refused by the broker", reason=("broker",))
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
    of=(),
)
DATABASE_CONNECTED = _gauge("database_connected", "1 while PostgreSQL takes what we record")
CLOCK_STEPS = _counter("clock_steps", "Steps of the system clock by more than a second")
READER_LAG = _gauge(
    "reader_lag_entries", "Entries of the log that a reader has not dealt with", reader=_READERS
)
READER_LAG_SECONDS = _gauge(
    "reader_lag_seconds",
    "Since the oldest entry that a reader has not dealt with was received",
    reader=_READERS,
)
OUTBOX = _gauge("outbox_events", "Events that wait to be told, or were told a moment ago")
STORAGE = _gauge("storage_bytes", "Size of the files on disk", what=())
SERIES = _gauge("series", "Series known")
SERIES_WITH_MODEL = _gauge("series_with_model", "Series that have a model")
REQUESTS_DENIED = _counter(
    "requests_denied", "Requests to the admin API that were denied", reason=(), registry=PORT
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
TROUBLE = _gauge("trouble", "1 while this is in trouble", what=TROUBLES)
CACHE_HITS = _counter(
    "cache_hits",
    "Answers of the admin API that were found in memory or in Redis",
    kind=_CACHED,
    registry=PORT,
)
CACHE_MISSES = _counter(
    "cache_misses",
    "Answers of the admin API that had to be asked of PostgreSQL",
    kind=_CACHED,
    registry=PORT,
)
ALERTS = _counter("alerts", "Alerts decided on, summaries included", target=())
ALERTS_HELD = _counter(
    "alerts_held", "Alerts beyond the daily budget, which became part of a summary", target=()
)
ALERTS_DELIVERED = _counter("alerts_delivered", "Alerts delivered", target=())
ALERTS_FAILED = _counter("alerts_failed", "Attempts to deliver an alert that failed", target=())
ALERTS_DEAD = _counter("alerts_dead", "Alerts given up", target=())
ALERT_BACKLOG = _gauge("alert_backlog", "Alerts that wait to be delivered", target=())
TARGET_RESTING = _gauge(
    "target_resting", "1 while a target that failed several times in a row is left alone", target=()
)
OF_TARGETS = (
    ALERTS,
    ALERTS_HELD,
    ALERTS_DELIVERED,
    ALERTS_FAILED,
    ALERTS_DEAD,
    ALERT_BACKLOG,
    TARGET_RESTING,
)
SILENCES = _counter(
    "silences",
    "Devices, or the stream, that went silent or came back",
    kind=("device_silent", "device_back", "stream_silent", "stream_back"),
)
DEVICES_SILENT = _gauge("devices_silent", "Devices that are silent")
STREAM_SILENT = _gauge("stream_silent", "1 while the stream as a whole is silent")
ALERT_SECONDS = _histogram("alert_seconds", "From the decision on an alert to its delivery")
HEALTH_DECISIONS = _counter(
    "health_decisions", "Decisions of the daily health check", cause=(), kind=()
)
for _causes, _kinds in (
    (("age", "degraded"), ("retrain",)),
    (("failing",), ("disable",)),
    (("silent",), ("retire",)),
    (("inactive",), ("clean_up",)),
    (("degraded", "failing", "slow"), ("escalate", "recover")),
):
    _from_zero(HEALTH_DECISIONS, {"cause": _causes, "kind": _kinds})
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
    _total = "_total" * (_family.type == "counter")
    _define(_family.name + _total, _family.type, _family.documentation.rstrip("."))

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


def definitions() -> tuple[Definition, ...]:
    """Return every metric: of the daemon, of its process, of single models."""
    return tuple(_DEFINED)


def metrics_text() -> bytes:
    """Return the daemon's metrics, except of single models, in Prometheus' text format."""
    return generate_latest(REGISTRY)


def port_metrics_text() -> bytes:
    """Return the metrics of the admin port's process, in Prometheus' text format."""
    return generate_latest(PORT)


def model_metrics_text(figures: Iterable[tuple[str, str, float | None, float | None]]) -> bytes:
    """Return the metrics of single models in Prometheus' text format.

    The metrics are as many as the models, so they are scraped separately and rarely.
    """
    registry = CollectorRegistry()
    registry.register(ModelMetrics(figures))
    return generate_latest(registry)
