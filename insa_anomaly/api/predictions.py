"""Routes /api/v1/ml/predict: the score of a value as the next reading of its series."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api.auth import caller
from insa_anomaly.api.documents import answered, reads
from insa_anomaly.api.requests import BatchBody, PredictBody
from insa_anomaly.services.prediction import BatchAnswer, PredictionAnswer, PredictionService


def router(predictions: PredictionService, route_class: type[APIRoute]) -> APIRouter:
    """Return the prediction routes; every key has a limit of predictions a minute."""
    routes = APIRouter(prefix="/api/v1/ml", tags=["predictions"], route_class=route_class)

    @routes.post("/predict", **reads(PredictionAnswer, "prediction", 404, 409, 429))
    async def predict(request: Request, asked: PredictBody) -> Response:
        """Score a value as if it were the next reading of the series; no state changes."""
        # The loop's own thread answers: half a millisecond there costs less than the way to
        # another thread and back beside a busy stream.
        return answered(predictions.predict(caller(request).key, asked.series, asked.value))

    @routes.post("/predict/batch", **reads(BatchAnswer, "predictions", 404, 409, 429))
    def predict_many(request: Request, asked: BatchBody) -> Response:
        """Score many values, each as the next reading; every value counts as a prediction."""
        return answered(predictions.predict_many(caller(request).key, asked.series, asked.values))

    return routes
