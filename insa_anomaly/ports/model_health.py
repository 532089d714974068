"""Counts and decisions of the daily health check, as they are stored."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from insa_anomaly.core.operations.model_health import Decision
from insa_anomaly.core.reading.series_key import SeriesKey


class ScoringCounts(msgspec.Struct, frozen=True):
    """Counts over a while: readings and anomalies of every series, and batches.

    `slow` counts the slow ones among the batches.
    """

    keys: Sequence[SeriesKey]
    readings: Sequence[int]
    anomalies: Sequence[int]
    batches: int
    slow: int


class KeptDecision(msgspec.Struct, frozen=True):
    """A stored decision of a check and its outcome.

    The decision waits, is done, or is void because it no longer applies.
    """

    id: str
    run_id: str
    at: int
    decision: Decision
    status: Literal["waiting", "done", "void"]
    due_at: int | None
    settled_at: int | None
    outcome: str
    job_id: str | None
    job_status: str | None
    job_outcome: str | None


class DecisionFilter(msgspec.Struct, frozen=True):
    """Filter of decisions; None admits any value."""

    device_id: str | None = None
    metric_name: str | None = None
    model_id: str | None = None
    run_id: str | None = None
