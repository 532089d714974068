"""Readings, their scores, and the episodes that they open and close."""

from logging import DEBUG, INFO
from math import inf

from insa_anomaly.core.notification.event import Event
from insa_anomaly.instrumentation.logger import fields, log, logged
from insa_anomaly.instrumentation.metrics import DaemonMetrics


@logged(DEBUG, "A message was rejected")
def message_rejected(reason: str, detail: str, topic: str) -> None:
    DaemonMetrics.rejected_messages.labels(reason).inc()


def readings_scored(count: int, anomalies: int, seconds: float, since: float | None) -> None:
    """Count scored readings, and observe the time that scoring took (`seconds`).

    `since` is the time since the oldest reading was received, None if unknown.
    """
    DaemonMetrics.readings.inc(count)
    DaemonMetrics.anomalies.inc(anomalies)
    DaemonMetrics.score_batch_seconds.observe(seconds)
    if since is not None:
        DaemonMetrics.receive_to_score_seconds.observe(since)


def batches_scored(seconds: float) -> tuple[int, int]:
    """Return the batches scored since the start, and the number that took longer than `seconds`.

    Between two buckets, the lower bound counts.
    """
    [metric] = DaemonMetrics.score_batch_seconds.collect()
    below = {
        float(sample.labels["le"]): int(sample.value)
        for sample in metric.samples
        if sample.name.endswith("_bucket")
    }
    bound = max((bound for bound in below if bound <= seconds), default=min(below))
    return below[inf], below[inf] - below[bound]


def episode_changed(event: Event) -> None:
    DaemonMetrics.episode_transitions.labels(event.kind).inc()
    shown = fields(event, "device_id metric_name value expected confidence episode_id")
    shown["confidence"] = round(event.confidence, 3)
    log(INFO, f"episode_{event.kind}", f"Episode {event.kind}", **shown)


def series_known(series: int, with_model: int) -> None:
    DaemonMetrics.series.set(series)
    DaemonMetrics.series_with_model.set(with_model)
