"""Grafana's panels as plain dicts, with the fields that each kind needs.

For Grafana 11.4 and later, schema 39.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

Json = dict[str, Any]
PROMETHEUS: Json = {"type": "prometheus", "uid": "${prometheus}"}
POSTGRES: Json = {"type": "grafana-postgresql-datasource", "uid": "${postgres}"}
COLUMNS, HEIGHT = 24, 8  # of Grafana's grid, and of a panel on it
GOOD, FAIR, BAD, PLAIN = "green", "yellow", "red", "text"


@dataclass(frozen=True)
class Promql:
    """A query of Prometheus, and the names of its lines. `now`: its newest value alone."""

    text: str
    legend: str = ""
    now: bool = False

    def target(self) -> Json:
        """Return the query as a panel holds it."""
        asked = {"instant": True, "range": False} if self.now else {"instant": False, "range": True}
        return {
            "datasource": PROMETHEUS,
            "editorMode": "code",
            "expr": self.text,
            "legendFormat": self.legend or "__auto",
            **asked,
        }


@dataclass(frozen=True)
class Sql:
    """A query of PostgreSQL: a table."""

    text: str

    def target(self) -> Json:
        """Return the query as a panel holds it."""
        return {
            "datasource": POSTGRES,
            "editorMode": "code",
            "format": "table",
            "rawQuery": True,
            "rawSql": self.text,
        }


Query = Promql | Sql


@dataclass(frozen=True)
class Scale:
    """Scale of a panel: Grafana's unit, bounds, and steps of (colour, from which value on).

    The first step has no lower end.
    """

    unit: str = "short"
    least: float | None = 0
    most: float | None = None
    steps: Sequence[tuple[str, float | None]] = ((GOOD, None),)
    decimals: int | None = None

    def defaults(self) -> Json:
        """Return the scale as `fieldConfig` holds it."""
        said = {"min": self.least, "max": self.most, "decimals": self.decimals}
        thresholds = {
            "mode": "absolute",
            "steps": [{"color": colour, "value": value} for colour, value in self.steps],
        }
        return {
            "unit": self.unit,
            "thresholds": thresholds,
            **{name: value for name, value in said.items() if value is not None},
        }


@dataclass(frozen=True)
class Panel:
    """A panel and its size on the grid."""

    width: int
    height: int
    body: Json


def lines(
    title: str,
    about: str,
    queries: Sequence[Query],
    scale: Scale,
    *,
    width: int = 8,
    label: str = "",
) -> Panel:
    """Return values over time; several steps of the scale are drawn as lines."""
    custom = {
        "axisLabel": label,
        "drawStyle": "line",
        "fillOpacity": 10,
        "lineWidth": 1,
        "showPoints": "auto",
        "spanNulls": False,
        "thresholdsStyle": {"mode": "line" if len(scale.steps) > 1 else "off"},
    }
    options = {
        "legend": {
            "calcs": ["lastNotNull", "max"],
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    field = {**scale.defaults(), "color": {"mode": "palette-classic"}, "custom": custom}
    return _panel(
        "timeseries",
        title,
        about=about,
        queries=queries,
        field=field,
        options=options,
        size=(width, HEIGHT),
    )


def gauge(
    title: str, about: str, queries: Sequence[Query], scale: Scale, *, width: int = 6
) -> Panel:
    """Return a gauge; its scale needs bounds."""
    options = {**_reduced(), "showThresholdLabels": False, "showThresholdMarkers": True}
    return _panel(
        "gauge",
        title,
        about=about,
        queries=queries,
        field={**scale.defaults(), "color": {"mode": "thresholds"}},
        options=options,
        size=(width, HEIGHT),
    )


def stat(
    title: str,
    about: str,
    queries: Sequence[Query],
    scale: Scale,
    *,
    width: int = 6,
    words: dict[str, str] | None = None,
    height: int = 4,
) -> Panel:
    """Return large numbers, or `words` for them: the text of each value.

    A table gives a number for each row.
    """
    rows = any(isinstance(query, Sql) for query in queries)
    options = {
        **_reduced(rows=rows),
        "colorMode": "background" if words else "value",
        "graphMode": "none",
        "textMode": "auto",
    }
    mapped = {
        value: {"text": text, "index": i} for i, (value, text) in enumerate((words or {}).items())
    }
    mappings = [{"type": "value", "options": mapped}] if mapped else []
    field = {**scale.defaults(), "color": {"mode": "thresholds"}, "mappings": mappings}
    return _panel(
        "stat",
        title,
        about=about,
        queries=queries,
        field=field,
        options=options,
        size=(width, height),
    )


def bars(title: str, about: str, query: Sql, names: str, scale: Scale, *, width: int = 12) -> Panel:
    """Return a bar for each row, named by the column `names`."""
    options = {
        "xField": names,
        "orientation": "horizontal",
        "showValue": "auto",
        "stacking": "none",
        "barWidth": 0.9,
        "groupWidth": 0.7,
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    custom = {
        "axisPlacement": "auto",
        "fillOpacity": 80,
        "lineWidth": 1,
        "thresholdsStyle": {"mode": "off"},
    }
    field = {**scale.defaults(), "color": {"mode": "thresholds"}, "custom": custom}
    return _panel(
        "barchart",
        title,
        about=about,
        queries=[query],
        field=field,
        options=options,
        size=(width, HEIGHT),
    )


def table(title: str, about: str, query: Sql, *, width: int = 12) -> Panel:
    """Return rows as they are."""
    options = {
        "cellHeight": "sm",
        "showHeader": True,
        "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": ""},
    }
    field = {"custom": {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True}}
    return _panel(
        "table",
        title,
        about=about,
        queries=[query],
        field=field,
        options=options,
        size=(width, HEIGHT),
    )


def states(
    title: str, about: str, query: Promql, words: dict[str, tuple[str, str]], *, width: int = 8
) -> Panel:
    """Return the states of things over time: (text, colour) by value."""
    mapped = {
        value: {"text": text, "color": colour, "index": i}
        for i, (value, (text, colour)) in enumerate(words.items())
    }
    options = {
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "never",
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    field = {
        **Scale().defaults(),
        "color": {"mode": "thresholds"},
        "custom": {"fillOpacity": 80, "lineWidth": 0},
        "mappings": [{"type": "value", "options": mapped}],
    }
    return _panel(
        "state-timeline",
        title,
        about=about,
        queries=[query],
        field=field,
        options=options,
        size=(width, HEIGHT),
    )


def heading(title: str) -> Panel:
    """Return a line that begins a part of the dashboard."""
    return Panel(COLUMNS, 1, {"type": "row", "title": title, "collapsed": False, "panels": []})


def placed(panels: Iterable[Panel]) -> list[Json]:
    """Return the panels with their places, from left to right, in as many lines as needed."""
    x = y = tallest = 0
    found: list[Json] = []
    for number, panel in enumerate(panels, 1):
        if x + panel.width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        found.append(
            {
                "id": number,
                **panel.body,
                "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
            }
        )
        x, tallest = x + panel.width, max(tallest, panel.height)
    return found


def _panel(
    kind: str,
    title: str,
    about: str,
    *,
    queries: Sequence[Query],
    field: Json,
    options: Json,
    size: tuple[int, int],
) -> Panel:
    body = {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": POSTGRES if isinstance(queries[0], Sql) else PROMETHEUS,
        "targets": [
            {"refId": letter, **query.target()}
            for letter, query in zip(ascii_uppercase, queries, strict=False)
        ],
        "fieldConfig": {"defaults": field, "overrides": []},
        "options": options,
    }
    return Panel(*size, body)


def _reduced(*, rows: bool = False) -> Json:
    return {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": rows},
        "orientation": "auto",
    }
