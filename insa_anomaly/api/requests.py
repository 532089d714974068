"""Bodies and queries of requests: strict, every field known and every number finite."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from insa_anomaly.core.operations.model_health import Action
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.anomalies import Filter, PageCursor
from insa_anomaly.ports.model_health import DecisionFilter
from insa_anomaly.services.anomalies import place
from insa_anomaly.services.models import ModelFilter

PAGE, PAGE_MOST = 100, 1000
BATCH_MOST = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _usable(name: str) -> str:
    if not name.isprintable() or name != name.strip() or set(name) & set("/+#"):
        raise ValueError(
            "a name is printable, without /, + and #, and begins and ends with no space"
        )
    return name


def _cursor(said: str) -> PageCursor:
    found = place(said)
    return PageCursor(found.time, str(UUID(found.id)))


def _written(said: object) -> object:
    """Refuse a number as a time, because seconds and milliseconds look alike."""
    if isinstance(said, str) and not re.match(r"\d{4}-\d\d-\d\d[Tt ]", said):
        raise ValueError("a time is written as RFC 3339, as in 2026-11-22T10:00:00Z")
    return said


def _micros(said: datetime) -> int:
    return (said - _EPOCH) // timedelta(microseconds=1)


Instant = Annotated[
    AwareDatetime, BeforeValidator(_written), PlainSerializer(_micros, return_type=int)
]
_Word = Field(min_length=1, max_length=200, pattern=r"^[^/+#\x00-\x1f\x7f]+$")
Name = Annotated[str, _Word, AfterValidator(_usable)]
Days = Annotated[
    float | None, Field(gt=0, le=3650, description="Days; left out: as the daemon does by itself.")
]
Cursor = Annotated[str, Field(max_length=100), AfterValidator(_cursor)]
Status = Literal["active", "shadow", "archived", "disabled", "failed", "deleted"]


class Strict(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class ThresholdBody(Strict):
    """Body of PUT .../threshold."""

    threshold: Annotated[
        float,
        Field(ge=0, le=1, description="Least confidence that opens an episode.", examples=[0.5]),
    ]


class _SeriesBody(Strict):
    """A request body that names a series."""

    device_id: Annotated[Name, Field(examples=["PUMP-101"])]
    metric_name: Annotated[Name, Field(examples=["temperature"])]

    @property
    def series(self) -> SeriesKey:
        """Key of the series."""
        return SeriesKey(self.device_id, self.metric_name)


class PredictBody(_SeriesBody):
    """Body of POST .../predict."""

    value: Annotated[float, Field(examples=[105.8])]


class BatchBody(_SeriesBody):
    """Body of POST .../predict/batch."""

    values: Annotated[
        list[float], Field(min_length=1, max_length=BATCH_MOST, examples=[[71.3, 105.8]])
    ]


class TrainBody(_SeriesBody):
    """Body of POST .../train for a single series."""

    training_window: Annotated[Days, Field(examples=[14.0])] = None


class FleetBody(Strict):
    """Body of POST .../train for many series."""

    device_pattern: Annotated[
        Name, Field(description="`*`: any characters, `?`: one, `[ab]`: one of these.")
    ]
    metric_name: Annotated[
        Name | None, Field(description="Left out: all metrics, and each device as a whole.")
    ] = None
    training_window: Days = None


class FeedbackBody(Strict):
    """Body of POST .../feedback."""

    verdict: Annotated[Literal["confirmed", "dismissed"], Field(examples=["confirmed"])]
    note: Annotated[str, Field(max_length=2000, examples=["bearing replaced"])] = ""


class HealthCheckBody(Strict):
    """Body of POST .../health-check."""

    task_type: Annotated[
        Literal["ml_model_health_check"], Field(examples=["ml_model_health_check"])
    ]
    actions: Annotated[
        list[Annotated[Action, Field(strict=False)]],
        Field(
            min_length=1,
            max_length=len(Action),
            description="Left out: all.",
            examples=[["check_model_age", "auto_retrain_if_needed"]],
        ),
    ] = list(Action)


class TelemetryQuery(BaseModel):
    """Query of POST /telemetry: names that the payload leaves out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device_id: Name | None = None
    metric_name: Name | None = None

    @model_validator(mode="after")
    def _metric_of_a_device(self) -> Self:
        if self.metric_name is not None and self.device_id is None:
            raise ValueError("metric_name goes with device_id")
        return self


class Query(BaseModel):
    """Parameters behind the question mark of an address; all of them arrive as text."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Paged(Query):
    """A page: its length, and the place after which it begins."""

    limit: Annotated[int, Field(ge=1, le=PAGE_MOST)] = PAGE
    cursor: Cursor | None = None

    @property
    def after(self) -> PageCursor | None:
        """Place at which the previous page ended."""
        return self.cursor if isinstance(self.cursor, PageCursor) else None

    def admitted(self) -> dict[str, Any]:
        """Return the filter by its names, with ids as text and times in microseconds."""
        return self.model_dump(mode="json", exclude={"limit", "cursor"})


class JobQuery(Paged):
    """Filter of jobs."""

    status: Literal["queued", "running", "done", "failed", "cancelled"] | None = None


class DecisionQuery(Paged):
    """Filter of the decisions of health checks."""

    device_id: Name | None = None
    metric_name: Name | None = None
    model_id: UUID | None = None
    run_id: UUID | None = None

    def wanted(self) -> DecisionFilter:
        """Return the filter as the service expects it."""
        return DecisionFilter(**self.admitted())


class ModelQuery(Paged):
    """Filter of models."""

    device_id: Name | None = None
    metric_name: Name | None = None
    status: Status | None = None

    def wanted(self) -> ModelFilter:
        """Return the filter as the service expects it."""
        return ModelFilter(**self.admitted())


class _AnomalyFilter(Paged):
    """Filter of anomalies or episodes."""

    device_id: Name | None = None
    metric_name: Name | None = None
    model_id: UUID | None = None
    since: Annotated[Instant | None, Field(alias="from")] = None
    until: Annotated[Instant | None, Field(alias="to")] = None
    least_confidence: Annotated[float | None, Field(alias="min_confidence", ge=0, le=1)] = None

    def wanted(self) -> Filter:
        """Return the filter as the service expects it."""
        return Filter(**self.admitted())


class AnomalyQuery(_AnomalyFilter):
    """Filter of anomalies."""

    episode_id: UUID | None = None


class EpisodeQuery(_AnomalyFilter):
    """Filter of episodes."""

    open: bool | None = None
