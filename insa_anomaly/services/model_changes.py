"""Changes to a stored model: a threshold set, a version activated or deleted; audited beforehand.

A change is made to the index on disk. The trainer notices the change and writes the swap into the
log, so that the stream follows within a second.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.units import DAY
from insa_anomaly.errors import Conflict, DatabaseAway, DatabaseRefused
from insa_anomaly.instrumentation.models import catalogue_behind
from insa_anomaly.ports.models import ModelIndex, ModelRow
from insa_anomaly.services.anomalies import AnomalyStore
from insa_anomaly.services.audit import Audit, Author
from insa_anomaly.services.models import LIVE_DAYS, check_shadow, kept_model, live_days, ratio
from insa_anomaly.services.views import Id

ANOMALIES_MOST = 200_000
Aside = Literal["archived", "disabled"]


class ModelEditor(ModelIndex, Protocol):
    """The models and their changes; any call may raise ModelFileError."""

    def set_threshold(self, model_id: str, threshold: float) -> ModelRow:
        """Set the least confidence at which the model opens an episode."""

    def activate(self, model_id: str) -> ModelRow:
        """Let this version serve its series."""

    def shadow(self, model_id: str) -> ModelRow:
        """Let this archived version score along, in place of the current shadow."""

    def end_shadow(self, model_id: str) -> ModelRow:
        """Archive this shadow."""

    def put_aside(self, model_id: str, status: Aside, reason: str) -> ModelRow:
        """Stop the model from serving, without a successor; its files stay."""

    def delete(self, model_id: str, reason: str) -> ModelRow:
        """Remove the model's files; its row stays."""


class Catalogue(Protocol):
    """The list of models that other programs read."""

    def put(self, row: ModelRow) -> None:
        """Store the row as it is now. Raises DatabaseAway or DatabaseRefused."""


class AlarmsPerDay(msgspec.Struct, frozen=True):
    """Episodes a day over the last `days`, with the old threshold and with the new threshold."""

    days: float
    before: float | None
    after: float | None


class ThresholdChange(msgspec.Struct, frozen=True):
    """A changed threshold, and its effect on the past days."""

    success: bool
    model_id: Id
    threshold_before: float
    threshold: float
    alarms_per_day: AlarmsPerDay


class StatusChange(msgspec.Struct, frozen=True):
    """A changed status; `replaced_model_id` is the model that had the role before."""

    success: bool
    model_id: Id
    status: str
    replaced_model_id: Id | None


@dataclass(frozen=True)
class ModelChangeService:
    """Changes to models by hand.

    Every call may raise NotFound, Conflict, DatabaseAway, DatabaseRefused; the model is then
    unchanged.
    """

    models: ModelEditor
    catalogue: Catalogue
    findings: AnomalyStore
    audit: Audit
    merge_gap_readings: int

    def set_threshold(
        self, model_id: str, threshold: float, author: Author, now: int
    ) -> ThresholdChange:
        """Set the least confidence that opens an episode; refits keep it until it is set again."""
        before = kept_model(self.models, model_id)
        effect = self._effect(before, threshold, now)
        self.audit.write(author.change("model.threshold", model_id, before.threshold, threshold))
        self._show(self.models.set_threshold(model_id, threshold))
        return ThresholdChange(True, model_id, before.threshold, threshold, effect)  # noqa: FBT003 - the answer's `success`

    def activate(self, model_id: str, author: Author) -> StatusChange:
        """Let this version serve its series, as a rollback or a promotion."""
        row = kept_model(self.models, model_id)
        if row.status == "failed":
            raise Conflict(f"model {model_id} failed: {row.reason}")
        serving = self.models.active().get(row.key)
        self.audit.write(author.change("model.activate", model_id, serving, model_id))
        if serving != model_id:
            row = self.models.activate(model_id)
        return self._changed(row, serving)

    def shadow(self, model_id: str, author: Author) -> StatusChange:
        """Let this version score along, to be compared with the champion; it opens no episode."""
        row = kept_model(self.models, model_id)
        if row.status not in {"archived", "shadow"} or row.key.is_device:
            raise Conflict(
                f"model {model_id} cannot score along: it is {row.status}, of {row.metric_name}"
            )
        before = self.models.shadows().get(row.key)
        self.audit.write(author.change("model.shadow", model_id, before, model_id))
        if before != model_id:
            row = self.models.shadow(model_id)
            if before is not None:
                self._show(self.models.row(before))
            self._show(row)
        return _status(row, before)

    def end_shadow(self, model_id: str, author: Author) -> StatusChange:
        """Archive a shadow; its files stay."""
        check_shadow(kept_model(self.models, model_id))
        self.audit.write(author.change("model.shadow", model_id, model_id, None))
        return self._changed(self.models.end_shadow(model_id))

    def put_aside(self, model_id: str, status: Aside, reason: str, author: Author) -> StatusChange:
        """Stop the model from serving.

        A series whose model is disabled gets no model until a model is trained or activated by
        hand.
        """
        row = kept_model(self.models, model_id)
        after = {"status": status, "reason": reason}
        self.audit.write(author.change(f"model.{status}", model_id, row.status, after))
        return self._changed(self.models.put_aside(model_id, status, reason))

    def delete(self, model_id: str, author: Author) -> StatusChange:
        """Remove the model's files.

        If the model served, its series has no model until another is trained or activated.
        """
        row = kept_model(self.models, model_id)
        self.audit.write(author.change("model.delete", model_id, row.status, "deleted"))
        return self._changed(self.models.delete(model_id, f"deleted by {author.who}"))

    def _changed(self, row: ModelRow, before: str | None = None) -> StatusChange:
        self._show(row)
        return _status(row, before)

    def _show(self, row: ModelRow) -> None:
        try:
            self.catalogue.put(row)
        except (DatabaseAway, DatabaseRefused) as error:
            catalogue_behind(row.id, str(error))

    def _effect(self, row: ModelRow, threshold: float, now: int) -> AlarmsPerDay:
        """Count episodes a day in the recorded anomalies, at the old and at the new threshold.

        The span begins no earlier than the series' first model.
        """
        versions = self.models.of_series(row.key)
        days = live_days(min((one.trained_at for one in versions), default=row.trained_at), now)
        found = self.findings.confidences(row.key, now - LIVE_DAYS * DAY, ANOMALIES_MOST)
        interval = float(Model.from_bytes(self.models.scorer(row.id)).interval)
        pause = (self.merge_gap_readings + 0.5) * interval
        rates = (ratio(opened(found, one, pause), days) for one in (row.threshold, threshold))
        return AlarmsPerDay(round(days, 3), *rates)


def _status(row: ModelRow, before: str | None) -> StatusChange:
    replaced = None if before == row.id else before
    return StatusChange(True, row.id, row.status, replaced)  # noqa: FBT003 - the answer's `success`


def opened(found: list[tuple[int, float]], threshold: float, pause: float) -> int:
    """Count the episodes that anomalies, in time order, open at this threshold.

    `found` holds times in microseconds and confidences. As in the stream, an episode opens where
    the confidence reaches the threshold, continues while anomalies of any confidence come at most
    `pause` microseconds apart, and closes after that.
    """
    count, until = 0, -float("inf")
    for time, confidence in found:
        if time <= until:
            until = time + pause
        elif confidence >= threshold:
            count, until = count + 1, time + pause
    return count
