"""Readings, their scores, and the episodes that they open and close."""

from logging import DEBUG, INFO
from math import inf

from insa_anomaly.core.notification.event import Event
from insa_anomaly.instrumentation import metrics
from insa_anomaly.instrumentation.logger import log, logged


@logged(DEBUG, "A message was rejected")
def message_rejected(reason: str, detail: str, topic: str) -> None:
    metrics.REJECTED.labels(reason).inc()


def readings_scored(count: int, anomalies: int, seconds: float, since: float | None) -> None:
    """Count scored readings, and observe the time that scoring took (`seconds`).

    `since` is the time since the oldest reading was received, None if unknown.
    """
    metrics.READINGS.inc(count)
    metrics.ANOMALIES.inc(anomalies)
    metrics.SCORE_SECONDS.observe(seconds)
    if since is not None:
        metrics.RESULT_SECONDS.observe(since)


def batches_scored(seconds: float) -> tuple[int, int]:
    """Return the batches scored since the start, and the number that took longer than `seconds`.

    Between two buckets, the lower bound counts.
    """
    [metric] = metrics.SCORE_SECONDS.collect()
    below = {
        float(sample.labels["le"]): int(sample.value)
        for sample in metric.samples
        if sample.name.endswith("_bucket")
    }
    bound = max((bound for bound in below if bound <= seconds), default=min(below))
    return below[inf], below[inf] - below[bound]


def episode_changed(event: Event) -> None:
    metrics.EPISODES.labels(event.kind).inc()
    log(
        INFO,
        f"episode_{event.kind}",
        f"Episode {event.kind}",
        device_id=event.device_id,
        metric_name=event.metric_name,
        value=event.value,
        expected=event.expected,
        confidence=round(event.confidence, 3),
        episode_id=event.episode_id,
    )


def series_known(series: int, with_model: int) -> None:
    metrics.SERIES.set(series)
    metrics.SERIES_WITH_MODEL.set(with_model)
