"""The newest results in memory."""

from insa_anomaly.core.reading.series_key import SeriesKey


class MemoryLatest:
    """The port `Latest`; `shown` and `serving` hold the current values."""

    def __init__(self) -> None:
        self.shown: dict[SeriesKey, bytes] = {}
        self.serving: dict[SeriesKey, str] = {}

    def show(self, results: dict[SeriesKey, bytes]) -> None:
        """Replace the results of these series."""
        self.shown.update(results)

    def serve(self, models: dict[SeriesKey, str]) -> None:
        """Replace the models of these series."""
        self.serving.update(models)
