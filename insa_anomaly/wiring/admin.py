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
from insa_anomaly.runtime.jobs import JobRunner
from insa_anomaly.runtime.live import LiveFleet
from insa_anomaly.services.cached import Cached
from insa_anomaly.services.findings import FindingService
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
def opened(settings: Settings, dsn: str, daemon: DaemonParts, models: ModelFiles) -> Iterator[tuple[Admin, JobRunner]]:
    """What the guarded routes work with, and what runs the trainings they ask for, while the block runs."""
    parts = Parts(models, daemon.fleet, daemon.intake, daemon.log.id, daemon.trainer.interrupt)
    with _pools(settings, dsn) as (pool, audit), kept_fresh(KeyRing(PostgresKeys(pool), clock.now)) as ring:
        jobs = PostgresJobs(pool, parts.instance)
        runner = JobRunner(jobs, daemon.trainer, models, daemon.state, daemon.tell.offer, clock.now, devices=settings.training.devices)
        yield assembled(settings, pool, audit, ring, parts), runner


@contextmanager
def _pools(settings: Settings, dsn: str) -> Iterator[tuple[Pool, Pool]]:
    """Connections to answer with, and others to add to the audit log with: who answers can neither read nor forge it."""
    database = settings.database
    if not database.roles:
        with Pool(dsn, database.deadline) as pool:
            yield pool, pool
        return
    with (
        Pool(as_role(dsn, roles.API), database.deadline) as pool,
        Pool(as_role(dsn, roles.AUDIT), database.deadline, 2) as audit,
    ):
        yield pool, audit


def assembled(settings: Settings, pool: Pool, audit_pool: Pool, ring: KeyRing, parts: Parts) -> Admin:
    """The services over these."""
    findings, audit, live = PostgresFindings(pool), PostgresAudit(audit_pool), LiveFleet(parts.fleet)
    merge_gap = settings.verdict.merge_gap_readings
    return Admin(
        host=settings.http.host,
        clock=clock.now,
        ring=ring,
        models=ModelService(parts.models, live, findings, Cached(cache(settings.redis))),
        jobs=JobService(PostgresJobs(pool, parts.instance), parts.models, live, audit, parts.interrupt, settings.training.jobs),
        model_changes=ModelChangeService(parts.models, PostgresCatalogue(pool), findings, audit, merge_gap),
        predictions=PredictionService(live, parts.models, limit(settings.redis), settings.http.predictions_a_minute),
        findings=FindingService(findings, audit),
        telemetry=TelemetryService(parser(settings), parts.inlet, clock.now),
    )


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
