"""Recorded anomalies and episodes: filters, pages, and the operators' verdicts."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec


@dataclass(frozen=True)
class Filter:
    """Filter of anomalies or episodes; None admits any value.

    `since` <= time < `until` holds for the reading, or for the reading that opened the episode.
    """

    device_id: str | None = None
    metric_name: str | None = None
    model_id: str | None = None
    episode_id: str | None = None
    since: int | None = None
    until: int | None = None
    least_confidence: float | None = None
    open: bool | None = None  # for episodes only


class PageCursor(NamedTuple):
    """End of a page: the next page holds older rows."""

    time: int
    id: str


class Feedback(msgspec.Struct, frozen=True):
    """An operator's verdict on an episode."""

    verdict: Literal["confirmed", "dismissed"]
    note: str
    given_by: str
    given_at: int


class AnomalyCounts(msgspec.Struct, frozen=True):
    """A model's findings in a span, and the operators' verdicts on all its episodes."""

    anomalies: int
    episodes: int
    confirmed: int
    dismissed: int
