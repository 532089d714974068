"""The recorder: pages and rows that PostgreSQL records, refuses and forgets."""

from collections.abc import Mapping
from logging import ERROR, INFO, WARNING

from insa_anomaly.core.reading.reading import RejectionReason
from insa_anomaly.instrumentation.logger import log, logged
from insa_anomaly.instrumentation.metrics import DaemonMetrics


def page_recorded(readings: int) -> None:
    DaemonMetrics.database_connected.set(1)
    DaemonMetrics.readings_recorded.inc(readings)


@logged(WARNING, "PostgreSQL is away; readings wait in the log", digits=2)
def database_away(reason: str, retry_seconds: float) -> None:
    DaemonMetrics.database_connected.set(0)


@logged(ERROR, "PostgreSQL refuses what we record; readings wait in the log")
def database_refused(reason: str) -> None:
    DaemonMetrics.database_connected.set(0)


@logged(INFO, "PostgreSQL records again")
def database_back() -> None:
    DaemonMetrics.database_connected.set(1)


def message_unrecordable(reason: str, detail: str, topic: str) -> None:
    DaemonMetrics.rejected_messages.labels(reason).inc()
    message = (
        "PostgreSQL refuses what a message holds: it is a dead letter, the others are recorded"
    )
    log(WARNING, "message_unrecordable", message, reason=detail, topic=topic)


def letters_dropped(by_reason: Mapping[RejectionReason, int]) -> None:
    for reason, count in by_reason.items():
        DaemonMetrics.dead_letters_dropped.labels(reason).inc(count)
    if by_reason:
        message = "Too many messages hold no reading: a sample of them is kept"
        counts = {str(reason): count for reason, count in by_reason.items()}
        log(WARNING, "letters_dropped", message, **counts)


@logged(
    WARNING,
    "Weeks of telemetry could not be made ahead, or what is too old not forgotten:"
    " tried again within the hour",
)
def upkeep_failed(reason: str) -> None: ...
@logged(INFO, "What is older than the settings keep is deleted")
def forgotten(what: str, count: int) -> None: ...
