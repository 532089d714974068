"""Routes /api/v1/ml/anomalies and /api/v1/ml/episodes: recorded anomalies and episodes."""

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
from insa_anomaly.api.requests import AnomalyQuery, EpisodeQuery, FeedbackBody
from insa_anomaly.ports.anomalies import Feedback
from insa_anomaly.services.anomalies import AnomalyPage, AnomalyService, EpisodePage
from insa_anomaly.services.keys import Permission
from insa_anomaly.services.views import EpisodeView

_BAD = HTTPStatus.UNPROCESSABLE_ENTITY


def router(
    findings: AnomalyService, clock: Callable[[], int], route_class: type[APIRoute]
) -> APIRouter:
    """Return the routes over anomalies and episodes."""
    routes = APIRouter(prefix="/api/v1/ml", tags=["findings"], route_class=route_class)
    reads = needs(Permission.READ)

    @routes.get(
        "/anomalies", openapi_extra=reads, responses=answers(AnomalyPage, examples.ANOMALIES, _BAD)
    )
    def list_anomalies(asked: Annotated[AnomalyQuery, Query()]) -> Response:
        """List anomalous readings, newest first. Pass `next` as `cursor` to get the next page."""
        return answered(findings.anomalies(asked.wanted(), asked.after, asked.limit))

    @routes.get(
        "/episodes", openapi_extra=reads, responses=answers(EpisodePage, examples.EPISODES, _BAD)
    )
    def list_episodes(asked: Annotated[EpisodeQuery, Query()]) -> Response:
        """List episodes with the operators' feedback, the latest to open first."""
        return answered(findings.episodes(asked.wanted(), asked.after, asked.limit))

    @routes.post(
        "/episodes/{episode_id}/feedback",
        openapi_extra=needs(Permission.WRITE),
        responses=answers(
            EpisodeView,
            {**examples.EPISODE, "feedback": examples.FEEDBACK},
            _BAD,
            HTTPStatus.NOT_FOUND,
        ),
    )
    def say(request: Request, episode_id: UUID, said: FeedbackBody) -> Response:
        """Confirm or dismiss an episode; the latest verdict counts.

        Readings of a confirmed episode are left out of the next training.
        """
        author = caller(request).author
        return answered(
            findings.feedback(
                str(episode_id), Feedback(said.verdict, said.note, author.who, clock()), author
            )
        )

    return routes
