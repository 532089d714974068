"""Routes /api/v1/ml/models: which there are, how each does."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api import examples
from insa_anomaly.api.auth import caller, needs
from insa_anomaly.api.documents import answered, answers
from insa_anomaly.api.requests import ModelQuery, ThresholdBody
from insa_anomaly.services.keys import Permission
from insa_anomaly.services.model_changes import ModelChangeService, StatusChange, ThresholdChange
from insa_anomaly.services.models import (
    Comparison,
    ModelDetail,
    ModelPage,
    ModelService,
    Performance,
)

_BAD, _UNKNOWN = HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.NOT_FOUND


def router(
    models: ModelService,
    changes: ModelChangeService,
    clock: Callable[[], int],
    route_class: type[APIRoute],
) -> APIRouter:
    """The routes over models."""
    routes = APIRouter(prefix="/api/v1/ml/models", tags=["models"], route_class=route_class)
    reads, writes = needs(Permission.READ), needs(Permission.WRITE)

    @routes.get("", openapi_extra=reads, responses=answers(ModelPage, examples.MODELS, _BAD))
    def list_models(asked: Annotated[ModelQuery, Query()]) -> Response:
        """Models, newest first, with how many there are and how many serve."""
        return answered(models.page(asked.wanted(), asked.after, asked.limit))

    @routes.get(
        "/{model_id}",
        openapi_extra=reads,
        responses=answers(ModelDetail, examples.MODEL_DETAIL, _BAD, _UNKNOWN),
    )
    def show_model(model_id: UUID) -> Response:
        """All about one model: what it is, what its training says of it, and how its series stands."""
        return answered(models.detail(str(model_id)))

    @routes.get(
        "/{model_id}/performance",
        openapi_extra=reads,
        responses=answers(Performance, examples.PERFORMANCE, _BAD, _UNKNOWN),
    )
    def show_performance(model_id: UUID) -> Response:
        """How a model does: figures of its training, its alarms over the last week, what operators say, the versions of its series."""
        return answered(models.performance(str(model_id), clock()))

    @routes.put(
        "/{model_id}/threshold",
        openapi_extra=writes,
        responses=answers(ThresholdChange, examples.THRESHOLD, _BAD, _UNKNOWN, HTTPStatus.CONFLICT),
    )
    def set_threshold(request: Request, model_id: UUID, asked: ThresholdBody) -> Response:
        """Let a model speak from this confidence on, over refits too. Answers what it would have done over the last week."""
        return answered(
            changes.set_threshold(str(model_id), asked.threshold, caller(request).author, clock())
        )

    @routes.post(
        "/{model_id}/activate",
        openapi_extra=writes,
        responses=answers(StatusChange, examples.ACTIVATED, _BAD, _UNKNOWN, HTTPStatus.CONFLICT),
    )
    def activate(request: Request, model_id: UUID) -> Response:
        """Let this version serve its series: roll back, or promote. The stream takes it within a second."""
        return answered(changes.activate(str(model_id), caller(request).author))

    @routes.get(
        "/{model_id}/shadow",
        openapi_extra=reads,
        responses=answers(Comparison, examples.COMPARISON, _BAD, _UNKNOWN, HTTPStatus.CONFLICT),
    )
    def compare(model_id: UUID) -> Response:
        """How a version that scores along does beside the one that serves, on the same readings. Activate it to promote it."""
        return answered(models.comparison(str(model_id)))

    @routes.post(
        "/{model_id}/shadow",
        openapi_extra=writes,
        responses=answers(StatusChange, examples.SHADOWED, _BAD, _UNKNOWN, HTTPStatus.CONFLICT),
    )
    def shadow(request: Request, model_id: UUID) -> Response:
        """Let an archived version score the same stream without speaking, instead of the one that does."""
        return answered(changes.shadow(str(model_id), caller(request).author))

    @routes.delete(
        "/{model_id}/shadow",
        openapi_extra=writes,
        responses=answers(StatusChange, examples.UNSHADOWED, _BAD, _UNKNOWN, HTTPStatus.CONFLICT),
    )
    def end_shadow(request: Request, model_id: UUID) -> Response:
        """Let it score along no more."""
        return answered(changes.end_shadow(str(model_id), caller(request).author))

    @routes.delete(
        "/{model_id}",
        openapi_extra=writes,
        responses=answers(StatusChange, examples.DELETED, _BAD, _UNKNOWN, HTTPStatus.CONFLICT),
    )
    def delete(request: Request, model_id: UUID) -> Response:
        """Remove a model's files. Its row stays, as deleted; where it served, its series has no model until there is another."""
        return answered(changes.delete(str(model_id), caller(request).author))

    return routes
