"""The admin port: a FastAPI application served by uvicorn in a thread of its process."""

import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread

import uvicorn
from fastapi import FastAPI

from insa_anomaly.api import (
    anomalies,
    documents,
    jobs,
    liveness,
    model_health,
    models,
    predictions,
    telemetry,
)
from insa_anomaly.api.address import Certificate, is_loopback
from insa_anomaly.api.auth import Fence, Guard, guarded
from insa_anomaly.api.connection import impatient
from insa_anomaly.api.hosts import LOOPBACK, Hosts
from insa_anomaly.api.problems import HANDLERS
from insa_anomaly.api.shell import Shell
from insa_anomaly.instrumentation.metrics import metrics_text
from insa_anomaly.services.anomalies import AnomalyService
from insa_anomaly.services.jobs import JobService
from insa_anomaly.services.keys import KeyRing
from insa_anomaly.services.model_changes import ModelChangeService
from insa_anomaly.services.model_health import HealthService
from insa_anomaly.services.models import ModelService
from insa_anomaly.services.prediction import PredictionService
from insa_anomaly.services.stream import Condition
from insa_anomaly.services.telemetry import TelemetryService

START_SECONDS = 10.0
START_POLL_SECONDS = 0.01
REQUEST_SECONDS = 20.0
_OPEN_ON_LOOPBACK = frozenset({"/metrics", "/metrics/models", "/api/v1/status"})


@dataclass(frozen=True)
class Admin:
    """Services behind the guarded routes; `host` is the address on which the port listens."""

    host: str
    clock: Callable[[], int]
    ring: KeyRing
    models: ModelService
    model_changes: ModelChangeService
    jobs: JobService
    predictions: PredictionService
    findings: AnomalyService
    telemetry: TelemetryService
    health: HealthService


def create(
    version: str,
    condition: Callable[[], Condition],
    metrics: Callable[[], bytes] = metrics_text,
    admin: Admin | None = None,
    hosts: Collection[str] = LOOPBACK,
) -> FastAPI:
    """Return the application, which knows the daemon only through these callables.

    Without `admin`, the application has only the open routes. It answers for `hosts` alone.
    """
    # Without `openapi_url`, FastAPI has no pages that show the description either.
    app = FastAPI(
        title="insa-anomaly", version=version, openapi_url=None, exception_handlers=HANDLERS
    )
    app.router.routes.extend(liveness.router(version, condition, metrics).routes)
    if admin is not None:
        _add_guarded(app, admin)
    app.add_middleware(Hosts, names=hosts)
    app.add_middleware(Shell)
    return app


def _add_guarded(app: FastAPI, admin: Admin) -> None:
    guard = Guard(admin.ring)
    route_class = guarded(guard)
    routers = (
        # Predictions come first, since a request is matched against the routes in this order.
        predictions.router(admin.predictions, route_class),
        telemetry.router(admin.telemetry, route_class),
        liveness.models_router(admin.models.figures),
        documents.router(app, route_class),
        jobs.router(admin.jobs, admin.clock, route_class),
        models.router(admin.models, admin.model_changes, admin.clock, route_class),
        anomalies.router(admin.findings, admin.clock, route_class),
        model_health.router(admin.health, admin.clock, route_class),
    )
    for router in routers:
        # Routes are added one by one, so that `app.routes` lists all of them.
        app.router.routes.extend(router.routes)
    if not is_loopback(admin.host):
        app.add_middleware(Fence, guard=guard, paths=_OPEN_ON_LOOPBACK)


@contextmanager
def served(
    app: FastAPI,
    bound: socket.socket,
    certificate: Certificate | None = None,
    request_seconds: float = REQUEST_SECONDS,
    died: Callable[[], None] = lambda: None,
) -> Iterator[int]:
    """Serve the application on the socket while the block runs, and yield the port number.

    `died` is called if the server ends earlier. A request must arrive within `request_seconds`. The
    server trusts no header about the origin of a request, and no answer names the server software.
    Raises ConfigError for a certificate that cannot be used.
    """
    with bound:
        if certificate is not None:
            certificate.check()
        server = uvicorn.Server(_config(app, certificate, request_seconds))
        thread = Thread(target=_run, args=(server, bound, died), name="http", daemon=True)
        thread.start()
        attempts = int(START_SECONDS / START_POLL_SECONDS)
        while not server.started and thread.is_alive() and attempts:
            thread.join(START_POLL_SECONDS)
            attempts -= 1
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(START_SECONDS)


def _run(server: uvicorn.Server, bound: socket.socket, died: Callable[[], None]) -> None:
    try:
        server.run(sockets=[bound])
    finally:
        if not server.should_exit:
            died()


def _config(
    app: FastAPI, certificate: Certificate | None, request_seconds: float
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=impatient(request_seconds),
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        ssl_certfile=certificate.certificate if certificate else None,
        ssl_keyfile=certificate.key if certificate else None,
    )
