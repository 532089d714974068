"""Liveness, readiness and metrics of the daemon: open on loopback, without secrets."""

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from insa_anomaly.instrumentation.metrics import model_metrics_text, port_metrics_text
from insa_anomaly.ports.models import ModelAccuracy
from insa_anomaly.services.stream import Condition

Answer = TypeVar("Answer")
_THREADS = 4  # of these routes alone: the other routes' threads may all wait for the database
TEXT = "text/plain; version=0.0.4; charset=utf-8"


def router(
    version: str, condition: Callable[[], Condition], metrics_text: Callable[[], bytes]
) -> APIRouter:
    """Return the routes /healthz, /readyz, /metrics and /api/v1/status.

    `metrics_text` returns the daemon's metrics; the admin port adds its own.
    """
    routes = APIRouter()
    threads = CapacityLimiter(_THREADS)

    async def asked(question: Callable[[], Answer]) -> Answer:
        return await to_thread.run_sync(question, limiter=threads)

    @routes.get("/healthz")
    async def healthz() -> Response:
        """Report that the daemon answers."""
        await asked(condition)
        return PlainTextResponse("ok\n")

    @routes.get("/readyz")
    async def readyz() -> Response:
        """Answer 200 if the daemon does all of its job, 503 with the reasons if not."""
        found = (await asked(condition)).troubles
        return JSONResponse(
            {"ready": not found, "reasons": found}, status_code=503 if found else 200
        )

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(await asked(metrics_text) + port_metrics_text(), media_type=TEXT)

    @routes.get("/api/v1/status")
    async def status() -> dict[str, object]:
        """Return the daemon's state, its troubles, and the position of every log reader."""
        found = await asked(condition)
        state = "degraded" if found.troubles else "running"
        return {"version": version, "state": state, "reasons": found.troubles, **found.figures}

    return routes


def models_router(figures: Callable[[], list[ModelAccuracy]]) -> APIRouter:
    """Return the route /metrics/models."""
    routes = APIRouter()

    @routes.get("/metrics/models")
    def models() -> Response:
        """Return the metrics of single models in Prometheus' text format.

        The metrics are many, so scrape them once a minute at most.
        """
        return Response(model_metrics_text(figures()), media_type=TEXT)

    return routes
