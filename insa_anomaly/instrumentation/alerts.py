"""Alerts from the decision to the delivery, and devices that are silent."""

from collections.abc import Collection, Mapping
from logging import CRITICAL, ERROR, INFO, WARNING

from insa_anomaly.core.notification.alert import Alert
from insa_anomaly.instrumentation.logger import fields, log, logged
from insa_anomaly.instrumentation.metrics import OF_TARGETS, DaemonMetrics


def alert_targets_known(targets: Collection[str]) -> None:
    """Create the metrics of every target at 0, so that the first alert is seen as a rise."""
    for target in targets:
        for metric in OF_TARGETS:
            metric.labels(target)


def alerts_decided(sent: Collection[str], held: Mapping[str, int]) -> None:
    """Count the alerts to deliver by target (`sent`), and the alerts beyond the budget (`held`)."""
    for target in sent:
        DaemonMetrics.alerts.labels(target).inc()
    for target, count in held.items():
        DaemonMetrics.alerts_held.labels(target).inc(count)


@logged(WARNING, "The daily budget of alerts is spent: what comes now waits for a summary")
def alert_budget_spent(target: str) -> None: ...


def alerts_waiting(backlog: Mapping[str, int]) -> None:
    for target, count in backlog.items():
        DaemonMetrics.alert_backlog.labels(target).set(count)


def alert_delivered(target: str, seconds: float) -> None:
    DaemonMetrics.alerts_delivered.labels(target).inc()
    DaemonMetrics.alert_seconds.observe(seconds)


def target_away(target: str, error: Exception, retry_seconds: float, *, resting: bool) -> None:
    DaemonMetrics.alerts_failed.labels(target).inc()
    DaemonMetrics.target_resting.labels(target).set(resting)
    message = "An alert could not be delivered; it is tried again"
    reason, pause = str(error) or repr(error), round(retry_seconds, 1)
    log(WARNING, "target_away", message, target=target, reason=reason, retry_seconds=pause)


@logged(INFO, "Alerts are delivered again")
def target_answers(target: str) -> None:
    DaemonMetrics.target_resting.labels(target).set(0)


def alert_given_up(target: str, alert: Alert, reason: str) -> None:
    DaemonMetrics.alerts_dead.labels(target).inc()
    shown = {"target": target, "reason": reason, **fields(alert, "event_id kind text")}
    message = "An alert was not delivered and will not be"
    log(ERROR, "alert_given_up", message, **shown, about=alert.subject)


@logged(ERROR, "The mail server takes an alert, but not for everybody")
def recipients_refused(recipients: list[str]) -> None: ...
@logged(ERROR, "The delivery of alerts ran into a fault; it goes on")
def courier_stumbled(target: str, exc_info: Exception) -> None: ...
@logged(ERROR, "The file of alerts cannot be used now; events wait until it can")
def alerts_unwritable(reason: str) -> None: ...
@logged(
    CRITICAL,
    "The file of alerts was damaged: it is set aside, and what it still had to deliver with it",
)
def alerts_damaged(aside: str) -> None: ...


def silence_changed(kind: str, device_id: str | None, reason: str) -> None:
    DaemonMetrics.silences.labels(kind).inc()
    level = INFO if kind.endswith("_back") else WARNING
    log(level, kind, kind.replace("_", " ").capitalize(), device_id=device_id, reason=reason)


def silent_watched(devices: int, *, stream: bool) -> None:
    DaemonMetrics.devices_silent.set(devices)
    DaemonMetrics.stream_silent.set(stream)
