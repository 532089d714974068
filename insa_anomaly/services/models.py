"""Queries of models: their list, their details, their performance."""

import msgspec

from insa_anomaly.core.notification.event import rfc3339
from insa_anomaly.core.units import DAY
from insa_anomaly.errors import Conflict, ModelFileError, NotFound
from insa_anomaly.ports.anomalies import AnomalyCounts, Filter, PageCursor
from insa_anomaly.ports.models import ModelAccuracy, ModelIndex, ModelRow
from insa_anomaly.services.anomalies import AnomalyStore, cursor
from insa_anomaly.services.cached import Cached
from insa_anomaly.services.stream_view import ShadowTally, StreamView
from insa_anomaly.services.views import Figure, Id, Instant, ModelView, model_view

LIVE_DAYS = 7
COUNT_SECONDS = 900
UNKNOWN = "this model carries no self-assessment"


class ModelPage(msgspec.Struct, frozen=True):
    """A page of models, newest first.

    `total` and `active_count` count all models that the filter admits.
    """

    models: list[ModelView]
    total: int
    active_count: int
    next: str | None


class LiveView(msgspec.Struct, frozen=True):
    """The model's series in the stream."""

    state: str
    readings: int
    newest: Instant | None
    serving: bool  # this model scores the series
    in_episode: bool


class ModelDetail(msgspec.Struct, frozen=True):
    """A model with its figures, its parameters and the state of its series."""

    info: ModelView
    metrics: dict[str, Figure]
    parameters: dict[str, float | int | str | bool | None]
    status: str
    live: LiveView | None


class LiveRate(msgspec.Struct, frozen=True):
    """Findings of the model over the last days."""

    days: float
    anomalies: int
    episodes: int
    alarms_per_day: float | None
    device_anomalies_24h: int  # of all metrics of its device; may be a quarter of an hour old


class Precision(msgspec.Struct, frozen=True):
    """Operators' verdicts on the model's episodes."""

    confirmed: int
    dismissed: int
    precision: float | None


class VersionView(msgspec.Struct, frozen=True):
    """A version of the series' models."""

    id: Id
    version: int
    status: str
    trained_at: Instant
    training_samples: int
    accuracy: float | None
    false_positive_rate: float | None
    reason: str


class Performance(msgspec.Struct, frozen=True):
    """A model's performance: its training, its findings in the stream, the operators' verdicts."""

    model_id: Id
    accuracy: float | None
    false_positive_rate: float | None
    true_positive_rate: float | None
    basis: str | None
    reason: str
    last_trained: Instant
    figures: dict[str, Figure]
    live: LiveRate
    feedback: Precision
    versions: list[VersionView]


class Side(msgspec.Struct, frozen=True):
    """Findings of a version on the readings that both versions scored."""

    anomalies: int
    anomaly_rate: float | None
    episodes: int
    episodes_per_day: float | None


class ShadowComparison(msgspec.Struct, frozen=True):
    """A shadow and the serving version (`champion`), on the same readings since the shadow began.

    A daily refit may replace the serving version meanwhile; `champion_versions` counts the versions
    that served.
    """

    model_id: Id
    champion_id: Id | None
    champion_versions: int
    since: Instant | None
    newest: Instant | None
    readings: int
    champion: Side
    shadow: Side
    both_anomalous: int
    agreement: float | None  # share of readings on which both versions agree


class ModelFilter(msgspec.Struct, frozen=True):
    """Filter of models; None admits any value."""

    device_id: str | None = None
    metric_name: str | None = None
    status: str | None = None

    def admits(self, row: ModelRow) -> bool:
        """Report whether the filter admits this model."""
        wanted, found = (
            (self.device_id, self.metric_name, self.status),
            (row.device_id, row.metric_name, row.status),
        )
        return all(want in (None, got) for want, got in zip(wanted, found, strict=True))


