"""The command `tune`: other settings, tried on recorded files or on a stored series."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from insa_anomaly.adapters.postgres.history import PostgresHistory
from insa_anomaly.commands.options import (
    Config,
    FiguresJson,
    argument,
    as_json,
    load_settings,
    option,
)
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.series.tuning import Series, Setting, Tried, tried
from insa_anomaly.errors import InsaError
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring.clock import clock
from insa_anomaly.wiring.database import database
from insa_anomaly.workbench.progress import open_console, progress
from insa_anomaly.workbench.recordings.table import load, recordings

ACCEPTED = (0.02, 0.05, 0.14, 0.5, 1.0, 3.0)  # false episodes a day, where none are said


@dataclass(frozen=True)
class TuningOutcome:
    """Outcomes of the tried settings by series, and the refused series with their reasons."""

    configured: Setting
    series: dict[str, list[Tried]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def from_files(files: Sequence[Path]) -> list[Series]:
    """Return every series of the files. Raises FileFormatError."""
    found = []
    for one, mark in recordings(files, labelled=False):
        for table in load(one, mark, None).series():
            key = SeriesKey(table.device_id, table.metrics[0])
            found.append(Series(key, table.times, table.values[:, 0]))
    return found


def stored(settings: Settings, key: SeriesKey) -> list[Series]:
    """Return the readings that training would find for a series. Raises DatabaseAway."""
    learning = settings.detection
    with database(settings) as dsn, PostgresHistory(dsn) as history:
        since = clock.now() - int(learning.history_days * 86_400e6)
        found = history.readings(key, since, learning.history_readings_most)
        if len(found[0]) < learning.history_readings_least:
            found = history.readings(key, -(2**53), learning.history_readings_least)
    return [Series(key, *found)]


def try_settings(
    settings: Settings,
    series: Sequence[Series],
    rates: Sequence[float],
    lines: Sequence[float],
    console: Console,
) -> TuningOutcome:
    """Try each rate of false episodes with each line, and the configured setting.

    A refused series does not keep the others from being tried.
    """
    now = Setting(settings.verdict.false_alarms_per_day, settings.detection.alpha)
    wanted = {Setting(rate, line) for rate in rates for line in lines or [now.alpha]} | {now}
    order = sorted(wanted, key=lambda one: (one.alpha, one.false_alarms_per_day))
    found = TuningOutcome(now)
    with progress(console, "settings tried", len(series) * len(order)) as advance:
        for one in series:
            name = "/".join(one.key)
            try:
                rows = []
                for setting in order:
                    rows.append(tried(one, setting, settings.detection, settings.verdict))
                    advance(1)
                found.series[name] = rows
            except InsaError as error:
                found.refused[name] = str(error)
    return found


_NUMBERS = ("accepted\na day", "line", "threshold", "episodes\na day")
_HEADINGS = (*_NUMBERS, "faults\ntold", "faults\ncaught", "FPR\nreadings", "")


def tell(console: Console, found: TuningOutcome) -> None:
    """Print a table for each series, and the meaning of its words."""
    for name, rows in found.series.items():
        console.print()
        console.print(_grid(rows, found.configured, name), crop=False)
        console.print(
            f"Tried on the newest {rows[0].readings:,} readings ({rows[0].days:.1f} days), with "
            f"{rows[0].faults} planted faults."
        )
    for name, reason in found.refused.items():
        console.print(f"not tried: {name}: {reason}", markup=False)
    console.print(
        "Each row was learnt from the older 70 % by its own setting, threshold included, and "
        "tried on the rest, taken as ordinary. "
        "Nothing was chosen, nothing was changed: `verdict.false_alarms_per_day` and "
        "`detection.alpha` are in the configuration. "
        "What is picked because it looks best here will do a little worse on what comes."
    )


def _grid(rows: Sequence[Tried], now: Setting, name: str) -> Grid:
    grid = Grid(
        box=None, pad_edge=False, header_style="bold", title=escape(name), title_justify="left"
    )
    for heading in _HEADINGS:
        grid.add_column(heading, no_wrap=True, justify="right", vertical="bottom")
    for row in rows:
        setting, rates = row.setting, (row.faults_told, row.faults_caught, row.false_positive_rate)
        numbers = [f"{number:g}" for number in (setting.false_alarms_per_day, setting.alpha)]
        numbers += [f"{number:.2f}" for number in (row.threshold, row.episodes_per_day)]
        numbers += [f"{rate:.1%}" for rate in rates]
        grid.add_row(*numbers, "configured" if setting == now else "")
    return grid


def tune_command(
    files: list[Path] | None = argument(
        "Recorded, as for `evaluate`; none: what is stored of a series.", default=None
    ),
    config: Config = None,
    *,
    device: str | None = option("Device of a stored series."),
    metric: str | None = option("Metric of a stored series."),
    accept: list[float] | None = option(
        "False episodes a day to accept; may be repeated.", min=0.001
    ),
    line: list[float] | None = option(
        "p-value below which a reading is anomalous; may be repeated.", min=1e-6, max=0.1
    ),
    json: FiguresJson = False,
) -> None:
    """Show how other settings would have treated a series; change no setting.

    Alarms a day, reported faults and false positives are printed for each.
    """
    settings, _ = load_settings(config)
    console = open_console(sys.stderr)
    if files:
        series = from_files(files)
    elif device and metric:
        series = stored(settings, SeriesKey(device, metric))
    else:
        raise typer.BadParameter("say what to try it on: files, or --device with --metric")
    found = try_settings(settings, series, accept or ACCEPTED, line or (), console)
    tell(open_console(sys.stderr if json else sys.stdout), found)
    if json:
        typer.echo(as_json(found))
    raise typer.Exit(1 if found.refused else 0)
