"""The admin port, a process of its own that the daemon starts.

It reads windows and models in memory that it cannot write, and asks the daemon for the rest. So a
request takes next to no time from the stream, and an intruder here can write into none of that
memory.
"""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from threading import Event, Thread

import msgspec

from insa_anomaly.adapters.host.lines import AskingEnd
from insa_anomaly.adapters.host.shared_memory import SharedMemory
from insa_anomaly.adapters.postgres.anomalies import PostgresFindings
from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.keys import PostgresKeys
from insa_anomaly.adapters.redis.rate_limit import LocalRateLimit, RedisRateLimit
from insa_anomaly.api import app
from insa_anomaly.api.app import Admin
from insa_anomaly.errors import DatabaseAway, DatabaseRefused
from insa_anomaly.instrumentation.admin_port import keys_unreadable
from insa_anomaly.instrumentation.logger import set_up_logging
from insa_anomaly.ports.cache import Cache
from insa_anomaly.processes.admin_child import Inherited, certificate
from insa_anomaly.runtime.fleet.shared_windows import SharedWindows
from insa_anomaly.runtime.fleet.view import SharedStreamView
from insa_anomaly.services.anomalies import AnomalyService
from insa_anomaly.services.cached import Cached
from insa_anomaly.services.keys import KeyRing
from insa_anomaly.services.models import ModelService
from insa_anomaly.services.prediction import PredictionService, RateLimit
from insa_anomaly.services.stream import StreamClient
from insa_anomaly.services.telemetry import TelemetryService
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.secrets import secret
from insa_anomaly.settings.sections import RedisSettings
from insa_anomaly.wiring import services
from insa_anomaly.wiring.clock import clock
from insa_anomaly.wiring.memory import share_arenas
from insa_anomaly.wiring.models import model_files
from insa_anomaly.wiring.services import Pools, ServiceParts

SERVED_NO_MORE = 70  # sysexits' EX_SOFTWARE: the daemon begins us again
KEYS_SECONDS = 1.0  # so long a revoked key may still be taken


def be() -> None:
    """Run the admin port until standard input ends.

    The first two lines of standard input say how; each later line holds new settings.
    """
    share_arenas()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the daemon ends us
    settings = Settings.model_validate_json(sys.stdin.buffer.readline())
    inherited = msgspec.json.decode(sys.stdin.buffer.readline(), type=Inherited)
    set_up_logging(settings.logging.level, settings.logging.form)
    stream = StreamClient(AskingEnd(inherited.questions).ask, AskingEnd(inherited.posts).ask)
    with opened(settings, inherited, stream) as admin:
        bound, http = socket.socket(fileno=inherited.port), settings.http
        shown, hosts = version("insa-anomaly"), (*http.hosts, http.host)
        application = app.create(shown, stream.condition, stream.metrics, admin, hosts)
        died = partial(os._exit, SERVED_NO_MORE)
        with app.served(application, bound, certificate(http), http.request_seconds, died):
            for line in sys.stdin.buffer:
                adjust(admin, Settings.model_validate_json(line))


def adjust(admin: Admin, settings: Settings) -> None:
    """Apply the settings that can change at run time."""
    set_up_logging(settings.logging.level, settings.logging.form)
    admin.predictions.a_minute = settings.http.predictions_a_minute


@contextmanager
def opened(settings: Settings, inherited: Inherited, stream: StreamClient) -> Iterator[Admin]:
    """Open the services of the guarded routes while the block runs."""
    with (
        model_files(settings) as models,
        services.pools(settings, inherited.dsn) as pools,
        kept_fresh(KeyRing(PostgresKeys(pools.answers), clock)) as ring,
    ):
        trees, zeros = settings.detection.n_estimators, SharedMemory(inherited.windows).zeros
        windows = SharedWindows(inherited.capacity, trees, zeros)
        view = SharedStreamView(windows, clock, stream.index_of, stream.compared)
        parts = ServiceParts(models, view, stream, inherited.instance, stream.interrupt)
        yield assembled(settings, pools, ring, parts)


def assembled(settings: Settings, pools: Pools, ring: KeyRing, parts: ServiceParts) -> Admin:
    """Return the services over these connections and parts."""
    findings, audit = PostgresFindings(pools.answers), PostgresAudit(pools.audit)
    cached, pace = Cached(cache(settings.redis), clock), settings.http.predictions_a_minute
    rate = limit(settings.redis)
    return Admin(
        host=settings.http.host,
        clock=clock.now,
        ring=ring,
        models=ModelService(parts.models, parts.stream, findings, cached),
        jobs=services.job_service(pools, parts, settings.training.jobs),
        model_changes=services.model_changes(settings, pools, parts.models),
        health=services.health_service(settings, pools),
        predictions=PredictionService(parts.stream, parts.models, rate, pace),
        findings=AnomalyService(findings, audit),
        telemetry=TelemetryService(services.parser(settings), parts.inlet, clock.now),
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
                keys_unreadable(str(error))
            trouble = True


def cache(address: RedisSettings) -> Cache | None:
    """Return the cache that all daemons share, where there is a Redis."""
    if not address.url:
        return None
    # The driver takes 16 MB and 0.3 s
    from insa_anomaly.adapters.redis.latest import RedisCache  # noqa: PLC0415

    return RedisCache(address.url, secret(address.password_file))


def limit(address: RedisSettings) -> RateLimit:
    """Return the rate limit, which all daemons share where there is a Redis."""
    if not address.url:
        return LocalRateLimit()
    return RedisRateLimit(address.url, secret(address.password_file))
