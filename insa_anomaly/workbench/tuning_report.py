"""How a comparison of settings speaks to people and to programs: a table a series, one JSON object."""

from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from insa_anomaly.core.series.tuning import Setting, Tried

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
    """Print a table a series, and what its words mean; `now`: what is configured."""
    for name, rows in found.items():
        console.print()
        console.print(_grid(rows, now, name), crop=False)
        console.print(
            f"Tried on the newest {rows[0].readings:,} readings ({rows[0].days:.1f} days), with {rows[0].faults} planted faults."
        )
    for name, reason in refused.items():
        console.print(f"not tried: {name}: {reason}", markup=False)
    console.print(
        "Each row was learnt from the older 70 % by its own setting, threshold included, and tried on the rest, taken as ordinary. "
        "Nothing was chosen, nothing was changed: `verdict.false_alarms_per_day` and `detection.alpha` are in the configuration. "
        "What is picked because it looks best here will do a little worse on what comes."
    )


def to_json(found: Mapping[str, Sequence[Tried]], refused: Mapping[str, str], now: Setting) -> str:
    """One object on one line."""
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
