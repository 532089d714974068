"""Authorisation: a guarded route names its permission; a route that names none is closed to all."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from anyio import CapacityLimiter, move_on_after, to_thread
from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from insa_anomaly.api.problems import Problem, answer
from insa_anomaly.instrumentation.admin_port import denial_counted, request_denied
from insa_anomaly.ports.keys import Key
from insa_anomaly.services.audit import Author
from insa_anomaly.services.keys import Denied, KeyRing, Permission, grants
from insa_anomaly.services.refusals import Refusals

PERMISSION = "x-permission"
LOOK_UP_SECONDS = 1.0  # for the database to tell an unknown key; it may be frozen
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
    """Admission of requests: 401 without a valid key, 403 where the key lacks the permission.

    A single unknown key is looked up at a time, so that a flood of them holds no other request.
    """

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._refusals = Refusals(ring.clock)
        self._look_up = CapacityLimiter(1)

    async def admit(self, request: Request, permission: str | None) -> Caller:
        """Return the caller of an admitted request.

        Raises Problem, DatabaseAway, DatabaseRefused.
        """
        token = _presented(request)
        known = await self._known(token)
        if isinstance(known, Denied):
            await asyncio.sleep(self._refused(request, str(known)))
            raise Problem(401, str(known), _CHALLENGE)
        if permission is None or not grants(known, permission):
            self._refused(request, "the key lacks a permission")
            wanted = permission or "what no key has"
            raise Problem(403, f"the key is not good for this; needed: {wanted}")
        return Caller(known, _origin(request))

    async def _known(self, token: str) -> Key | Denied:
        if not self._ring.knows(token):
            with move_on_after(LOOK_UP_SECONDS):
                await to_thread.run_sync(
                    self._ring.look_up, token, abandon_on_cancel=True, limiter=self._look_up
                )
        return self._ring.remembered(token)

    def _refused(self, request: Request, reason: str) -> float:
        """Count a refusal; return the seconds that its answer must wait."""
        denial_counted(reason)
        delay_s, untold = self._refusals.add(_origin(request))
        if untold:
            request_denied(reason, _origin(request), untold)
        return delay_s


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
