"""Errors of the API: every answer that is no success is a problem document (RFC 9457)."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from insa_anomaly.errors import (
    Conflict,
    DatabaseAway,
    DatabaseRefused,
    InsaError,
    NotFound,
    TooLarge,
    TooMany,
)
from insa_anomaly.instrumentation.admin_port import request_failed, request_unanswerable

MEDIA_TYPE = "application/problem+json"
AWAY_RETRY_SECONDS = 5


class Problem(Exception):
    """An error that ends a request with this status, detail and headers."""

    def __init__(
        self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def answer(
    status: HTTPStatus,
    detail: str,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[object] = (),
) -> Response:
    """Return a problem document; `errors` names the faulty parts of the request."""
    said: dict[str, Any] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
    }
    if errors:
        said["errors"] = errors
    return Response(msgspec.json.encode(said), int(status), dict(headers or {}), MEDIA_TYPE)


def describe_all(app: FastAPI) -> None:
    """Turn every error that a route may raise into a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(InsaError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


async def _problem(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, Problem)  # noqa: S101 - registered for it, here and below
    return answer(error.status, error.detail, error.headers)


async def _ours(request: Request, error: Exception) -> Response:
    if isinstance(error, NotFound):
        return answer(HTTPStatus.NOT_FOUND, str(error))
    if isinstance(error, Conflict):
        return answer(HTTPStatus.CONFLICT, str(error))
    if isinstance(error, TooMany):
        return answer(
            HTTPStatus.TOO_MANY_REQUESTS,
            str(error),
            {"Retry-After": str(max(1, round(error.retry_seconds + 0.5)))},
        )
    if isinstance(error, TooLarge):
        return answer(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
    if isinstance(error, DatabaseAway | DatabaseRefused):
        request_unanswerable(request.method, str(error))
        detail = "the database does not answer, or refuses; nothing was changed"
        return answer(
            HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": str(AWAY_RETRY_SECONDS)}
        )
    request_unanswerable(request.method, str(error))
    return answer(
        HTTPStatus.SERVICE_UNAVAILABLE, str(error), {"Retry-After": str(AWAY_RETRY_SECONDS)}
    )


async def _invalid(request: Request, error: Exception) -> Response:
    """Answer without repeating the request, which may hold a secret or no text at all."""
    del request
    assert isinstance(error, RequestValidationError)  # noqa: S101
    wrong = [
        {"where": ".".join(map(str, one["loc"])), "what": one["msg"]} for one in error.errors()
    ]
    return answer(
        HTTPStatus.UNPROCESSABLE_ENTITY, "the request is not what is expected here", errors=wrong
    )


async def _http(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)  # noqa: S101
    return answer(HTTPStatus(error.status_code), str(error.detail), error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    """End the request of a client that has disconnected; the daemon is not at fault."""
    del request, error
    return answer(HTTPStatus.BAD_REQUEST, "the request ended before it was whole")


async def _unexpected(request: Request, error: Exception) -> Response:
    request_failed(request.method, error)
    return answer(
        HTTPStatus.INTERNAL_SERVER_ERROR, "this is a fault of the daemon; its log says more"
    )
