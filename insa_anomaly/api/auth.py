"""Who may: every guarded route names the permission it needs, and one that names none is closed to everybody."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from insa_anomaly import instrumentation
from insa_anomaly.api.problems import Problem, answer
from insa_anomaly.ports import Key
from insa_anomaly.services.audit import Author
from insa_anomaly.services.keys import Denied, KeyRing, Permission, grants

PERMISSION = "x-permission"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="insa-anomaly"'}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True)
class Caller:
    """Who asks, and from where: the address of the connection, whatever a header says."""

    key: Key
    origin: str

    @property
    def author(self) -> Author:
        """As the audit log names them."""
        return Author(f"{self.key.id} ({self.key.name})", self.origin)


def needs(permission: Permission) -> dict[str, Any]:
    """What a route says in `openapi_extra`: the permission it needs."""
    return {PERMISSION: str(permission), "security": [{"key": []}]}


def caller(request: Request) -> Caller:
    """Who asks; known in every guarded route."""
    found = request.state.caller
    assert isinstance(found, Caller)  # noqa: S101 - the guard put it there
    return found


class Guard:
    """Lets a request through or ends it: 401 without a good key, 403 where the key is good for something else."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    async def admit(self, request: Request, permission: str | None) -> Caller:
        """The caller, who may. Raises Problem, DatabaseAway, DatabaseRefused."""
        token = _presented(request)
        known = (
            self._ring.authenticate(token)
            if self._ring.knows(token)
            else await run_in_threadpool(self._ring.authenticate, token)
        )
        if isinstance(known, Denied):
            instrumentation.request_denied(str(known), _origin(request))
            raise Problem(HTTPStatus.UNAUTHORIZED, str(known), _CHALLENGE)
        if permission is None or not grants(known, permission):
            instrumentation.request_denied("the key lacks a permission", _origin(request))
            raise Problem(
                HTTPStatus.FORBIDDEN,
                f"the key is not good for this; needed: {permission or 'what no key has'}",
            )
        return Caller(known, _origin(request))


def guarded(guard: Guard) -> type[APIRoute]:
    """The class of routes behind this guard, who is asked before the body is read."""

    class Guarded(APIRoute):
        """A route that needs a key."""

        def get_route_handler(self) -> Handler:
            """The guard, then the route."""
            handle = super().get_route_handler()
            permission = (self.openapi_extra or {}).get(PERMISSION)

            async def admit_and_handle(request: Request) -> Response:
                request.state.caller = await guard.admit(request, permission)
                return await handle(request)

            return admit_and_handle

    return Guarded


class Fence:
    """Guards paths of an application whose own routes are open: for an address that is not loopback."""

    def __init__(self, app: ASGIApp, guard: Guard, paths: frozenset[str]) -> None:
        self._app = app
        self._guard = guard
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through what needs no key, or has one that may read."""
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
        raise Problem(
            HTTPStatus.UNAUTHORIZED, "a key is needed: Authorization: Bearer insa_...", _CHALLENGE
        )
    return token


def _origin(request: Request) -> str:
    return request.client.host if request.client else ""
