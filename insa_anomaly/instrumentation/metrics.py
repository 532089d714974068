"""Metrics: what the daemon and its admin port count, and the texts that Prometheus reads.

Labels are bounded: a device or a series is no label, except in the figures of single models, which
are a text of their own. Values that are known beforehand start at 0, so that the first rise is
seen. `dashboards/README.md` lists all metrics.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import product
from typing import ClassVar, Generic, NamedTuple, TypeVar

from prometheus_client import Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from insa_anomaly.core.notification.event import Transition
from insa_anomaly.core.reading.reading import RejectionReason

M = TypeVar("M", Counter, Gauge, Histogram)
REGISTRY = CollectorRegistry()
PORT = CollectorRegistry()  # of the admin port's process; the other registry is the daemon's
# Values of the label of `insa_trouble`.
TROUBLES = ("broker", "canary", "log", "state", "database", "events", "alerts", "admin", "thread")
_READERS = ("score", "record")
_CACHED = ("anomaly_count",)
_SERIES = ("device_id", "metric_name")
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


def _define(metric: Collector, labels: Iterable[str] = ()) -> None:
    """Record a metric; its unit is the end of its name, as Prometheus prefers.

    A metric without a unit is a count, or is 1 for yes and 0 for no.
    """
    for family in metric.collect():
        name, text = family.name, family.documentation.rstrip(".")
        unit = "0 or 1" if text.startswith("1 w") else _UNITS.get(name.rsplit("_", 1)[-1], "count")
        name += "_total" * (family.type == "counter")
        _DEFINED.append(Definition(name, family.type, unit, tuple(labels), text))


class _Named(Generic[M]):
    """A metric, made under the name of the attribute that holds it.

    `labels` are the names of the labels, and the values of each that are known beforehand.
    """

    metric: M

    def __init__(self, kind: Callable[..., M], text: str, /, **labels: Iterable[str]) -> None:
        self._made: Callable[..., M] = partial(kind, documentation=text, labelnames=labels)
        self.labels = labels

    def __set_name__(self, owner: type["_MetricTable"], name: str) -> None:
        self.metric = self._made(f"insa_{name}", registry=owner.registry)
        _define(self.metric, self.labels)
        _from_zero(self.metric, self.labels)

    def __get__(self, instance: object, owner: type) -> M:
        return self.metric


def _from_zero(metric: Counter | Gauge | Histogram, labels: Mapping[str, Iterable[str]]) -> None:
    """Start the values of the labels that are known beforehand at 0."""
    for values in product(*labels.values()) if labels else ():
        metric.labels(*values)


_count, _gauge = partial(_Named[Counter], Counter), partial(_Named[Gauge], Gauge)
_histogram = partial(_Named[Histogram], partial(Histogram, buckets=_LATENCY))


class _MetricTable:
    registry: ClassVar[CollectorRegistry]


class DaemonMetrics(_MetricTable):
    """Metrics of the daemon."""

    registry = REGISTRY
    messages = _count("Messages written to the log")
    readings = _count("Readings scored, late and duplicate ones included")
    rejected_messages = _count("Messages that hold no reading we can take", reason=RejectionReason)
    dead_letters_dropped = _count(
        "Rejected messages of which nothing is kept, because there were too many",
        reason=RejectionReason,
    )
    anomalies = _count("Readings with a score below 0")
    episode_transitions = _count(
        "Transitions of episodes",
        kind=[each.name.lower() for each in Transition if each is not Transition.NONE],
    )
    events_told = _count("Events acknowledged by the broker")
    events_refused = _count("Events refused by the broker", reason=("broker",))
    events_dropped = _count("Events given up because the broker refused too many")
    readings_recorded = _count("Readings recorded in PostgreSQL")
    models_trained = _count("Models trained")
    trainings_failed = _count("Trainings that ended without a model")
    models_failed = _count("Models put aside because their files are not what was written")
    broker_connected = _gauge("1 while the broker connection stands")
    broker_connections = _count("Connections made to the broker")
    broker_sessions_lost = _count("Connections on which the broker had forgotten our session")
    broker_takeovers = _count("Connections ended because another client uses our client id")
    messages_shed = _count("Messages given back to the broker because the hand-over was full")
    certificate_expires_seconds = _gauge(
        "Until a certificate in use ends: the broker's, our own to it, the port's", of=()
    )
    database_connected = _gauge("1 while PostgreSQL takes what we record")
    clock_steps = _count("Steps of the system clock by more than a second")
    reader_lag_entries = _gauge(
        "Entries of the log that a reader has not dealt with", reader=_READERS
    )
    reader_lag_seconds = _gauge(
        "Since the oldest entry that a reader has not dealt with was received", reader=_READERS
    )
    outbox_events = _gauge("Events that wait to be told, or were told a moment ago")
    storage_bytes = _gauge("Size of the files on disk", what=())
    series = _gauge("Series known")
    series_with_model = _gauge("Series that have a model")
    degraded = _gauge("1 while something keeps the daemon from doing all of its job")
    trouble = _gauge("1 while this is in trouble", what=TROUBLES)
    alerts = _count("Alerts decided on, summaries included", target=())
    alerts_held = _count(
        "Alerts beyond the daily budget, which became part of a summary", target=()
    )
    alerts_delivered = _count("Alerts delivered", target=())
    alerts_failed = _count("Attempts to deliver an alert that failed", target=())
    alerts_dead = _count("Alerts given up", target=())
    alert_backlog = _gauge("Alerts that wait to be delivered", target=())
    target_resting = _gauge(
        "1 while a target that failed several times in a row is left alone", target=()
    )
    silences = _count(
        "Devices, or the stream, that went silent or came back",
        kind=("device_silent", "device_back", "stream_silent", "stream_back"),
    )
    devices_silent = _gauge("Devices that are silent")
    stream_silent = _gauge("1 while the stream as a whole is silent")
    alert_seconds = _histogram("From the decision on an alert to its delivery")
    health_decisions = _count("Decisions of the daily health check", cause=(), kind=())
    fleet_healthy = _gauge(
        "1 where the last health check of this daemon found nothing that a person should look at"
    )
    health_check_seconds = _gauge("How long the last health check of this daemon took")
    receive_to_durable_seconds = _histogram("From receipt to the acknowledgement")
    receive_to_score_seconds = _histogram(
        "From receipt of the oldest reading of a batch to its score, committed"
    )
    receive_to_event_seconds = _histogram(
        "From receipt of a reading to the broker's word that it has its event"
    )
    score_batch_seconds = _histogram("Scoring of one batch")


class PortMetrics(_MetricTable):
    """Metrics of the admin port's process."""

    registry = PORT
    requests_denied = _count("Requests to the admin API that were denied", reason=())
    requests_too_slow = _count(
        "Connections to the admin API ended because a request did not come whole in time"
    )
    predictions = _count("Predictions given over the admin API")
    predicted_anomalies = _count(
        "Predictions given over the admin API of values that would be anomalous"
    )
    cache_hits = _count(
        "Answers of the admin API that were found in memory or in Redis", kind=_CACHED
    )
    cache_misses = _count(
        "Answers of the admin API that had to be asked of PostgreSQL", kind=_CACHED
    )


