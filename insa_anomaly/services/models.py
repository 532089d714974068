"""Queries of models: their list, their details, their performance."""

from dataclasses import dataclass
from functools import partial

import msgspec
from msgspec.structs import asdict

from insa_anomaly.core.notification.event import rfc3339
from insa_anomaly.core.units import DAY
from insa_anomaly.errors import Conflict, ModelFileError, NotFound
from insa_anomaly.ports.anomalies import AnomalyCounts, Filter, PageCursor
from insa_anomaly.ports.models import ModelAccuracy, ModelIndex, ModelRow
from insa_anomaly.services.anomalies import AnomalyStore, paged
from insa_anomaly.services.cached import Cached
from insa_anomaly.services.stream_view import ShadowTally, StreamView
from insa_anomaly.services.views import Figure, Id, Instant, ModelView, instant, model_view, viewed

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
        return all(want in (None, getattr(row, name)) for name, want in asdict(self).items())


@dataclass(frozen=True)
class ModelService:
    """Queries of models from the index on disk; only findings and feedback need the database."""

    models: ModelIndex
    stream: StreamView
    findings: AnomalyStore
    cached: Cached

    def page(self, wanted: ModelFilter, after: PageCursor | None, most: int) -> ModelPage:
        """Return a page of models."""
        every = sorted(filter(wanted.admits, self.models.rows()), key=_place, reverse=True)
        rest = [row for row in every if after is None or _place(row) < after]
        page, last = paged(rest, most, _place)
        active = sum(row.status == "active" for row in every)
        return ModelPage([model_view(row) for row in page], len(every), active, last)

    def figures(self) -> list[ModelAccuracy]:
        """Return the assessed figures of every model that serves. Raises ModelFileError."""
        return self.models.figures()

    def detail(self, model_id: str) -> ModelDetail:
        """Return a model with its figures, parameters and state. Raises NotFound."""
        row = known_model(self.models, model_id)
        live = self._live_view(row)
        return ModelDetail(model_view(row), row.figures, row.parameters, row.status, live)

    def performance(self, model_id: str, now: int) -> Performance:
        """Return a model's performance. Raises NotFound, DatabaseAway, DatabaseRefused."""
        row = known_model(self.models, model_id)
        view, tally = model_view(row), self.findings.tally(model_id, now - LIVE_DAYS * DAY)
        unknown = "" if view.accuracy is not None else view.basis or UNKNOWN
        return viewed(
            Performance,
            view,
            model_id=row.id,
            reason=str(row.figures.get("reason") or unknown),
            last_trained=view.trained_at,
            figures=row.figures,
            live=self._live_rate(row, tally, now),
            feedback=_precision(tally),
            versions=[
                viewed(VersionView, model_view(one)) for one in self.models.of_series(row.key)
            ],
        )

    def comparison(self, model_id: str) -> ShadowComparison:
        """Return the comparison of a shadow with the serving version. Raises NotFound, Conflict."""
        row = known_model(self.models, model_id)
        check_shadow(row)
        found = self.stream.compared(row.key)
        if found is None or found.shadow_id != model_id:
            found = ShadowTally(model_id)  # nothing is scored yet
        return _comparison(found, self.models.active().get(row.key))

    def _live_rate(self, row: ModelRow, tally: AnomalyCounts, now: int) -> LiveRate:
        days = live_days(row.trained_at, now)
        a_day = ratio(tally.episodes, days)
        lately = self._lately(row.device_id, now)
        return LiveRate(round(days, 3), tally.anomalies, tally.episodes, a_day, lately)

    def _lately(self, device_id: str, now: int) -> int:
        wanted = Filter(device_id=device_id, since=now - DAY)
        count = partial(self.findings.count_anomalies, wanted)
        name = f"ml:anomalies:{device_id}:count:24h"
        return self.cached.count("anomaly_count", name, COUNT_SECONDS, count)

    def _live_view(self, row: ModelRow) -> LiveView | None:
        standing = self.stream.status(row.key)
        if standing is None:
            return None
        newest, serving = instant(standing.newest), standing.model_id == row.id
        return viewed(LiveView, standing, newest=newest, serving=serving)


def known_model(models: ModelIndex, model_id: str) -> ModelRow:
    """Return a model by its id. Raises NotFound."""
    try:
        return models.row(model_id)
    except ModelFileError as error:
        raise NotFound(f"there is no model {model_id}") from error


def kept_model(models: ModelIndex, model_id: str) -> ModelRow:
    """Return a model that has its files. Raises NotFound, Conflict."""
    row = known_model(models, model_id)
    if row.status == "deleted":
        raise Conflict(f"model {model_id} is deleted")
    return row


def check_shadow(row: ModelRow) -> None:
    """Raise Conflict unless the model scores along."""
    if row.status != "shadow":
        raise Conflict(f"model {row.id} is {row.status}, and scores nothing along")


def live_days(since: int, now: int) -> float:
    """Return the days since then, `LIVE_DAYS` at most."""
    return min(float(LIVE_DAYS), max(0.0, (now - since) / DAY))


def ratio(part: int, whole: float) -> float | None:
    """Return `part / whole`; None for a part of no whole."""
    return part / whole if whole > 0 else None


def _place(row: ModelRow) -> PageCursor:
    return PageCursor(row.trained_at, row.id)


def _comparison(found: ShadowTally, champion_id: str | None) -> ShadowComparison:
    days = (found.newest - found.since) / DAY
    readings, differ = found.readings, found.anomalies + found.shadow_anomalies - 2 * found.both
    return ShadowComparison(
        model_id=found.shadow_id,
        champion_id=champion_id,
        champion_versions=found.champions,
        since=rfc3339(found.since) if readings else None,
        newest=rfc3339(found.newest) if readings else None,
        readings=readings,
        champion=_side(found.anomalies, found.episodes, readings, days),
        shadow=_side(found.shadow_anomalies, found.shadow_episodes, readings, days),
        both_anomalous=found.both,
        agreement=1.0 - differ / readings if readings else None,
    )


def _side(anomalies: int, episodes: int, readings: int, days: float) -> Side:
    return Side(anomalies, ratio(anomalies, readings), episodes, ratio(episodes, days))


def _precision(tally: AnomalyCounts) -> Precision:
    said = tally.confirmed + tally.dismissed
    return Precision(tally.confirmed, tally.dismissed, ratio(tally.confirmed, said))
