"""Decisions of the daily health check, and their outcomes."""

from logging import DEBUG, ERROR, INFO, WARNING

from insa_anomaly.core.operations.model_health import Decision
from insa_anomaly.instrumentation.logger import fields, log, logged
from insa_anomaly.instrumentation.metrics import DaemonMetrics


def health_decided(one: Decision) -> None:
    DaemonMetrics.health_decisions.labels(one.cause, one.kind).inc()
    level = {"disable": ERROR, "escalate": WARNING}.get(one.kind, INFO)
    message = f"Health check: {one.kind.replace('_', ' ')}"
    shown = fields(one, "cause reason device_id metric_name model_id")
    log(level, f"health_{one.kind}", message, **shown)


def health_acted(one: Decision, outcome: str) -> None:
    message = "A decision of the health check was carried out"
    shown = fields(one, "kind device_id metric_name")
    log(DEBUG, "health_acted", message, **shown, outcome=outcome)


@logged(INFO, "Health check")
def health_checked(summary: str, seconds: float, *, healthy: bool) -> None:
    DaemonMetrics.fleet_healthy.set(healthy)
    DaemonMetrics.health_check_seconds.set(seconds)


@logged(WARNING, "The health check, or what it decided, waits")
def health_unreachable(reason: str) -> None: ...
