"""What the admin API and its commands work with, put together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from getpass import getuser
from threading import Event, Thread
from uuid import UUID

from insa_anomaly import instrumentation
from insa_anomaly.adapters.model_files import ModelFiles
from insa_anomaly.adapters.postgres import roles
from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.catalogue import PostgresCatalogue
from insa_anomaly.adapters.postgres.connection import as_role
from insa_anomaly.adapters.postgres.findings import PostgresFindings
from insa_anomaly.adapters.postgres.health import PostgresHealth
from insa_anomaly.adapters.postgres.jobs import PostgresJobs
from insa_anomaly.adapters.postgres.keys import PostgresKeys
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.adapters.rate_limit import LocalRateLimit, RedisRateLimit
from insa_anomaly.api.app import Admin
from insa_anomaly.core.reading import Parser
from insa_anomaly.errors import DatabaseAway, DatabaseRefused
from insa_anomaly.ports import Cache, Key
from insa_anomaly.runtime.daemon import Parts as DaemonParts
from insa_anomaly.runtime.fleet import Fleet
from insa_anomaly.runtime.live import LiveFleet
from insa_anomaly.services.cached import Cached
from insa_anomaly.services.findings import FindingService
from insa_anomaly.services.health import HealthService
from insa_anomaly.services.jobs import JobService
from insa_anomaly.services.keys import KeyRing, KeyService, Wish
from insa_anomaly.services.model_changes import ModelChangeService
from insa_anomaly.services.models import ModelService
from insa_anomaly.services.prediction import PredictionService, RateLimit
from insa_anomaly.services.telemetry import SUBSCRIPTIONS, Inlet, TelemetryService
from insa_anomaly.settings import RedisAddress, Settings, secret
from insa_anomaly.wiring import clock
from insa_anomaly.wiring.database import database

KEYS_SECONDS = 1.0  # so long a revoked key may still be taken


@dataclass(frozen=True)
class Parts:
    """What of the running daemon the API works with."""

    models: ModelFiles
    fleet: Fleet
    inlet: Inlet
    instance: UUID  # the id of the log
    interrupt: Callable[[object], None]


@contextmanager
def opened(settings: Settings, dsn: str, daemon: DaemonParts, models: ModelFiles) -> Iterator[Admin]:
    """What the guarded routes work with, while the block runs."""
    with pools(settings, dsn) as found, kept_fresh(KeyRing(PostgresKeys(found.answers), clock.now)) as ring:
        yield assembled(settings, found, ring, parts_of(daemon, models))


def parts_of(daemon: DaemonParts, models: ModelFiles) -> Parts:
    """What of this daemon the API, and the health check, work with."""
    return Parts(models, daemon.fleet, daemon.intake, daemon.log.id, daemon.trainer.interrupt)


@dataclass(frozen=True)
class Pools:
    """Connections to answer with, and others to add to the audit log with: who answers can neither read nor forge it."""

    answers: Pool
    audit: Pool


@contextmanager
def pools(settings: Settings, dsn: str) -> Iterator[Pools]:
    """Connections with the rights of each part, where the database has roles for them; else the same for all."""
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


def assembled(settings: Settings, pools: Pools, ring: KeyRing, parts: Parts) -> Admin:
    """The services over these."""
    findings, audit, live = PostgresFindings(pools.answers), PostgresAudit(pools.audit), LiveFleet(parts.fleet)
    return Admin(
        host=settings.http.host,
        clock=clock.now,
        ring=ring,
        models=ModelService(parts.models, live, findings, Cached(cache(settings.redis))),
        jobs=job_service(pools, parts, settings.training.jobs),
        model_changes=model_changes(settings, pools, parts.models),
        health=health_service(settings, pools),
        predictions=PredictionService(live, parts.models, limit(settings.redis), settings.http.predictions_a_minute),
        findings=FindingService(findings, audit),
        telemetry=TelemetryService(parser(settings), parts.inlet, clock.now),
    )


def job_service(pools: Pools, parts: Parts, most_waiting: int) -> JobService:
    """Takes trainings, as long as no more than so many wait."""
    live, audit = LiveFleet(parts.fleet), PostgresAudit(pools.audit)
    return JobService(PostgresJobs(pools.answers, parts.instance), parts.models, live, audit, parts.interrupt, most_waiting)


def model_changes(settings: Settings, pools: Pools, models: ModelFiles) -> ModelChangeService:
    """Changes models that are there."""
    catalogue, findings, audit = PostgresCatalogue(pools.answers), PostgresFindings(pools.answers), PostgresAudit(pools.audit)
    return ModelChangeService(models, catalogue, findings, audit, settings.verdict.merge_gap_readings)


def health_service(settings: Settings, pools: Pools) -> HealthService:
    """The health check."""
    return HealthService(PostgresHealth(pools.answers), PostgresAudit(pools.audit), settings.health, settings.health.hour)


@contextmanager
def kept_fresh(ring: KeyRing) -> Iterator[KeyRing]:
    """Read the keys again every second, so that no request has to."""
    stop = Event()
    thread = Thread(target=_refresh, args=(ring, stop), name="keys", daemon=True)
    thread.start()
    try:
        yield ring
    finally:
        stop.set()
        thread.join()


def _refresh(ring: KeyRing, stop: Event) -> None:
    trouble = False
    while not stop.wait(KEYS_SECONDS):
        try:
            ring.refresh()
            trouble = False
        except (DatabaseAway, DatabaseRefused) as error:
            if not trouble:
                instrumentation.keys_unreadable(str(error))
            trouble = True


def cache(address: RedisAddress) -> Cache | None:
    """Shared by all daemons where there is a Redis."""
    if not address.url:
        return None
    from insa_anomaly.adapters.redis import RedisCache  # noqa: PLC0415 - the driver takes 16 MB and 0.3 s

    return RedisCache(address.url, secret(address.password_file))


def limit(address: RedisAddress) -> RateLimit:
    """Shared by all daemons where there is a Redis."""
    return RedisRateLimit(address.url, secret(address.password_file)) if address.url else LocalRateLimit()


def parser(settings: Settings) -> Parser:
    """Knows what comes over MQTT and what comes over HTTP."""
    return Parser(replace(settings.readings, subscriptions=(*SUBSCRIPTIONS, *settings.readings.subscriptions)))


# ------------------------------------------------------------------------------------------------- the commands
@contextmanager
def _key_service(settings: Settings) -> Iterator[KeyService]:
    with database(settings) as dsn:
        migrate(dsn)
        with Pool(dsn, settings.database.deadline, 1) as pool:
            yield KeyService(PostgresKeys(pool), PostgresAudit(pool))


def create_key(settings: Settings, wish: Wish) -> tuple[Key, str]:
    """A new key, and the word to be presented, which is nowhere else."""
    with _key_service(settings) as service:
        return service.create(wish, getuser(), clock.now())


def list_keys(settings: Settings) -> list[Key]:
    """Every key, oldest first."""
    with _key_service(settings) as service:
        return service.all()


def revoke_key(settings: Settings, key_id: str) -> None:
    """End a key. Raises NotFound."""
    with _key_service(settings) as service:
        service.revoke(key_id, getuser(), clock.now())
