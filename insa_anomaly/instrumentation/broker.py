"""The connection to the broker, and what it says of our events."""

from logging import ERROR, INFO, WARNING

from insa_anomaly.instrumentation import metrics
from insa_anomaly.instrumentation.logger import log, logged


@logged(INFO, "Connected to the broker")
def broker_connected(host: str, port: int, *, protocol: str, session: bool) -> None:
    metrics.CONNECTIONS.inc()
    metrics.BROKER_CONNECTED.set(1)


@logged(WARNING, "The broker connection ended; reconnecting")
def broker_disconnected(reason: str) -> None:
    metrics.BROKER_CONNECTED.set(0)


@logged(ERROR, "The broker refuses us")
def broker_refused(reason: str) -> None:
    metrics.BROKER_CONNECTED.set(0)


@logged(ERROR, "Another client seems to connect with our client id: give each its own", digits=1)
def broker_taken_over(client_id: str, reason: str, retry_seconds: float) -> None:
    metrics.BROKER_CONNECTED.set(0)
    metrics.TAKEN_OVER.inc()


@logged(
    WARNING,
    "The broker had forgotten our session: what it queued for us while we were away is lost",
)
def session_lost() -> None:
    metrics.SESSIONS_LOST.inc()


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
    metrics.EVENTS_TOLD.inc()
    if seconds is not None:
        metrics.EVENT_SECONDS.observe(seconds)


@logged(ERROR, "The broker refused an event")
def event_refused(topic: str, reason: str) -> None:
    metrics.EVENTS_REFUSED.labels("broker").inc()


def event_dropped() -> None:
    metrics.EVENTS_DROPPED.inc()
