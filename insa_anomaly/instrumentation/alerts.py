"""Alerts from the decision to the delivery, and devices that are silent."""

from collections.abc import Collection, Mapping
from logging import CRITICAL, ERROR, INFO, WARNING

from insa_anomaly.core.notification.alert import Alert
from insa_anomaly.instrumentation import metrics
from insa_anomaly.instrumentation.logger import log, logged


def alert_targets_known(targets: Collection[str]) -> None:
    """Create the metrics of every target at 0, so that the first alert is seen as a rise."""
    for target in targets:
        for metric in metrics.OF_TARGETS:
            metric.labels(target)


def alerts_decided(sent: Collection[str], held: Mapping[str, int]) -> None:
    """Count the alerts to deliver by target (`sent`), and the alerts beyond the budget (`held`)."""
    for target in sent:
        metrics.ALERTS.labels(target).inc()
    for target, count in held.items():
        metrics.ALERTS_HELD.labels(target).inc(count)


@logged(WARNING, "The daily budget of alerts is spent: what comes now waits for a summary")
def alert_budget_spent(target: str) -> None: ...


def alerts_waiting(backlog: Mapping[str, int]) -> None:
    for target, count in backlog.items():
        metrics.ALERT_BACKLOG.labels(target).set(count)


def alert_delivered(target: str, seconds: float) -> None:
    metrics.ALERTS_DELIVERED.labels(target).inc()
    metrics.ALERT_SECONDS.observe(seconds)


def target_away(target: str, error: Exception, retry_seconds: float, *, resting: bool) -> None:
    metrics.ALERTS_FAILED.labels(target).inc()
    metrics.TARGET_RESTING.labels(target).set(resting)
    message = "An alert could not be delivered; it is tried again"
    fields = {"reason": str(error) or repr(error), "retry_seconds": round(retry_seconds, 1)}
    log(WARNING, "target_away", message, target=target, **fields)


@logged(INFO, "Alerts are delivered again")
def target_answers(target: str) -> None:
    metrics.TARGET_RESTING.labels(target).set(0)


def recipients_refused(recipients: Collection[str]) -> None:
    message = "The mail server takes an alert, but not for everybody"
    log(ERROR, "recipients_refused", message, recipients=list(recipients))


def alert_given_up(target: str, alert: Alert, reason: str) -> None:
    metrics.ALERTS_DEAD.labels(target).inc()
    log(
        ERROR,
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
    message = "The delivery of alerts ran into a fault; it goes on"
    log(ERROR, "courier_stumbled", message, target=target, exc_info=error)


@logged(ERROR, "The file of alerts cannot be used now; events wait until it can")
def alerts_unwritable(reason: str) -> None: ...
@logged(
    CRITICAL,
    "The file of alerts was damaged: it is set aside, and what it still had to deliver with it",
)
def alerts_damaged(aside: str) -> None: ...


def silence_changed(kind: str, device_id: str | None, reason: str) -> None:
    metrics.SILENCES.labels(kind).inc()
    level = INFO if kind.endswith("_back") else WARNING
    log(level, kind, kind.replace("_", " ").capitalize(), device_id=device_id, reason=reason)


def silent_watched(devices: int, *, stream: bool) -> None:
    metrics.DEVICES_SILENT.set(devices)
    metrics.STREAM_SILENT.set(stream)
