"""The daily health check, put together: for the daemon, and for the command."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.jobs import PostgresJobs
from insa_anomaly.adapters.postgres.model_health import PostgresHealth
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.runtime.daemon import DaemonParts
from insa_anomaly.runtime.fleet.view import stream_view
from insa_anomaly.runtime.models.activity import Activity
from insa_anomaly.runtime.models.events import ModelEvents
from insa_anomaly.runtime.models.failures import Failures
from insa_anomaly.runtime.models.health import HealthKeeper, Notes
from insa_anomaly.runtime.models.jobs import JobRunner
from insa_anomaly.runtime.step import Step
from insa_anomaly.services.model_health import HealthService
from insa_anomaly.services.remedies import Remedies
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring import services
from insa_anomaly.wiring.clock import clock

Steps = tuple[tuple[str, Step], ...]


class Records(NamedTuple):
    """Counts and failures that wait in memory until the database has them."""

    activity: Activity
    failures: Failures


@contextmanager
def threads(
    settings: Settings, dsn: str, daemon: DaemonParts, models: ModelFiles, records: Records
) -> Iterator[Steps]:
    """Yield the steps of the training jobs and of the daily health check."""
    with services.pools(settings, dsn) as pools:
        instance, state, trainer = daemon.log.id, daemon.state, daemon.trainer
        enqueue, view = daemon.publisher.enqueue, stream_view(daemon.fleet, clock)
        parts = services.ServiceParts(models, view, daemon.intake, instance, trainer.interrupt)
        queue, devices = PostgresJobs(pools.answers, instance), settings.training.devices
        runner = JobRunner(queue, trainer, models, state, enqueue, clock=clock, devices=devices)
        remedies, service = assembled(settings, pools, parts, state, enqueue)
        note, latency = PostgresHealth(pools.answers).note, settings.health.latency
        notes = Notes(records.activity, note, partial(records.failures.write_down, queue.put_ended))
        begin = partial(HealthKeeper, clock=clock, settle=settings.health.settle)
        keeper = begin(service, remedies, notes, instance, latency)
        yield ("jobs", runner), ("health", keeper)


def assembled(
    settings: Settings,
    pools: services.Pools,
    parts: services.ServiceParts,
    state: State,
    enqueue: Callable[[list[Outgoing]], None],
) -> tuple[Remedies, HealthService]:
    """Return the remedies and the health service.

    Half of the training places are left to people.
    """
    jobs = services.job_service(pools, parts, max(1, settings.training.jobs // 2))
    changes = services.model_changes(settings, pools, parts.models)
    events = ModelEvents(state, enqueue)
    decided, audit = PostgresHealth(pools.answers), PostgresAudit(pools.audit)
    remedies = Remedies(decided, parts.models, jobs, changes, audit=audit, tell=events.notice)
    return remedies, services.health_service(settings, pools)
