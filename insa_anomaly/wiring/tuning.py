"""Trying settings on recorded files, or on what is stored of a series."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from insa_anomaly.adapters.postgres.history import PostgresHistory
from insa_anomaly.core.series.tuning import Series, Setting, Tried, tried
from insa_anomaly.errors import InsaError
from insa_anomaly.ports import SeriesKey
from insa_anomaly.settings import Settings
from insa_anomaly.wiring import clock
from insa_anomaly.wiring.database import database
from insa_anomaly.workbench.progress import progress
from insa_anomaly.workbench.table import load, recordings

ACCEPTED = (0.02, 0.05, 0.14, 0.5, 1.0, 3.0)  # false episodes a day, where none are said


@dataclass(frozen=True)
class Found:
    """What came of it, by series."""

    tried: dict[str, list[Tried]]
    refused: dict[str, str]


def from_files(files: Sequence[Path]) -> list[Series]:
    """Every series of the files. Raises FileFormatError."""
    tables = [
        table
        for one, mark in recordings(files, labelled=False)
        for table in load(one, mark, None).series()
    ]
    return [
        Series((table.device_id, table.metrics[0]), table.times, table.values[:, 0])
        for table in tables
    ]


def stored(settings: Settings, key: SeriesKey) -> list[Series]:
    """What training would find of this series. Raises DatabaseAway."""
    learning = settings.detection
    with database(settings) as dsn, PostgresHistory(dsn) as history:
        found = history.readings(
            key, clock.now() - int(learning.history_days * 86_400e6), learning.history_readings_most
        )
        if len(found[0]) < learning.history_readings_least:
            found = history.readings(key, -(2**53), learning.history_readings_least)
    return [Series(key, *found)]


def configured(settings: Settings) -> Setting:
    """What is set now."""
    return Setting(settings.verdict.false_alarms_per_day, settings.detection.alpha)


def try_settings(
    settings: Settings,
    series: Sequence[Series],
    rates: Sequence[float],
    lines: Sequence[float],
    console: Console,
) -> Found:
    """Each rate of false episodes with each line, and what is configured. A series that is refused does not keep the others from it."""
    now = configured(settings)
    wanted = {Setting(rate, line) for rate in rates for line in lines or [now.alpha]} | {now}
    order = sorted(wanted, key=lambda one: (one.alpha, one.false_alarms_per_day))
    found = Found({}, {})
    with progress(console, "settings tried", len(series) * len(order)) as advance:
        for one in series:
            name = "/".join(one.key)
            try:
                rows = []
                for setting in order:
                    rows.append(tried(one, setting, settings.detection, settings.verdict))
                    advance(1)
                found.tried[name] = rows
            except InsaError as error:
                found.refused[name] = str(error)
    return found
