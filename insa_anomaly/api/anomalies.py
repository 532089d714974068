"""Routes /api/v1/ml/anomalies and /api/v1/ml/episodes: recorded anomalies and episodes."""

from collections.abc import Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api.auth import caller
from insa_anomaly.api.documents import answered, reads, writes
from insa_anomaly.api.requests import AnomalyQuery, EpisodeQuery, FeedbackBody
from insa_anomaly.ports.anomalies import Feedback
from insa_anomaly.services.anomalies import AnomalyPage, AnomalyService, EpisodePage
from insa_anomaly.services.views import EpisodeView


def router(
    findings: AnomalyService, clock: Callable[[], int], route_class: type[APIRoute]
) -> APIRouter:
    """Return the routes over anomalies and episodes."""
    routes = APIRouter(prefix="/api/v1/ml", tags=["findings"], route_class=route_class)

    @routes.get("/anomalies", **reads(AnomalyPage, "anomalies"))
    def list_anomalies(asked: Annotated[AnomalyQuery, Query()]) -> Response:
        """List anomalous readings, newest first. Pass `next` as `cursor` to get the next page."""
        return answered(findings.anomalies(asked.wanted(), asked.after, asked.limit))

    @routes.get("/episodes", **reads(EpisodePage, "episodes"))
    def list_episodes(asked: Annotated[EpisodeQuery, Query()]) -> Response:
        """List episodes with the operators' feedback, the latest to open first."""
        return answered(findings.episodes(asked.wanted(), asked.after, asked.limit))

    @routes.post("/episodes/{episode_id}/feedback", **writes(EpisodeView, "episode_confirmed", 404))
    def say(request: Request, episode_id: UUID, said: FeedbackBody) -> Response:
        """Confirm or dismiss an episode; the latest verdict counts.

        Readings of a confirmed episode are left out of the next training.
        """
        author = caller(request).author
        feedback = Feedback(said.verdict, said.note, author.who, clock())
        return answered(findings.feedback(str(episode_id), feedback, author))

    return routes
