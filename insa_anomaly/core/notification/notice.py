"""What is told of a model's health: one happening, with a cause that stays the same from day to day."""

from typing import Literal

import msgspec

NoticeKind = Literal["degraded", "recovered", "failing", "disabled", "slow"]
Severity = Literal["info", "warning", "critical"]


class Notice(msgspec.Struct, frozen=True):
    """Something about a model, or about a daemon as a whole, that somebody should know. Times in microseconds since the epoch.

    A happening is told at least once, under one `event_id`; `open` says whether its cause stands or is over.
    """

    event_id: str
    kind: NoticeKind
    severity: Severity
    cause: str
    open: bool
    at: int
    device_id: str  # empty, as the next three, where it is about a daemon
    metric_name: str
    model_id: str
    model_version: int
    reason: str
    figures: dict[str, float | int | str | None]
