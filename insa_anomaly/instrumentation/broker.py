"""The connection to the broker, and what it says of our events."""

from logging import ERROR, INFO, WARNING

from insa_anomaly.instrumentation.logger import log, logged
from insa_anomaly.instrumentation.metrics import DaemonMetrics


@logged(INFO, "Connected to the broker", DaemonMetrics.broker_connections)
def broker_connected(host: str, port: int, *, protocol: str, session: bool) -> None:
    DaemonMetrics.broker_connected.set(1)


@logged(WARNING, "The broker connection ended; reconnecting")
def broker_disconnected(reason: str) -> None:
    DaemonMetrics.broker_connected.set(0)


@logged(ERROR, "The broker refuses us")
def broker_refused(reason: str) -> None:
    DaemonMetrics.broker_connected.set(0)


@logged(ERROR, "Another client seems to connect with our client id: give each its own", digits=1)
def broker_taken_over(client_id: str, reason: str, retry_seconds: float) -> None:
    DaemonMetrics.broker_connected.set(0)
    DaemonMetrics.broker_takeovers.inc()


@logged(
    WARNING,
    "The broker had forgotten our session: what it queued for us while we were away is lost",
    DaemonMetrics.broker_sessions_lost,
)
def session_lost() -> None: ...


def delivery_doubted(doubt: str | None) -> None:
    """Report that the broker may not deliver; `doubt` None: the broker delivers after all."""
    if doubt is None:
        log(INFO, "delivery_proved", "The broker delivers to us")
    else:
        message = "Nothing proves that the broker delivers to us"
        log(ERROR, "delivery_doubted", message, reason=doubt)


def event_told(seconds: float | None) -> None:
    """Count a published event; `seconds` since its reading arrived.

    `seconds` is None for an event that waited in the outbox for an unknown time.
    """
    DaemonMetrics.events_told.inc()
    if seconds is not None:
        DaemonMetrics.receive_to_event_seconds.observe(seconds)


@logged(ERROR, "The broker refused an event", DaemonMetrics.events_refused.labels("broker"))
def event_refused(topic: str, reason: str) -> None: ...


def event_dropped() -> None:
    DaemonMetrics.events_dropped.inc()
