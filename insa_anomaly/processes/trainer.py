"""The process that trains: started with its settings, fed with orders, a line each."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.adapters.postgres import roles
from insa_anomaly.adapters.postgres.catalogue import PostgresCatalogue
from insa_anomaly.adapters.postgres.connection import as_role
from insa_anomaly.adapters.postgres.history import PostgresHistory
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.workers import DaskWorkers, LokyWorkers
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import DatabaseAway, DatabaseRefused, InsaError, ModelFileError
from insa_anomaly.instrumentation.logger import set_up_logging
from insa_anomaly.instrumentation.models import catalogue_behind
from insa_anomaly.ports.models import ModelRow
from insa_anomaly.runtime.models.child import (
    FleetTrainingOrder,
    FleetTrainingReply,
    TrainingOrder,
    TrainingProgress,
    TrainingReply,
)
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring.clock import clock
from insa_anomaly.wiring.models import model_files
from insa_anomaly.wiring.training import training_service

CHANGED_MOST = 8  # versions of a series, of which the newest may have changed by a training


def start_child(settings: Settings, dsn: str) -> "subprocess.Popen[bytes]":
    """Start the child. Settings go over its standard input, so that no argument has a secret."""
    argv = [sys.executable, "-m", "insa_anomaly", "train-orders"]
    child = embedded.spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=None)
    assert child.stdin is not None  # noqa: S101 - it was asked for
    reader = as_role(dsn, roles.API if settings.database.roles else None)
    child.stdin.write(
        settings.model_dump_json().encode() + b"\n" + msgspec.json.encode(reader) + b"\n"
    )
    child.stdin.flush()
    return child


def train_orders() -> None:
    """Carry out orders, a line each, until standard input ends; answer each with a line.

    The first two lines are the settings and the database.
    """
    os.nice(10)  # the stream goes first
    # Loads scikit-learn, which the daemon must not
    from insa_anomaly.services.training import Scope  # noqa: PLC0415

    settings = Settings.model_validate_json(sys.stdin.buffer.readline())
    dsn = msgspec.json.decode(sys.stdin.buffer.readline(), type=str)
    set_up_logging(settings.logging.level, settings.logging.form)
    with (
        model_files(settings) as files,
        PostgresHistory(dsn) as history,
        Pool(dsn, settings.database.deadline, 1) as pool,
    ):
        show = partial(show_others, files, PostgresCatalogue(pool))
        service = training_service(settings, files, lambda percent: _say(TrainingProgress(percent)))
        for line in sys.stdin.buffer:
            _say(TrainingProgress(0))
            order = msgspec.json.decode(line, type=TrainingOrder | FleetTrainingOrder)
            if isinstance(order, FleetTrainingOrder):
                workers, scope = _workers(settings, order.processes), Scope(order.window_days)
                found = service.train_many(order.keys, history, clock.now(), workers, scope)
                _say_each(found, show)
            else:
                scope = Scope(order.window_days, order.metrics, order.refit)
                train = partial(service.from_history, order.key, history, clock.now(), scope)
                _say(_answered(train, show))


def _workers(settings: Settings, processes: int | None) -> LokyWorkers | DaskWorkers:
    training = settings.training
    if training.dask_scheduler:
        return DaskWorkers(training.dask_scheduler)
    return LokyWorkers(processes or training.processes)


def _say_each(
    trained: Iterable[tuple[SeriesKey, ModelRow | str, float]], show: Callable[[ModelRow], None]
) -> None:
    for key, found, seconds in trained:
        if isinstance(found, str):
            answer = TrainingReply(round(seconds, 3), None, found)
        else:
            answer = TrainingReply(round(seconds, 3), found.id)
            show(found)
        _say(FleetTrainingReply(key, answer))


def show_others(files: ModelFiles, catalogue: PostgresCatalogue, row: ModelRow) -> None:
    """Write refused and deleted versions to the catalogue.

    The stream writes a version that serves when it swaps the version in.
    """
    newest = files.of_series(row.key)[:CHANGED_MOST]
    changed = [one for one in newest if one.status in {"deleted", "failed"}]
    for one in [*changed, *([row] if row.status != "active" else [])]:
        try:
            catalogue.put(one)
        except (DatabaseAway, DatabaseRefused) as error:
            catalogue_behind(one.id, str(error))
            return


def _say(said: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def _answered(
    train: Callable[[], ModelRow], show: Callable[[ModelRow], None] = lambda _: None
) -> TrainingReply:
    began = time.monotonic()
    model_id, reason, away = None, "", False
    try:
        row = train()
        show(row)
        model_id = row.id
    except InsaError as error:
        reason = str(error)
        away = isinstance(error, (DatabaseAway, DatabaseRefused, ModelFileError))
    return TrainingReply(round(time.monotonic() - began, 3), model_id, reason, away)
