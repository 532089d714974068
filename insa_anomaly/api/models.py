"""Routes /api/v1/ml/models: which there are, how each does."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api import examples
from insa_anomaly.api.auth import needs
from insa_anomaly.api.documents import answered, answers
from insa_anomaly.api.requests import ModelQuery
from insa_anomaly.services.keys import Permission
from insa_anomaly.services.models import ModelDetail, ModelPage, ModelService, Performance

_BAD, _UNKNOWN = HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.NOT_FOUND


def router(models: ModelService, clock: Callable[[], int], route_class: type[APIRoute]) -> APIRouter:
    """The routes that read models."""
    routes = APIRouter(prefix="/api/v1/ml/models", tags=["models"], route_class=route_class)
    reads = needs(Permission.READ)

    @routes.get("", openapi_extra=reads, responses=answers(ModelPage, examples.MODELS, _BAD))
    def list_models(asked: Annotated[ModelQuery, Query()]) -> Response:
        """Models, newest first, with how many there are and how many serve."""
        return answered(models.page(asked.wanted(), asked.after, asked.limit))

    @routes.get("/{model_id}", openapi_extra=reads, responses=answers(ModelDetail, examples.MODEL_DETAIL, _BAD, _UNKNOWN))
    def show_model(model_id: UUID) -> Response:
        """All about one model: what it is, what its training says of it, and how its series stands."""
        return answered(models.detail(str(model_id)))

    @routes.get("/{model_id}/performance", openapi_extra=reads, responses=answers(Performance, examples.PERFORMANCE, _BAD, _UNKNOWN))
    def show_performance(model_id: UUID) -> Response:
        """How a model does: figures of its training, its alarms over the last week, what operators say, the versions of its series."""
        return answered(models.performance(str(model_id), clock()))

    return routes
