"""Decisions of the daily health check, and their outcomes."""

from logging import DEBUG, ERROR, INFO, WARNING

from insa_anomaly.core.operations.model_health import Decision
from insa_anomaly.instrumentation import metrics
from insa_anomaly.instrumentation.logger import log, logged


def health_decided(one: Decision) -> None:
    metrics.HEALTH_DECISIONS.labels(one.cause, one.kind).inc()
    log(
        {"disable": ERROR, "escalate": WARNING}.get(one.kind, INFO),
        f"health_{one.kind}",
        f"Health check: {one.kind.replace('_', ' ')}",
        cause=one.cause,
        reason=one.reason,
        device_id=one.device_id,
        metric_name=one.metric_name,
        model_id=one.model_id,
    )


def health_acted(one: Decision, outcome: str) -> None:
    log(
        DEBUG,
        "health_acted",
        "A decision of the health check was carried out",
        kind=one.kind,
        device_id=one.device_id,
        metric_name=one.metric_name,
        outcome=outcome,
    )


@logged(INFO, "Health check")
def health_checked(summary: str, seconds: float, *, healthy: bool) -> None:
    metrics.FLEET_HEALTHY.set(healthy)
    metrics.HEALTH_SECONDS.set(seconds)


@logged(WARNING, "The health check, or what it decided, waits")
def health_unreachable(reason: str) -> None: ...
