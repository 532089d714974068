"""Routes /api/v1/ml/health-check: run the check, read its last report, list its decisions."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api.auth import caller
from insa_anomaly.api.documents import answered, reads, writes
from insa_anomaly.api.requests import DecisionQuery, HealthCheckBody
from insa_anomaly.services.model_health import DecisionPage, HealthReport, HealthService


def router(
    health: HealthService, clock: Callable[[], int], route_class: type[APIRoute]
) -> APIRouter:
    """Return the routes over the health check."""
    routes = APIRouter(
        prefix="/api/v1/ml/health-check", tags=["health check"], route_class=route_class
    )

    @routes.post("", **writes(HealthReport, "health_report", 409))
    def check(request: Request, asked: HealthCheckBody) -> Response:
        """Check all models now, with these actions.

        Decisions are carried out afterwards, by the daemons whose models they concern.
        """
        actions = tuple(dict.fromkeys(asked.actions))
        return answered(health.run(actions, caller(request).author, clock()))

    @routes.get("", **reads(HealthReport, "health_report", 404))
    def last() -> Response:
        """Return the report of the last check, whether scheduled or requested."""
        return answered(health.report())

    @routes.get("/decisions", **reads(DecisionPage, "decisions"))
    def decisions(asked: Annotated[DecisionQuery, Query()]) -> Response:
        """List the decisions of checks, newest first, with reason, figures and outcome."""
        return answered(health.decisions(asked.wanted(), asked.after, asked.limit))

    return routes
