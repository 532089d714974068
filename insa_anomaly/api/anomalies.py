"""Routes /api/v1/ml/anomalies and /api/v1/ml/episodes: what was found."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api import examples
from insa_anomaly.api.auth import needs
from insa_anomaly.api.documents import answered, answers
from insa_anomaly.api.requests import AnomalyQuery, EpisodeQuery
from insa_anomaly.services.findings import AnomalyPage, EpisodePage, FindingService
from insa_anomaly.services.keys import Permission

_BAD = HTTPStatus.UNPROCESSABLE_ENTITY


def router(findings: FindingService, route_class: type[APIRoute]) -> APIRouter:
    """The routes that read what was found."""
    routes = APIRouter(prefix="/api/v1/ml", tags=["findings"], route_class=route_class)
    reads = needs(Permission.READ)

    @routes.get("/anomalies", openapi_extra=reads, responses=answers(AnomalyPage, examples.ANOMALIES, _BAD))
    def list_anomalies(asked: Annotated[AnomalyQuery, Query()]) -> Response:
        """Readings that stood out, newest first. `next` goes into `cursor` for the next page."""
        return answered(findings.anomalies(asked.wanted(), asked.after, asked.limit))

    @routes.get("/episodes", openapi_extra=reads, responses=answers(EpisodePage, examples.EPISODES, _BAD))
    def list_episodes(asked: Annotated[EpisodeQuery, Query()]) -> Response:
        """Episodes, the one opened last first, with what operators say of them."""
        return answered(findings.episodes(asked.wanted(), asked.after, asked.limit))

    return routes
