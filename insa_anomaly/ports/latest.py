"""The newest result of every series, for display."""

from typing import Protocol

from insa_anomaly.core.reading.series_key import SeriesKey


class Latest(Protocol):
    """The newest result of every series, for display; losable."""

    def show(self, results: dict[SeriesKey, bytes]) -> None:
        """Replace the results of these series. Never raises, never waits beyond its deadline."""

    def serve(self, models: dict[SeriesKey, str]) -> None:
        """Show the ids of the models that serve these series.

        Never raises, never waits beyond its deadline.
        """
