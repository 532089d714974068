"""Is it alive, can it do its job, what does it count: open on loopback, nothing secret in it."""

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from insa_anomaly import instrumentation
from insa_anomaly.ports import Figures

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def router(version: str, troubles: Callable[[], list[str]], figures: Callable[[], dict[str, int]]) -> APIRouter:
    """Routes /healthz, /readyz, /metrics and /api/v1/status."""
    routes = APIRouter()

    @routes.get("/healthz")
    def healthz() -> Response:
        """The process answers."""
        return PlainTextResponse("ok\n")

    @routes.get("/readyz")
    def readyz() -> Response:
        """200 where all of the job is done, 503 with the reasons where not."""
        found = troubles()
        return JSONResponse({"ready": not found, "reasons": found}, status_code=503 if found else 200)

    @routes.get("/metrics")
    def metrics() -> Response:
        """Prometheus' text format."""
        return Response(instrumentation.metrics_text(), media_type=TEXT)

    @routes.get("/api/v1/status")
    def status() -> dict[str, object]:
        """State, what is wrong, and where every reader of the log is."""
        found = troubles()
        return {"version": version, "state": "degraded" if found else "running", "reasons": found, **figures()}

    return routes


def models_router(figures: Callable[[], list[Figures]]) -> APIRouter:
    """Route /metrics/models."""
    routes = APIRouter()

    @routes.get("/metrics/models")
    def models() -> Response:
        """The metrics of single models in Prometheus' text format: many, so they are to be asked for once a minute or less."""
        return Response(instrumentation.model_metrics_text(figures()), media_type=TEXT)

    return routes
