"""The command `tune`: other settings, tried on recorded files or on a stored series."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from insa_anomaly.adapters.postgres.history import PostgresHistory
from insa_anomaly.commands.options import Config, FiguresJson, load_settings
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

    tried: dict[str, list[Tried]]
    refused: dict[str, str]


def from_files(files: Sequence[Path]) -> list[Series]:
    """Return every series of the files. Raises FileFormatError."""
    tables = [
        table
        for one, mark in recordings(files, labelled=False)
        for table in load(one, mark, None).series()
    ]
    return [
        Series(SeriesKey(table.device_id, table.metrics[0]), table.times, table.values[:, 0])
        for table in tables
    ]


def stored(settings: Settings, key: SeriesKey) -> list[Series]:
    """Return the readings that training would find for a series. Raises DatabaseAway."""
    learning = settings.detection
    with database(settings) as dsn, PostgresHistory(dsn) as history:
        found = history.readings(
            key, clock.now() - int(learning.history_days * 86_400e6), learning.history_readings_most
        )
        if len(found[0]) < learning.history_readings_least:
            found = history.readings(key, -(2**53), learning.history_readings_least)
    return [Series(key, *found)]


def configured(settings: Settings) -> Setting:
    """Return the configured setting."""
    return Setting(settings.verdict.false_alarms_per_day, settings.detection.alpha)


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
    now = configured(settings)
    wanted = {Setting(rate, line) for rate in rates for line in lines or [now.alpha]} | {now}
    order = sorted(wanted, key=lambda one: (one.alpha, one.false_alarms_per_day))
    found = TuningOutcome({}, {})
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


_HEADINGS = (
    "accepted\na day",
    "line",
    "threshold",
    "episodes\na day",
    "faults\ntold",
    "faults\ncaught",
    "FPR\nreadings",
    "",
)


def tell(
    console: Console, found: Mapping[str, Sequence[Tried]], refused: Mapping[str, str], now: Setting
) -> None:
    """Print a table for each series, and the meaning of its words.

    `now` is the configured setting.
    """
    for name, rows in found.items():
        console.print()
        console.print(_grid(rows, now, name), crop=False)
        console.print(
            f"Tried on the newest {rows[0].readings:,} readings ({rows[0].days:.1f} days), with "
            f"{rows[0].faults} planted faults."
        )
    for name, reason in refused.items():
        console.print(f"not tried: {name}: {reason}", markup=False)
    console.print(
        "Each row was learnt from the older 70 % by its own setting, threshold included, and "
        "tried on the rest, taken as ordinary. "
        "Nothing was chosen, nothing was changed: `verdict.false_alarms_per_day` and "
        "`detection.alpha` are in the configuration. "
        "What is picked because it looks best here will do a little worse on what comes."
    )


def to_json(found: Mapping[str, Sequence[Tried]], refused: Mapping[str, str], now: Setting) -> str:
    """Return the outcomes as a JSON object on a single line."""
    return msgspec.json.encode({"configured": now, "series": found, "refused": refused}).decode()


def _grid(rows: Sequence[Tried], now: Setting, name: str) -> Grid:
    grid = Grid(
        box=None, pad_edge=False, header_style="bold", title=escape(name), title_justify="left"
    )
    for heading in _HEADINGS:
        grid.add_column(heading, no_wrap=True, justify="right", vertical="bottom")
    for row in rows:
        setting, rates = row.setting, (row.faults_told, row.faults_caught, row.false_positive_rate)
        numbers = (
            f"{setting.false_alarms_per_day:g}",
            f"{setting.alpha:g}",
            f"{row.threshold:.2f}",
            f"{row.episodes_per_day:.2f}",
        )
        grid.add_row(
            *numbers, *(f"{rate:.1%}" for rate in rates), "configured" if setting == now else ""
        )
    return grid


def tune_command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Recorded, as for `evaluate`; none: what is stored of a series."),
    ] = None,
    config: Config = None,
    *,
    device: Annotated[str | None, typer.Option(help="Device of a stored series.")] = None,
    metric: Annotated[str | None, typer.Option(help="Metric of a stored series.")] = None,
    accept: Annotated[
        list[float] | None,
        typer.Option(min=0.001, help="False episodes a day to accept; may be repeated."),
    ] = None,
    line: Annotated[
        list[float] | None,
        typer.Option(
            min=1e-6, max=0.1, help="p-value below which a reading is anomalous; may be repeated."
        ),
    ] = None,
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
    now = configured(settings)
    tell(open_console(sys.stderr if json else sys.stdout), found.tried, found.refused, now)
    if json:
        typer.echo(to_json(found.tried, found.refused, now))
    raise typer.Exit(1 if found.refused else 0)
