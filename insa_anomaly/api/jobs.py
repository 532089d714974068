"""Routes that train, and /api/v1/ml/jobs: the requested trainings, their progress and outcome."""

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api.auth import caller
from insa_anomaly.api.documents import answered, reads, success, writes
from insa_anomaly.api.problems import Problem
from insa_anomaly.api.requests import FleetBody, JobQuery, TrainBody
from insa_anomaly.services.jobs import JobPage, JobService, JobView


def router(jobs: JobService, clock: Callable[[], int], route_class: type[APIRoute]) -> APIRouter:
    """Return the routes over trainings."""
    routes = APIRouter(prefix="/api/v1/ml", tags=["training"], route_class=route_class)

    @routes.post("/models/train", **_trains("job"))
    def train(request: Request, asked: TrainBody | FleetBody) -> Response:
        """Train a model of a series on its recorded readings.

        The answer is 202 with a job to poll if the training takes longer than a few seconds.

        With a `device_pattern`, every series of the matching devices is trained, and each of these
        devices as a whole; the answer is always a job.
        """
        window, author = asked.training_window, caller(request).author
        if isinstance(asked, TrainBody):
            return _trained(jobs.wait(jobs.train(asked.series, window, author, clock())))
        pattern, metric = asked.device_pattern, asked.metric_name
        return _trained(jobs.train_fleet(pattern, metric, window, author, clock()))

    @routes.post("/models/{model_id}/retrain", **_trains("retrained"))
    def retrain(request: Request, model_id: UUID) -> Response:
        """Train a new version of a model.

        The answer is 202 with a job to poll if the training takes longer than a few seconds.
        """
        return _trained(jobs.wait(jobs.retrain(str(model_id), caller(request).author, clock())))

    @routes.get("/jobs", **reads(JobPage, "jobs"))
    def list_jobs(asked: Annotated[JobQuery, Query()]) -> Response:
        """List the requested trainings, newest first."""
        return answered(jobs.page(asked.status, asked.after, asked.limit))

    @routes.get("/jobs/{job_id}", **reads(JobView, "job", 404))
    def show_job(job_id: UUID) -> Response:
        """Return a training with its progress in percent and its outcome."""
        return answered(jobs.one(str(job_id)))

    @routes.delete("/jobs/{job_id}", **writes(JobView, "job", 404, 409))
    def cancel(request: Request, job_id: UUID) -> Response:
        """Cancel a training that waits or is under way."""
        return answered(jobs.cancel(str(job_id), caller(request).author, clock()))

    return routes


def _trains(example: str) -> dict[str, Any]:
    route = writes(JobView, example, 404, 409, 429)
    return {**route, "responses": route["responses"] | success(JobView, "queued", 202)}


def _trained(job: JobView) -> Response:
    if job.status == "failed":
        raise Problem(422, f"not trained: {job.reason}")
    answer = answered(job, 200 if job.status == "done" else 202)
    answer.headers["Location"] = f"/api/v1/ml/jobs/{job.job_id}"
    return answer
