"""Routes that train, and /api/v1/ml/jobs: the requested trainings, their progress and outcome."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from insa_anomaly.api import examples
from insa_anomaly.api.auth import caller, needs
from insa_anomaly.api.documents import answered, answers, success
from insa_anomaly.api.problems import Problem
from insa_anomaly.api.requests import FleetBody, JobQuery, TrainBody
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.services.jobs import JobPage, JobService, JobView
from insa_anomaly.services.keys import Permission

_BAD, _UNKNOWN, _CONFLICT, _FULL = (
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_MANY_REQUESTS,
)
_REFUSED = (_BAD, _UNKNOWN, _CONFLICT, _FULL)


def router(jobs: JobService, clock: Callable[[], int], route_class: type[APIRoute]) -> APIRouter:
    """Return the routes over trainings."""
    routes = APIRouter(prefix="/api/v1/ml", tags=["training"], route_class=route_class)
    reads, writes = needs(Permission.READ), needs(Permission.WRITE)
    accepted = success(JobView, examples.QUEUED, 202)

    @routes.post(
        "/models/train",
        openapi_extra=writes,
        responses={**answers(JobView, examples.JOB, *_REFUSED), **accepted},
    )
    def train(request: Request, asked: TrainBody | FleetBody) -> Response:
        """Train a model of a series on its recorded readings.

        The answer is 202 with a job to poll if the training takes longer than a few seconds.

        With a `device_pattern`, every series of the matching devices is trained, and each of these
        devices as a whole; the answer is always a job.
        """
        if isinstance(asked, FleetBody):
            author = caller(request).author
            return _trained(
                jobs.train_fleet(
                    asked.device_pattern, asked.metric_name, asked.training_window, author, clock()
                )
            )
        key = SeriesKey(asked.device_id, asked.metric_name)
        return _trained(
            jobs.wait(jobs.train(key, asked.training_window, caller(request).author, clock()))
        )

    @routes.post(
        "/models/{model_id}/retrain",
        openapi_extra=writes,
        responses={**answers(JobView, examples.RETRAINED, *_REFUSED), **accepted},
    )
    def retrain(request: Request, model_id: UUID) -> Response:
        """Train a new version of a model.

        The answer is 202 with a job to poll if the training takes longer than a few seconds.
        """
        return _trained(jobs.wait(jobs.retrain(str(model_id), caller(request).author, clock())))

    @routes.get("/jobs", openapi_extra=reads, responses=answers(JobPage, examples.JOBS, _BAD))
    def list_jobs(asked: Annotated[JobQuery, Query()]) -> Response:
        """List the requested trainings, newest first."""
        return answered(jobs.page(asked.status, asked.after, asked.limit))

    @routes.get(
        "/jobs/{job_id}",
        openapi_extra=reads,
        responses=answers(JobView, examples.JOB, _BAD, _UNKNOWN),
    )
    def show_job(job_id: UUID) -> Response:
        """Return a training with its progress in percent and its outcome."""
        return answered(jobs.one(str(job_id)))

    @routes.delete(
        "/jobs/{job_id}",
        openapi_extra=writes,
        responses=answers(JobView, examples.JOB, _BAD, _UNKNOWN, _CONFLICT),
    )
    def cancel(request: Request, job_id: UUID) -> Response:
        """Cancel a training that waits or is under way."""
        return answered(jobs.cancel(str(job_id), caller(request).author, clock()))

    return routes


def _trained(job: JobView) -> Response:
    if job.status == "failed":
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"not trained: {job.reason}")
    answer = answered(job, 200 if job.status == "done" else 202)
    answer.headers["Location"] = f"/api/v1/ml/jobs/{job.job_id}"
    return answer
