"""The model index in memory."""

import msgspec

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import ModelFileError, ModelStorageError
from insa_anomaly.ports.models import ModelAccuracy, ModelRow


class MemoryModels:
    """The port `Models`.

    `lost` holds ids of models whose scorers cannot be loaded; with `away`, no scorer can be loaded
    for now.
    """

    def __init__(self) -> None:
        self.away = False
        self.lost: set[str] = set()
        self._rows: dict[str, ModelRow] = {}
        self._scorers: dict[str, bytes] = {}
        self._revision = 0

    def put(self, row: ModelRow, scorer: bytes) -> None:
        """Store a model; an active model replaces the active model of its series."""
        for other in list(self._rows.values()):
            if row.status == other.status == "active" and row.key == other.key:
                self._rows[other.id] = msgspec.structs.replace(other, status="archived")
        self._rows[row.id], self._scorers[row.id] = row, scorer
        self._revision += 1

    @property
    def revision(self) -> object:
        """A value that is new after every change of the index."""
        return self._revision

    def active(self) -> dict[SeriesKey, str]:
        """Return the id of the active model, of every series that has an active model."""
        return {row.key: row.id for row in self._with("active")}

    def thresholds(self) -> dict[str, float]:
        """Return the thresholds that were set by hand, by the id of the active model."""
        active = self._with("active")
        return {row.id: row.set_threshold for row in active if row.set_threshold is not None}

    def figures(self) -> list[ModelAccuracy]:
        """Return the assessment of every active model, in the order of their series."""
        return sorted(
            ModelAccuracy(*row.key, row.accuracy, row.false_positive_rate)
            for row in self._with("active")
        )

    def shadows(self) -> dict[SeriesKey, str]:
        """Return the id of the shadow, of every series that has a shadow."""
        return {row.key: row.id for row in self._with("shadow")}

    def disabled(self) -> set[SeriesKey]:
        """Return series with a disabled model and no active model."""
        return {row.key for row in self._with("disabled")} - self.active().keys()

    def rows(self) -> list[ModelRow]:
        """Return every model, newest first."""
        return sorted(self._rows.values(), key=lambda row: (-row.trained_at, -row.version))

    def of_series(self, key: SeriesKey) -> list[ModelRow]:
        """Return the models of a series, newest first."""
        own = [row for row in self._rows.values() if row.key == key]
        return sorted(own, key=lambda row: -row.version)

    def row(self, model_id: str) -> ModelRow:
        """Return a model. Raises ModelFileError."""
        if model_id not in self._rows:
            raise ModelFileError(f"there is no model {model_id}")
        return self._rows[model_id]

    def scorer(self, model_id: str) -> bytes:
        """Return the scorer file. Raises ModelFileError, or ModelStorageError with `away`."""
        self.row(model_id)
        if self.away:
            raise ModelStorageError
        if model_id in self.lost:
            raise ModelFileError(f"the scorer of model {model_id} cannot be read")
        return self._scorers[model_id]

    def fall_back(self, model_id: str, reason: str) -> ModelRow | None:
        """Set this model aside as failed, and let the newest earlier version serve.

        Returns the row of the earlier version, or None. Raises ModelFileError.
        """
        row = self.row(model_id)
        archived = [each for each in self.of_series(row.key) if each.status == "archived"]
        earlier = next((each for each in archived if each.version < row.version), None)
        self._rows[model_id] = msgspec.structs.replace(row, status="failed", reason=reason)
        self._revision += 1
        if earlier is None or row.status != "active":
            return None
        failed = f"version {row.version} failed"
        self._rows[earlier.id] = msgspec.structs.replace(earlier, status="active", reason=failed)
        return self._rows[earlier.id]

    def _with(self, status: str) -> list[ModelRow]:
        return [row for row in self._rows.values() if row.status == status]
