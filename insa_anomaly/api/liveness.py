"""Is it alive, can it do its job, what does it count: open on loopback, nothing secret in it."""

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from insa_anomaly import instrumentation
from insa_anomaly.ports import Figures
from insa_anomaly.services.stream import Condition

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def router(
    version: str, condition: Callable[[], Condition], metrics_text: Callable[[], bytes]
) -> APIRouter:
    """Routes /healthz, /readyz, /metrics and /api/v1/status; `metrics_text` is what the daemon counts, to which the port adds its own."""
    routes = APIRouter()

    @routes.get("/healthz")
    def healthz() -> Response:
        """The daemon answers."""
        condition()
        return PlainTextResponse("ok\n")

    @routes.get("/readyz")
    def readyz() -> Response:
        """200 where all of the job is done, 503 with the reasons where not."""
        found = condition().troubles
        return JSONResponse(
            {"ready": not found, "reasons": found}, status_code=503 if found else 200
        )

    @routes.get("/metrics")
    def metrics() -> Response:
        """Prometheus' text format."""
        return Response(metrics_text() + instrumentation.port_metrics_text(), media_type=TEXT)

    @routes.get("/api/v1/status")
    def status() -> dict[str, object]:
        """State, what is wrong, and where every reader of the log is."""
        found = condition()
        state = "degraded" if found.troubles else "running"
        return {"version": version, "state": state, "reasons": found.troubles, **found.figures}

    return routes


def models_router(figures: Callable[[], list[Figures]]) -> APIRouter:
    """Route /metrics/models."""
    routes = APIRouter()

    @routes.get("/metrics/models")
    def models() -> Response:
        """The metrics of single models in Prometheus' text format: many, so they are to be asked for once a minute or less."""
        return Response(instrumentation.model_metrics_text(figures()), media_type=TEXT)

    return routes
