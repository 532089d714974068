"""Routes /api/v1/ml/predict: the score of a value as the next reading of its series."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api import examples
from insa_anomaly.api.auth import caller, needs
from insa_anomaly.api.documents import answered, answers
from insa_anomaly.api.requests import BatchBody, PredictBody
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.services.keys import Permission
from insa_anomaly.services.prediction import BatchAnswer, PredictionAnswer, PredictionService

_MORE = (
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
)


def router(predictions: PredictionService, route_class: type[APIRoute]) -> APIRouter:
    """Return the prediction routes; every key has a limit of predictions a minute."""
    routes = APIRouter(prefix="/api/v1/ml", tags=["predictions"], route_class=route_class)
    reads = needs(Permission.READ)

    @routes.post(
        "/predict",
        openapi_extra=reads,
        responses=answers(PredictionAnswer, examples.PREDICTION, *_MORE),
    )
    async def predict(request: Request, asked: PredictBody) -> Response:
        """Score a value as if it were the next reading of the series; no state changes."""
        # The loop's own thread answers: half a millisecond there costs less than the way to
        # another thread and back beside a busy stream.
        return answered(
            predictions.predict(
                caller(request).key, SeriesKey(asked.device_id, asked.metric_name), asked.value
            )
        )

    @routes.post(
        "/predict/batch",
        openapi_extra=reads,
        responses=answers(BatchAnswer, examples.PREDICTIONS, *_MORE),
    )
    def predict_many(request: Request, asked: BatchBody) -> Response:
        """Score many values, each as the next reading; every value counts as a prediction."""
        return answered(
            predictions.predict_many(
                caller(request).key, SeriesKey(asked.device_id, asked.metric_name), asked.values
            )
        )

    return routes
