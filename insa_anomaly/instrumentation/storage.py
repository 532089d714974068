"""The log and the states on disk, and the readers' backlog."""

from collections.abc import Mapping
from logging import CRITICAL, ERROR, INFO, WARNING

from insa_anomaly.instrumentation.logger import logged
from insa_anomaly.instrumentation.metrics import DaemonMetrics


@logged(ERROR, "The log cannot be written; nothing is acknowledged until it can")
def log_unwritable(reason: str) -> None: ...
@logged(ERROR, "The log cannot forget what is done; it grows until it can")
def log_not_trimmed(reason: str) -> None: ...
@logged(
    CRITICAL,
    "The log was damaged: it is set aside, what could be read of it begins a new one,"
    " the rest is lost",
)
def log_damaged(aside: str, entries_kept: int, entries_lost: int) -> None: ...
@logged(ERROR, "The states cannot be written; scoring waits until they can")
def state_unwritable(reason: str) -> None: ...
@logged(
    CRITICAL,
    "The file of states was damaged: it is set aside, and all of it is computed again"
    " from what the log still holds",
)
def state_damaged(aside: str) -> None: ...
@logged(INFO, "States restored")
def states_restored(series: int, checkpoint: int, entries_advanced_again: int) -> None: ...
@logged(WARNING, "What waits and what is stored cannot be measured now")
def measuring_failed(reason: str) -> None: ...


def reader_lag(reader: str, entries: int, seconds: float) -> None:
    DaemonMetrics.reader_lag_entries.labels(reader).set(entries)
    DaemonMetrics.reader_lag_seconds.labels(reader).set(seconds)


def outbox_measured(events: int) -> None:
    DaemonMetrics.outbox_events.set(events)


def storage_measured(sizes: Mapping[str, int]) -> None:
    """Publish the sizes on disk in bytes, by the kind of file."""
    for what, size in sizes.items():
        DaemonMetrics.storage_bytes.labels(what).set(size)
