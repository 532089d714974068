"""The services that both the daemon and its admin port work with, put together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.adapters.postgres import roles
from insa_anomaly.adapters.postgres.anomalies import PostgresFindings
from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.catalogue import PostgresCatalogue
from insa_anomaly.adapters.postgres.connection import as_role
from insa_anomaly.adapters.postgres.jobs import PostgresJobs
from insa_anomaly.adapters.postgres.model_health import PostgresHealth
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.core.reading.parser import Parser
from insa_anomaly.services.jobs import JobService
from insa_anomaly.services.model_changes import ModelChangeService
from insa_anomaly.services.model_health import HealthService
from insa_anomaly.services.stream_view import StreamView
from insa_anomaly.services.telemetry import SUBSCRIPTIONS, Inlet
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring.clock import clock


@dataclass(frozen=True)
class ServiceParts:
    """Parts of the running daemon that services work with."""

    models: ModelFiles
    stream: StreamView
    inlet: Inlet
    instance: UUID  # the id of the log
    interrupt: Callable[[str], None]


@dataclass(frozen=True)
class Pools:
    """Connections that answer, and connections that append to the audit log.

    An answering connection can neither read nor forge the audit log.
    """

    answers: Pool
    audit: Pool


@contextmanager
def pools(settings: Settings, dsn: str) -> Iterator[Pools]:
    """Open the pools, with the rights of each part where the database has roles."""
    deadline = settings.database.deadline
    if not settings.database.roles:
        with Pool(dsn, deadline) as pool:
            yield Pools(pool, pool)
        return
    api, audit = as_role(dsn, roles.API), as_role(dsn, roles.AUDIT)
    with Pool(api, deadline) as answers, Pool(audit, deadline, 2) as appending:
        yield Pools(answers, appending)


def job_service(pools: Pools, parts: ServiceParts, most_waiting: int) -> JobService:
    """Return the service that takes training jobs while no more than `most_waiting` wait."""
    jobs, audit = PostgresJobs(pools.answers, parts.instance), PostgresAudit(pools.audit)
    service = partial(JobService, clock=clock, interrupt=parts.interrupt, most_waiting=most_waiting)
    return service(jobs, parts.models, parts.stream, audit)


def model_changes(settings: Settings, pools: Pools, models: ModelFiles) -> ModelChangeService:
    """Return the service that changes models."""
    catalogue, findings = PostgresCatalogue(pools.answers), PostgresFindings(pools.answers)
    audit, gap = PostgresAudit(pools.audit), settings.verdict.merge_gap_readings
    return ModelChangeService(models, catalogue, findings, audit, gap)


def health_service(settings: Settings, pools: Pools) -> HealthService:
    """Return the service of the health check."""
    health, audit = PostgresHealth(pools.answers), PostgresAudit(pools.audit)
    return HealthService(health, audit, settings.health, settings.health.hour, clock)


def parser(settings: Settings) -> Parser:
    """Return the parser of MQTT and HTTP messages."""
    subscriptions = (*SUBSCRIPTIONS, *settings.readings.subscriptions)
    return Parser(replace(settings.readings, subscriptions=subscriptions))
