"""The description of the API (OpenAPI): parameters and answers of every route, with examples."""

from functools import partial
from http import HTTPStatus
from importlib import resources
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api.auth import PERMISSION, require
from insa_anomaly.api.problems import MEDIA_TYPE, problem
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
_ALWAYS = frozenset({400, 401, 403, 422, 503})
_FOLDER = resources.files(__package__)
EXAMPLES: dict[str, Any] = msgspec.json.decode(_FOLDER.joinpath("examples.json").read_bytes())


def answered(value: object, status: int = 200) -> Response:
    """Return the value as JSON: dataclasses and structs as objects, NaN and infinities as null."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def needs(permission: Permission, kind: type, example: str, *more: int) -> dict[str, Any]:
    """Return the arguments of a route: the permission that it needs, and its answers by status.

    On success the answer is of this `kind`, as in `EXAMPLES[example]`; on failure it is a problem
    document.
    """
    answers = success(kind, example) | {one: _problem(one) for one in sorted({*_ALWAYS, *more})}
    return {"openapi_extra": require(permission), "responses": answers}


reads, writes = partial(needs, Permission.READ), partial(needs, Permission.WRITE)


def success(kind: type, example: str, status: int = 200) -> dict[int, dict[str, Any]]:
    """Return the description of a successful answer of this `kind`, by its status."""
    (schema,), components = msgspec.json.schema_components(
        [kind], ref_template="#/components/schemas/{name}"
    )
    kept = {"schema": schema, _EXAMPLE: msgspec.json.encode(EXAMPLES[example]).decode()}
    return {status: {"content": {"application/json": kept}, _COMPONENTS: components}}


def _problem(status: int) -> dict[str, Any]:
    content = {"schema": _PROBLEM, "example": problem(status, "...")}
    return {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: content}}


def router(app: FastAPI, route_class: type[APIRoute]) -> APIRouter:
    """Return the route /api/v1/openapi.json."""
    routes = APIRouter(prefix="/api/v1", route_class=route_class)

    @routes.get("/openapi.json", openapi_extra=require(Permission.READ), include_in_schema=False)
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
    components["securitySchemes"] = {"key": _KEY}
    return said


_KEY = {"type": "http", "scheme": "bearer", "description": "made by `insa-anomaly keys create`"}
_ABOUT = (
    "Trains and manages models, scores readings, and reads anomalies."
    " Every answer that is no success is a problem document (RFC 9457)."
)
