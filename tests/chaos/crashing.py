"""The daemon that kills itself at a named place, the nth time it arrives there.

`python -m tests.chaos.crashing <place> <n> run ...`
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

from insa_anomaly.adapters.disk import models
from insa_anomaly.adapters.disk.log import LogFile
from insa_anomaly.adapters.disk.state import StateFile
from insa_anomaly.adapters.mqtt import MqttConnection
from insa_anomaly.adapters.postgres.recorder import PostgresRecorder
from insa_anomaly.cli import main
from insa_anomaly.runtime import daemon
from insa_anomaly.runtime.fleet.fleet import Fleet

Crash = Callable[[], None]


def before(owner: type, name: str) -> Callable[[Crash], None]:
    """Crash at the beginning of this method."""

    def arm(crash: Crash) -> None:
        plain = getattr(owner, name)

        def crashing(*values: Any, **named: Any) -> object:  # noqa: ANN401 - any arguments
            crash()
            return plain(*values, **named)

        patch.object(owner, name, crashing).start()

    return arm


def after(owner: type, name: str) -> Callable[[Crash], None]:
    """Crash at the end of this method."""

    def arm(crash: Crash) -> None:
        plain = getattr(owner, name)

        def crashing(*values: Any, **named: Any) -> object:  # noqa: ANN401 - any arguments
            answer = plain(*values, **named)
            crash()
            return answer

        patch.object(owner, name, crashing).start()

    return arm


def before_commit_of(name: str) -> Callable[[Crash], None]:
    """Crash within this method of the state, after all writes and before the commit."""

    def arm(crash: Crash) -> None:
        plain, transaction, within = getattr(StateFile, name), StateFile._transaction, list[str]()

        @contextmanager
        def watched(self: StateFile) -> Iterator[None]:
            with transaction(self):
                yield
                if within:
                    crash()

        def method(*values: Any) -> object:  # noqa: ANN401 - any arguments
            within.append(name)
            try:
                return plain(*values)
            finally:
                within.pop()

        patch.object(StateFile, "_transaction", watched).start()
        patch.object(StateFile, name, method).start()

    return arm


def in_a_rename(crash: Crash) -> None:
    """Crash where a file of a model is written and does not have its name yet."""
    plain = os.fsync

    def crashing(descriptor: int) -> None:
        plain(descriptor)
        crash()

    patch.object(os, "fsync", crashing).start()


# Places in the daemon's stream.
PLACES: dict[str, Callable[[Crash], None]] = {
    "before the log is written": before(LogFile, "append"),
    "after the log is written, before PUBACK": after(LogFile, "append"),
    "after PUBACK": after(MqttConnection, "acknowledge"),
    "before a commit of results": before_commit_of("commit"),
    "after a commit of results": after(StateFile, "commit"),
    "in a checkpoint": before_commit_of("checkpoint"),
    "after a checkpoint": after(StateFile, "checkpoint"),
    "between insert and commit": before(PostgresRecorder, "_finish"),
    "after the database's commit, before it is known": after(PostgresRecorder, "record"),
    "before recorded results are forgotten": before(StateFile, "forget"),
    "before log rows are dropped": before(LogFile, "drop"),
    "while log rows are dropped": after(LogFile, "_drop_some"),
    "between publish and PUBACK": after(MqttConnection, "publish"),
    "between PUBACK and what is told": before(StateFile, "told"),
    "in a model swap": before(Fleet, "swap"),
    "after a model swap": after(Fleet, "swap"),
}
# Places in a training.
TRAINING_PLACES: dict[str, Callable[[Crash], None]] = {
    "in a model's rename": in_a_rename,
    "before the index knows the model": before(models.ModelFiles, "_enter"),
    "after the index knows the model": after(models.ModelFiles, "_enter"),
}


def crash_at(nth: int) -> Crash:
    """Kill this process the nth time the function is called."""
    calls = count(1)

    def crash() -> None:
        if next(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    return crash


if __name__ == "__main__":
    place, nth = sys.argv.pop(1), int(sys.argv.pop(1))
    # With the usual pause the daemon reaches some places only every ten seconds.
    patch.object(daemon, "TRIM_SECONDS", 0.5).start()
    (PLACES | TRAINING_PLACES)[place](crash_at(nth))
    main()
