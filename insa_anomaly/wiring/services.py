"""The services that both the daemon and its admin port work with, put together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    database = settings.database
    if not database.roles:
        with Pool(dsn, database.deadline) as pool:
            yield Pools(pool, pool)
        return
    with (
        Pool(as_role(dsn, roles.API), database.deadline) as answers,
        Pool(as_role(dsn, roles.AUDIT), database.deadline, 2) as audit,
    ):
        yield Pools(answers, audit)


def job_service(pools: Pools, parts: ServiceParts, most_waiting: int) -> JobService:
    """Return the service that takes training jobs while no more than `most_waiting` wait."""
    audit = PostgresAudit(pools.audit)
    return JobService(
        PostgresJobs(pools.answers, parts.instance),
        parts.models,
        parts.stream,
        audit,
        clock=clock,
        interrupt=parts.interrupt,
        most_waiting=most_waiting,
    )


def model_changes(settings: Settings, pools: Pools, models: ModelFiles) -> ModelChangeService:
    """Return the service that changes models."""
    catalogue, findings, audit = (
        PostgresCatalogue(pools.answers),
        PostgresFindings(pools.answers),
        PostgresAudit(pools.audit),
    )
    return ModelChangeService(
        models, catalogue, findings, audit, settings.verdict.merge_gap_readings
    )


def health_service(settings: Settings, pools: Pools) -> HealthService:
    """Return the service of the health check."""
    return HealthService(
        PostgresHealth(pools.answers),
        PostgresAudit(pools.audit),
        settings.health,
        settings.health.hour,
        clock,
    )


def parser(settings: Settings) -> Parser:
    """Return the parser of MQTT and HTTP messages."""
    return Parser(
        replace(settings.readings, subscriptions=(*SUBSCRIPTIONS, *settings.readings.subscriptions))
    )
