"""Trained models, and their index on disk."""

from typing import NamedTuple, Protocol

import msgspec

from insa_anomaly.core.reading.series_key import SeriesKey


class ModelRow(msgspec.Struct, frozen=True):
    """A trained model as the index and `ml_models` store it."""

    id: str
    device_id: str
    metric_name: str
    version: int
    status: str
    model_path: str
    trained_at: int
    training_samples: int
    threshold: float
    parameters: dict[str, float | int | str | bool | None]
    figures: dict[str, float | int | str | dict[str, float] | None]
    sha256: str
    accuracy: float | None = None
    false_positive_rate: float | None = None
    reason: str = ""
    set_threshold: float | None = None  # by hand; then `threshold` is the same

    @property
    def key(self) -> SeriesKey:
        """Key of the series or device."""
        return SeriesKey(self.device_id, self.metric_name)


class ModelAccuracy(NamedTuple):
    """Assessment of a model at its training; None for an unknown figure."""

    device_id: str
    metric_name: str
    accuracy: float | None
    false_positive_rate: float | None


class ModelIndex(Protocol):
    """The index of models on disk, which works without the database."""

    @property
    def revision(self) -> object:
        """A value that is new after every change of the index, by this process or another."""

    def active(self) -> dict[SeriesKey, str]:
        """Return the id of the active model, of every series that has an active model."""

    def thresholds(self) -> dict[str, float]:
        """Return the thresholds that were set by hand, by the id of the active model."""

    def figures(self) -> list[ModelAccuracy]:
        """Return the assessment of every active model, in the order of their series."""

    def shadows(self) -> dict[SeriesKey, str]:
        """Return the id of the shadow, of every series that has a shadow."""

    def disabled(self) -> set[SeriesKey]:
        """Return series with a disabled model and no active model.

        No model serves such a series until a person trains or activates a model.
        """

    def rows(self) -> list[ModelRow]:
        """Return every model, newest first."""

    def of_series(self, key: SeriesKey) -> list[ModelRow]:
        """Return the models of a series, newest first."""

    def row(self, model_id: str) -> ModelRow:
        """Return a model. Raises ModelFileError."""

    def scorer(self, model_id: str) -> bytes:
        """Return the verified scorer file, for `core.series.detector.Model.from_bytes`.

        Raises ModelFileError, or ModelStorageError if a later call may succeed.
        """

    def fall_back(self, model_id: str, reason: str) -> ModelRow | None:
        """Set this model aside as failed, and let the newest earlier version serve.

        Returns the row of the earlier version, or None. Raises ModelFileError.
        """
