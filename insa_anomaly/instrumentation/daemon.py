"""Start, settings, troubles and end of the daemon."""

import sys
import threading
import traceback
from collections.abc import Collection
from logging import CRITICAL, ERROR, INFO

from insa_anomaly.instrumentation.logger import log, logged
from insa_anomaly.instrumentation.metrics import TROUBLES, DaemonMetrics


def daemon_started(version: str, **fields: object) -> None:
    log(INFO, "daemon_started", "insa-anomaly is running", version=version, **fields)


@logged(INFO, "Stopping")
def daemon_stopping(reason: str) -> None: ...
@logged(INFO, "Stopped", digits=3)
def daemon_stopped(seconds: float) -> None: ...


def settings_read(changed: Collection[str], waiting: Collection[str]) -> None:
    """Report changed settings; `waiting` settings changed in the file but need a restart."""
    fields = {"changed": list(changed), "wait_for_a_restart": list(waiting)}
    log(INFO, "settings_read", "The settings were read again", **fields)


@logged(ERROR, "The settings were read again and hold a mistake: all stay as they are")
def settings_refused(reason: str) -> None: ...


def thread_died(thread: str, error: BaseException) -> None:
    """Report a thread that died or is stuck: the reason, and the stacks of all threads."""
    message = "A thread died; the daemon ends so that it is restarted"
    log(CRITICAL, "thread_died", message, thread=thread, exc_info=error, stacks=_stacks())


def _stacks() -> dict[str, list[str]]:
    names = {each.ident: each.name for each in threading.enumerate()}
    return {
        names.get(ident, str(ident)): [
            f"{place.filename}:{place.lineno} {place.name}"
            for place in traceback.extract_stack(frame)
        ]
        for ident, frame in sys._current_frames().items()  # noqa: SLF001 - the only way to them
    }


def state_watched(troubled: Collection[str]) -> None:
    """Publish the parts that are in trouble; `troubled` is a subset of `TROUBLES`."""
    DaemonMetrics.degraded.set(bool(troubled))
    for part in TROUBLES:
        DaemonMetrics.trouble.labels(part).set(part in troubled)
