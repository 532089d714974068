"""Routes /api/v1/ml/models: the models, their performance, and changes to them."""

from collections.abc import Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api.auth import caller
from insa_anomaly.api.documents import answered, reads, writes
from insa_anomaly.api.requests import ModelQuery, ThresholdBody
from insa_anomaly.services.model_changes import ModelChangeService, StatusChange, ThresholdChange
from insa_anomaly.services.models import (
    ModelDetail,
    ModelPage,
    ModelService,
    Performance,
    ShadowComparison,
)


def router(
    models: ModelService,
    changes: ModelChangeService,
    clock: Callable[[], int],
    route_class: type[APIRoute],
) -> APIRouter:
    """Return the routes over models."""
    routes = APIRouter(prefix="/api/v1/ml/models", tags=["models"], route_class=route_class)

    @routes.get("", **reads(ModelPage, "models"))
    def list_models(asked: Annotated[ModelQuery, Query()]) -> Response:
        """List models, newest first, with their total and the number that serve."""
        return answered(models.page(asked.wanted(), asked.after, asked.limit))

    @routes.get("/{model_id}", **reads(ModelDetail, "model_detail", 404))
    def show_model(model_id: UUID) -> Response:
        """Return a model with the figures of its training and the state of its series."""
        return answered(models.detail(str(model_id)))

    @routes.get("/{model_id}/performance", **reads(Performance, "performance", 404))
    def show_performance(model_id: UUID) -> Response:
        """Return a model's performance: its training, its alarms, the feedback on them.

        The answer holds the figures of the training, the alarms of the last week, the verdicts of
        operators, and the versions of the series.
        """
        return answered(models.performance(str(model_id), clock()))

    @routes.put("/{model_id}/threshold", **writes(ThresholdChange, "threshold", 404, 409))
    def set_threshold(request: Request, model_id: UUID, asked: ThresholdBody) -> Response:
        """Set the least confidence at which a model opens episodes, for its refits too.

        The answer holds the alarms a day of the last week, with the old and the new threshold.
        """
        return answered(
            changes.set_threshold(str(model_id), asked.threshold, caller(request).author, clock())
        )

    @routes.post("/{model_id}/activate", **writes(StatusChange, "activated", 404, 409))
    def activate(request: Request, model_id: UUID) -> Response:
        """Let this version serve its series, as a rollback or a promotion.

        The stream adopts the version within a second.
        """
        return answered(changes.activate(str(model_id), caller(request).author))

    @routes.get("/{model_id}/shadow", **reads(ShadowComparison, "comparison", 404, 409))
    def compare(model_id: UUID) -> Response:
        """Compare a shadow with the serving version, on the same readings.

        Activate the shadow to promote it.
        """
        return answered(models.comparison(str(model_id)))

    @routes.post("/{model_id}/shadow", **writes(StatusChange, "shadowed", 404, 409))
    def shadow(request: Request, model_id: UUID) -> Response:
        """Let an archived version score along as a shadow, in place of the current shadow."""
        return answered(changes.shadow(str(model_id), caller(request).author))

    @routes.delete("/{model_id}/shadow", **writes(StatusChange, "unshadowed", 404, 409))
    def end_shadow(request: Request, model_id: UUID) -> Response:
        """Archive a shadow: the version scores the stream no longer."""
        return answered(changes.end_shadow(str(model_id), caller(request).author))

    @routes.delete("/{model_id}", **writes(StatusChange, "deleted", 404, 409))
    def delete(request: Request, model_id: UUID) -> Response:
        """Remove a model's files; its row stays, with the status `deleted`.

        If the model served, its series has no model until another is trained or activated.
        """
        return answered(changes.delete(str(model_id), caller(request).author))

    return routes
