"""Liveness, readiness and metrics of the daemon: open on loopback, without secrets."""

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from insa_anomaly.instrumentation.metrics import model_metrics_text, port_metrics_text
from insa_anomaly.ports.models import ModelAccuracy
from insa_anomaly.services.stream import Condition

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def router(
    version: str, condition: Callable[[], Condition], metrics_text: Callable[[], bytes]
) -> APIRouter:
    """Return the routes /healthz, /readyz, /metrics and /api/v1/status.

    `metrics_text` returns the daemon's metrics; the admin port adds its own.
    """
    routes = APIRouter()

    @routes.get("/healthz")
    def healthz() -> Response:
        """Report that the daemon answers."""
        condition()
        return PlainTextResponse("ok\n")

    @routes.get("/readyz")
    def readyz() -> Response:
        """Answer 200 if the daemon does all of its job, 503 with the reasons if not."""
        found = condition().troubles
        return JSONResponse(
            {"ready": not found, "reasons": found}, status_code=503 if found else 200
        )

    @routes.get("/metrics")
    def metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(metrics_text() + port_metrics_text(), media_type=TEXT)

    @routes.get("/api/v1/status")
    def status() -> dict[str, object]:
        """Return the daemon's state, its troubles, and the position of every log reader."""
        found = condition()
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
