"""Requested trainings."""

from typing import Literal

import msgspec


class Job(msgspec.Struct, frozen=True):
    """A requested training. Times are in microseconds.

    `champion_id` is the model that a retraining is compared with. The job of a fleet has a pattern
    as its `device_id`, and its progress in `outcome`.
    """

    id: str
    kind: Literal["train", "retrain", "fleet"]
    device_id: str
    metric_name: str
    window_days: float | None
    champion_id: str | None
    requested_by: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: int  # percent
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    model_id: str | None = None
    seconds: float | None = None
    outcome: dict[str, float | int | str | bool | None] = {}
    reason: str = ""
