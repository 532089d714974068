"""The process that trains: started with its settings, fed with orders, a line each."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from insa_anomaly import instrumentation
from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.adapters.postgres import roles
from insa_anomaly.adapters.postgres.catalogue import PostgresCatalogue
from insa_anomaly.adapters.postgres.connection import as_role
from insa_anomaly.adapters.postgres.history import PostgresHistory
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.workers import DaskWorkers, LokyWorkers
from insa_anomaly.errors import DatabaseAway, DatabaseRefused, InsaError, ModelFileError
from insa_anomaly.ports import ModelRow
from insa_anomaly.runtime.models.child import (
    FleetTrainingOrder,
    FleetTrainingReply,
    TrainingOrder,
    TrainingProgress,
    TrainingReply,
)
from insa_anomaly.settings import Settings
from insa_anomaly.wiring import clock
from insa_anomaly.wiring.models import model_files

if TYPE_CHECKING:
    from insa_anomaly.services.device_training import DeviceTrainingService
    from insa_anomaly.services.fleet_training import FleetTrainingService
    from insa_anomaly.services.training import TrainingService

CHANGED_MOST = 8  # versions of a series, of which the newest may have changed by a training


def start_child(settings: Settings, dsn: str) -> "subprocess.Popen[bytes]":
    """Start it. What it must know goes over its standard input, so that no secret is in an argument."""
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
    """Be it: settings and database on the first two lines of standard input, then an order a line; an answer a line."""
    os.nice(10)  # the stream goes first
    from insa_anomaly.services.device_training import DeviceTrainingService  # noqa: PLC0415 - loads scikit-learn, which the daemon must not
    from insa_anomaly.services.fleet_training import FleetTrainingService  # noqa: PLC0415 - as this does
    from insa_anomaly.services.training import TrainingService  # noqa: PLC0415 - and this

    settings = Settings.model_validate_json(sys.stdin.buffer.readline())
    dsn = msgspec.json.decode(sys.stdin.buffer.readline(), type=str)
    instrumentation.set_up_logging(settings.logging.level, settings.logging.form)
    with (
        model_files(settings) as files,
        PostgresHistory(dsn) as history,
        Pool(dsn, settings.database.deadline, 1) as pool,
    ):
        show = partial(show_others, files, PostgresCatalogue(pool))
        service = TrainingService(
            files,
            settings.detection,
            settings.verdict,
            lambda percent: _say(TrainingProgress(percent)),
        )
        together = settings.devices
        devices = DeviceTrainingService(
            files, together.parameters(settings.detection), together.tolerance, settings.verdict
        )
        for line in sys.stdin.buffer:
            _say(TrainingProgress(0))
            order = msgspec.json.decode(line, type=TrainingOrder | FleetTrainingOrder)
            if isinstance(order, FleetTrainingOrder):
                fleet = FleetTrainingService(service, devices, _workers(settings, order.processes))
                _obey_many(fleet, history, order, show)
            else:
                _say(_answered(partial(_obey, service, devices, history, order), show))


def _workers(settings: Settings, processes: int | None) -> LokyWorkers | DaskWorkers:
    training = settings.training
    return (
        DaskWorkers(training.dask_scheduler)
        if training.dask_scheduler
        else LokyWorkers(processes or training.processes)
    )


def _obey_many(
    fleet: "FleetTrainingService",
    history: PostgresHistory,
    order: FleetTrainingOrder,
    show: Callable[[ModelRow], None],
) -> None:
    for key, found, seconds in fleet.train(order.keys, history, clock.now(), order.window_days):
        answer = (
            TrainingReply(round(seconds, 3), None, found)
            if isinstance(found, str)
            else TrainingReply(round(seconds, 3), found.id)
        )
        if isinstance(found, ModelRow):
            show(found)
        _say(FleetTrainingReply(key, answer))


def show_others(files: ModelFiles, catalogue: PostgresCatalogue, row: ModelRow) -> None:
    """What serves is written when the stream swaps it in; what was refused, or made room, is written here, or nobody would know."""
    key = row.key
    changed = [
        one for one in files.of_series(key)[:CHANGED_MOST] if one.status in {"deleted", "failed"}
    ]
    for one in [*changed, *([row] if row.status != "active" else [])]:
        try:
            catalogue.put(one)
        except (DatabaseAway, DatabaseRefused) as error:
            instrumentation.catalogue_behind(one.id, str(error))
            return


def _obey(
    service: "TrainingService",
    devices: "DeviceTrainingService",
    history: PostgresHistory,
    order: TrainingOrder,
) -> ModelRow:
    key, now = order.key, clock.now()
    if key.is_device:
        learn = devices.refit if order.refit else devices.from_history
        return learn(order.device_id, order.metrics, history, now)
    if order.refit:
        return service.refit(key, history, now)
    return service.from_history(key, history, now, order.window_days)


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
        reason, away = (
            str(error),
            isinstance(error, (DatabaseAway, DatabaseRefused, ModelFileError)),
        )
    return TrainingReply(round(time.monotonic() - began, 3), model_id, reason, away)
