"""Authorisation: a guarded route names its permission; a route that names none is closed to all."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from insa_anomaly.api.problems import Problem, answer
from insa_anomaly.instrumentation.admin_port import request_denied
from insa_anomaly.ports.keys import Key
from insa_anomaly.services.audit import Author
from insa_anomaly.services.keys import Denied, KeyRing, Permission, grants

PERMISSION = "x-permission"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="insa-anomaly"'}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True)
class Caller:
    """A caller's key and origin: the address of the connection, regardless of any header."""

    key: Key
    origin: str

    @property
    def author(self) -> Author:
        """The caller as the audit log names it."""
        return Author(f"{self.key.id} ({self.key.name})", self.origin)


def require(permission: Permission) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that needs this permission."""
    return {PERMISSION: str(permission), "security": [{"key": []}]}


def caller(request: Request) -> Caller:
    """Return the caller of a request; every guarded route has a caller."""
    found = request.state.caller
    assert isinstance(found, Caller)  # noqa: S101 - the guard put it there
    return found


class Guard:
    """Admission of requests: 401 without a valid key, 403 where the key lacks the permission."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    async def admit(self, request: Request, permission: str | None) -> Caller:
        """Return the caller of an admitted request.

        Raises Problem, DatabaseAway, DatabaseRefused.
        """
        token = _presented(request)
        known = (
            self._ring.authenticate(token)
            if self._ring.knows(token)
            else await run_in_threadpool(self._ring.authenticate, token)
        )
        if isinstance(known, Denied):
            request_denied(str(known), _origin(request))
            raise Problem(401, str(known), _CHALLENGE)
        if permission is None or not grants(known, permission):
            request_denied("the key lacks a permission", _origin(request))
            wanted = permission or "what no key has"
            raise Problem(403, f"the key is not good for this; needed: {wanted}")
        return Caller(known, _origin(request))


def guarded(guard: Guard) -> type[APIRoute]:
    """Return the class of routes that ask `guard` before the request body is read."""

    class Guarded(APIRoute):
        """A route that needs a key."""

        def get_route_handler(self) -> Handler:
            """Return a handler that asks the guard, then runs the route."""
            handle = super().get_route_handler()
            permission = (self.openapi_extra or {}).get(PERMISSION)

            async def admit_and_handle(request: Request) -> Response:
                request.state.caller = await guard.admit(request, permission)
                return await handle(request)

            return admit_and_handle

    return Guarded


class Fence:
    """Middleware that guards open routes by their paths, for a port that is not on loopback."""

    def __init__(self, app: ASGIApp, guard: Guard, paths: frozenset[str]) -> None:
        self._app = app
        self._guard = guard
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request whose path needs no key or whose key may read."""
        if scope["type"] == "http" and scope["path"].rstrip("/") in self._paths:
            try:
                await self._guard.admit(Request(scope), Permission.READ)
            except Problem as problem:
                await answer(problem.status, problem.detail, problem.headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _presented(request: Request) -> str:
    given = request.headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token:
        raise Problem(401, "a key is needed: Authorization: Bearer insa_...", _CHALLENGE)
    return token


def _origin(request: Request) -> str:
    return request.client.host if request.client else ""
