"""Route /api/v1/telemetry: readings over HTTP, for senders without MQTT."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from insa_anomaly.api import examples
from insa_anomaly.api.auth import needs
from insa_anomaly.api.documents import answered, answers
from insa_anomaly.api.problems import Problem
from insa_anomaly.api.requests import TelemetryQuery
from insa_anomaly.core.reading.reading import Rejected
from insa_anomaly.services.keys import Permission
from insa_anomaly.services.telemetry import IngestReceipt, TelemetryService

_FORMS = {
    "required": True,
    "content": {
        "application/json": {"schema": {}, "example": examples.READINGS},
        "text/plain": {
            "schema": {"type": "string"},
            "example": "pump,device_id=PUMP-101 temperature=71.3 1795341600000000000",
        },
    },
}


def router(telemetry: TelemetryService, route_class: type[APIRoute]) -> APIRouter:
    """Return the route that takes readings."""
    routes = APIRouter(prefix="/api/v1", tags=["telemetry"], route_class=route_class)
    extra: dict[str, Any] = {**needs(Permission.TELEMETRY), "requestBody": _FORMS}

    @routes.post(
        "/telemetry",
        openapi_extra=extra,
        responses=answers(IngestReceipt, examples.TAKEN, HTTPStatus.UNPROCESSABLE_ENTITY),
    )
    async def take(request: Request, names: Annotated[TelemetryQuery, Query()]) -> Response:
        """Write readings to the log, in any form that is understood on MQTT.

        The answer is sent once the readings are on disk.
        """
        taken = await run_in_threadpool(
            telemetry.take, names.device_id, names.metric_name, await request.body()
        )
        if isinstance(taken, Rejected):
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{taken.reason}: {taken.detail}")
        return answered(taken)

    return routes
