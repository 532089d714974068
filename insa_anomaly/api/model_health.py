"""Routes /api/v1/ml/health-check: run the check, read its last report, list its decisions."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api import examples
from insa_anomaly.api.auth import caller, needs
from insa_anomaly.api.documents import answered, answers
from insa_anomaly.api.requests import DecisionQuery, HealthCheckBody
from insa_anomaly.services.keys import Permission
from insa_anomaly.services.model_health import DecisionPage, HealthReport, HealthService

_BAD, _UNKNOWN, _CONFLICT = (
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
)


def router(
    health: HealthService, clock: Callable[[], int], route_class: type[APIRoute]
) -> APIRouter:
    """Return the routes over the health check."""
    routes = APIRouter(
        prefix="/api/v1/ml/health-check", tags=["health check"], route_class=route_class
    )
    reads, writes = needs(Permission.READ), needs(Permission.WRITE)

    @routes.post(
        "",
        openapi_extra=writes,
        responses=answers(HealthReport, examples.HEALTH_REPORT, _BAD, _CONFLICT),
    )
    def check(request: Request, asked: HealthCheckBody) -> Response:
        """Check all models now, with these actions.

        Decisions are carried out afterwards, by the daemons whose models they concern.
        """
        return answered(
            health.run(tuple(dict.fromkeys(asked.actions)), caller(request).author, clock())
        )

    @routes.get(
        "",
        openapi_extra=reads,
        responses=answers(HealthReport, examples.HEALTH_REPORT, _BAD, _UNKNOWN),
    )
    def last() -> Response:
        """Return the report of the last check, whether scheduled or requested."""
        return answered(health.report())

    @routes.get(
        "/decisions", openapi_extra=reads, responses=answers(DecisionPage, examples.DECISIONS, _BAD)
    )
    def decisions(asked: Annotated[DecisionQuery, Query()]) -> Response:
        """List the decisions of checks, newest first, with reason, figures and outcome."""
        return answered(health.decisions(asked.wanted(), asked.after, asked.limit))

    return routes