OF_TARGETS: list[Counter | Gauge] = [
    each.metric
    for each in vars(DaemonMetrics).values()
    if isinstance(each, _Named) and "target" in each.labels
]
for _causes, _kinds in (
    (("age", "degraded"), ("retrain",)),
    (("failing",), ("disable",)),
    (("silent",), ("retire",)),
    (("inactive",), ("clean_up",)),
    (("degraded", "failing", "slow"), ("escalate", "recover")),
):
    _from_zero(DaemonMetrics.health_decisions, {"cause": _causes, "kind": _kinds})
_define(ProcessCollector(registry=REGISTRY))


def _model_gauges(registry: CollectorRegistry) -> list[Gauge]:
    accuracy = "Accuracy of the model that serves, as assessed at its training"
    rate = "False positive rate of the model that serves, of readings, as assessed at its training"
    texts = {"insa_model_accuracy": accuracy, "insa_model_false_positive_rate": rate}
    return [Gauge(name, text, _SERIES, registry=registry) for name, text in texts.items()]


for _model_gauge in _model_gauges(CollectorRegistry()):
    _define(_model_gauge, _SERIES)


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

    `figures` are (device_id, metric_name, accuracy, false positive rate); an unknown figure is left
    out. The metrics are as many as the models, so they are scraped separately and rarely.
    """
    registry = CollectorRegistry()
    gauges = _model_gauges(registry)
    for device_id, metric_name, *known in figures:
        for gauge, figure in zip(gauges, known, strict=True):
            if figure is not None:
                gauge.labels(device_id, metric_name).set(figure)
    return generate_latest(registry)
