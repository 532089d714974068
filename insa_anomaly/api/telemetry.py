"""Route /api/v1/telemetry: readings over HTTP, for senders without MQTT."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from insa_anomaly.api.documents import EXAMPLES, answered, needs
from insa_anomaly.api.problems import Problem
from insa_anomaly.api.requests import TelemetryQuery
from insa_anomaly.core.reading.reading import Rejected
from insa_anomaly.services.keys import Permission
from insa_anomaly.services.telemetry import IngestReceipt, TelemetryService

_FORMS = {
    "required": True,
    "content": {
        "application/json": {"schema": {}, "example": EXAMPLES["readings"]},
        "text/plain": {
            "schema": {"type": "string"},
            "example": "pump,device_id=PUMP-101 temperature=71.3 1795341600000000000",
        },
    },
}


def router(telemetry: TelemetryService, route_class: type[APIRoute]) -> APIRouter:
    """Return the route that takes readings."""
    routes = APIRouter(prefix="/api/v1", tags=["telemetry"], route_class=route_class)
    route = needs(Permission.TELEMETRY, IngestReceipt, "taken")
    route["openapi_extra"]["requestBody"] = _FORMS

    @routes.post("/telemetry", **route)
    async def take(request: Request, names: Annotated[TelemetryQuery, Query()]) -> Response:
        """Write readings to the log, in any form that is understood on MQTT.

        The answer is sent once the readings are on disk.
        """
        taken = await run_in_threadpool(
            telemetry.take, names.device_id, names.metric_name, await request.body()
        )
        if isinstance(taken, Rejected):
            raise Problem(422, f"{taken.reason}: {taken.detail}")
        return answered(taken)

    return routes
