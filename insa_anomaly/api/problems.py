"""Errors of the API: every answer that is no success is a problem document (RFC 9457)."""

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from insa_anomaly import errors
from insa_anomaly.instrumentation.admin_port import request_failed, request_unanswerable

MEDIA_TYPE = "application/problem+json"
AWAY_RETRY_SECONDS = 5
_STATUSES = {errors.NotFound: 404, errors.Conflict: 409, errors.TooLarge: 422}
_DATABASE = "the database does not answer, or refuses; nothing was changed"
Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]


class Problem(Exception):
    """An error that ends a request with this status, detail and headers."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


def problem(status: int, detail: str, **more: object) -> dict[str, object]:
    """Return a problem document, with further members."""
    title = HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}


def answer(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    """Return an answer that is a problem document, with further members."""
    said = msgspec.json.encode(problem(status, detail, **more))
    return Response(said, status, dict(headers or {}), MEDIA_TYPE)


async def _problem(_: Request, error: Problem) -> Response:
    return answer(error.status, error.detail, error.headers)


async def _ours(request: Request, error: errors.InsaError) -> Response:
    if isinstance(error, errors.TooMany):
        return answer(429, str(error), _retry(max(1, round(error.retry_seconds + 0.5))))
    if type(error) in _STATUSES:
        return answer(_STATUSES[type(error)], str(error))
    request_unanswerable(request.method, str(error))
    away = isinstance(error, errors.DatabaseAway | errors.DatabaseRefused)
    return answer(503, _DATABASE if away else str(error), _retry(AWAY_RETRY_SECONDS))


def _retry(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}


async def _invalid(_: Request, error: RequestValidationError) -> Response:
    """Answer without repeating the request, which may hold a secret or no text at all."""
    wrong = [
        {"where": ".".join(map(str, one["loc"])), "what": one["msg"]} for one in error.errors()
    ]
    return answer(422, "the request is not what is expected here", errors=wrong)


async def _http(_: Request, error: HTTPException) -> Response:
    return answer(error.status_code, str(error.detail), error.headers)


async def _gone(*_: object) -> Response:
    """End the request of a client that has disconnected; the daemon is not at fault."""
    return answer(400, "the request ended before it was whole")


async def _unexpected(request: Request, error: Exception) -> Response:
    request_failed(request.method, error)
    return answer(500, "this is a fault of the daemon; its log says more")


HANDLERS: dict[int | type[Exception], Handler] = {  # of every error that a route may raise
    Problem: _problem,
    errors.InsaError: _ours,
    RequestValidationError: _invalid,
    HTTPException: _http,
    ClientDisconnect: _gone,
    Exception: _unexpected,
}