class ModelService:
    """Queries of models from the index on disk; only findings and feedback need the database."""

    def __init__(
        self, models: ModelIndex, stream: StreamView, findings: AnomalyStore, cached: Cached
    ) -> None:
        self._models = models
        self._stream = stream
        self._findings = findings
        self._cached = cached

    def page(self, wanted: ModelFilter, after: PageCursor | None, most: int) -> ModelPage:
        """Return a page of models."""
        every = sorted(
            (row for row in self._models.rows() if wanted.admits(row)), key=_place, reverse=True
        )
        rest = every if after is None else [row for row in every if _place(row) < after]
        last = cursor(*_place(rest[most - 1])) if len(rest) > most else None
        return ModelPage(
            [model_view(row) for row in rest[:most]],
            len(every),
            sum(row.status == "active" for row in every),
            last,
        )

    def figures(self) -> list[ModelAccuracy]:
        """Return the assessed figures of every model that serves. Raises ModelFileError."""
        return self._models.figures()

    def detail(self, model_id: str) -> ModelDetail:
        """Return a model with its figures, parameters and state. Raises NotFound."""
        row = self.row(model_id)
        return ModelDetail(
            model_view(row), row.figures, row.parameters, row.status, self._live_view(row)
        )

    def performance(self, model_id: str, now: int) -> Performance:
        """Return a model's performance. Raises NotFound, DatabaseAway, DatabaseRefused."""
        row = self.row(model_id)
        view, days = model_view(row), min(float(LIVE_DAYS), max(0.0, (now - row.trained_at) / DAY))
        tally, lately = (
            self._findings.tally(model_id, now - LIVE_DAYS * DAY),
            self._lately(row.device_id, now),
        )
        return Performance(
            model_id=row.id,
            accuracy=view.accuracy,
            false_positive_rate=view.false_positive_rate,
            true_positive_rate=view.true_positive_rate,
            basis=view.basis,
            reason=str(
                row.figures.get("reason")
                or ("" if view.accuracy is not None else view.basis or UNKNOWN)
            ),
            last_trained=view.trained_at,
            figures=row.figures,
            live=LiveRate(
                round(days, 3),
                tally.anomalies,
                tally.episodes,
                tally.episodes / days if days > 0 else None,
                lately,
            ),
            feedback=_precision(tally),
            versions=[_version(model_view(one)) for one in self._models.of_series(row.key)],
        )

    def comparison(self, model_id: str) -> ShadowComparison:
        """Return the comparison of a shadow with the serving version. Raises NotFound, Conflict."""
        row = self.row(model_id)
        if row.status != "shadow":
            raise Conflict(f"model {model_id} is {row.status}, and scores nothing along")
        found = self._stream.compared(row.key)
        begun = (
            found
            if found is not None and found.shadow_id == model_id
            else ShadowTally(
                shadow_id=model_id,
                since=0,
                newest=0,
                readings=0,
                anomalies=0,
                shadow_anomalies=0,
                both=0,
                episodes=0,
                shadow_episodes=0,
                champions=1,
            )
        )
        return _comparison(begun, self._models.active().get(row.key))

    def row(self, model_id: str) -> ModelRow:
        """Return a model by its id. Raises NotFound."""
        try:
            return self._models.row(model_id)
        except ModelFileError as error:
            raise NotFound(f"there is no model {model_id}") from error

    def _lately(self, device_id: str, now: int) -> int:
        wanted = Filter(device_id=device_id, since=now - DAY)
        name = f"ml:anomalies:{device_id}:count:24h"
        return self._cached.count(
            "anomaly_count", name, COUNT_SECONDS, lambda: self._findings.count_anomalies(wanted)
        )

    def _live_view(self, row: ModelRow) -> LiveView | None:
        standing = self._stream.status(row.key)
        if standing is None:
            return None
        newest = None if standing.newest is None else rfc3339(standing.newest)
        return LiveView(
            standing.state,
            standing.readings,
            newest,
            standing.model_id == row.id,
            standing.in_episode,
        )


def _place(row: ModelRow) -> PageCursor:
    return PageCursor(row.trained_at, row.id)


def _comparison(found: ShadowTally, champion_id: str | None) -> ShadowComparison:
    days = (found.newest - found.since) / DAY
    differ = found.anomalies + found.shadow_anomalies - 2 * found.both
    return ShadowComparison(
        model_id=found.shadow_id,
        champion_id=champion_id,
        champion_versions=found.champions,
        since=rfc3339(found.since) if found.readings else None,
        newest=rfc3339(found.newest) if found.readings else None,
        readings=found.readings,
        champion=_side(found.anomalies, found.episodes, found.readings, days),
        shadow=_side(found.shadow_anomalies, found.shadow_episodes, found.readings, days),
        both_anomalous=found.both,
        agreement=1.0 - differ / found.readings if found.readings else None,
    )


def _side(anomalies: int, episodes: int, readings: int, days: float) -> Side:
    return Side(
        anomalies,
        anomalies / readings if readings else None,
        episodes,
        episodes / days if days > 0 else None,
    )


def _precision(tally: AnomalyCounts) -> Precision:
    said = tally.confirmed + tally.dismissed
    return Precision(tally.confirmed, tally.dismissed, tally.confirmed / said if said else None)


def _version(view: ModelView) -> VersionView:
    return VersionView(
        id=view.id,
        version=view.version,
        status=view.status,
        trained_at=view.trained_at,
        training_samples=view.training_samples,
        accuracy=view.accuracy,
        false_positive_rate=view.false_positive_rate,
        reason=view.reason,
    )
