"""Notices about a model's health, with a cause that stays the same from day to day."""

from typing import Literal

import msgspec

NoticeKind = Literal["degraded", "recovered", "failing", "disabled", "slow"]
Severity = Literal["info", "warning", "critical"]


class Notice(msgspec.Struct, frozen=True):
    """A happening of a model or a daemon that a person should know; times in microseconds.

    A notice is published at least once, under one `event_id`; `open` states whether its cause
    stands or is over.
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
