"""The description of the API (OpenAPI): parameters and answers of every route, with examples."""

from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api.auth import PERMISSION, needs
from insa_anomaly.api.problems import MEDIA_TYPE
from insa_anomaly.services.keys import Permission

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
}
_COMPONENTS = "x-components"  # schemas that an answer refers to, until the document is put together
_EXAMPLE = "x-example"  # as text: FastAPI removes every null from a description
_ALWAYS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


def answered(value: object, status: int = 200) -> Response:
    """Return the value as JSON: dataclasses and structs as objects, NaN and infinities as null."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def answers(
    kind: Any,  # noqa: ANN401 - any type that msgspec knows
    example: object,
    *more: HTTPStatus,
) -> dict[int | str, dict[str, Any]]:
    """Return the possible answers of a route, by status.

    On success the answer is of this `kind`; on failure it is a problem document.
    """
    return success(kind, example) | {
        int(status): problem(status) for status in sorted({*_ALWAYS, *more})
    }


def success(kind: Any, example: object, status: int = 200) -> dict[int | str, dict[str, Any]]:  # noqa: ANN401
    """Return the description of a successful answer of this `kind`."""
    (schema,), components = msgspec.json.schema_components(
        [kind], ref_template="#/components/schemas/{name}"
    )
    kept = {"schema": schema, _EXAMPLE: msgspec.json.encode(example).decode()}
    return {status: {"content": {"application/json": kept}, _COMPONENTS: components}}


def problem(status: HTTPStatus) -> dict[str, Any]:
    """Return the description of a problem document with this status."""
    example = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": "...",
    }
    return {
        "description": status.phrase,
        "content": {MEDIA_TYPE: {"schema": _PROBLEM, "example": example}},
    }


def router(app: FastAPI, route_class: type[APIRoute]) -> APIRouter:
    """Return the route /api/v1/openapi.json."""
    routes = APIRouter(prefix="/api/v1", route_class=route_class)

    @routes.get("/openapi.json", openapi_extra=needs(Permission.READ), include_in_schema=False)
    def openapi() -> Response:
        """Return the description of every guarded route."""
        return answered(described(app))

    return routes


def described(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an application."""
    routes = [
        route
        for route in app.routes
        if isinstance(route, APIRoute) and PERMISSION in (route.openapi_extra or {})
    ]
    said = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=routes)
    components = said.setdefault("components", {})
    for operation in (operation for path in said["paths"].values() for operation in path.values()):
        for response in operation["responses"].values():
            components.setdefault("schemas", {}).update(response.pop(_COMPONENTS, {}))
            for content in response.get("content", {}).values():
                if _EXAMPLE in content:
                    content["example"] = msgspec.json.decode(content.pop(_EXAMPLE))
    components["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "made by `insa-anomaly keys create`",
        }
    }
    return said


_ABOUT = (
    "Trains and manages models, scores readings, and reads anomalies."
    " Every answer that is no success is a problem document (RFC 9457)."
)
