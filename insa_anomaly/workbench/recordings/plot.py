"""Picture of an evaluation for a browser: series, bands, anomalies, labels, episodes, scores.

The HTML file carries plotly.js, so it opens on a machine without a network. A long series is drawn
by the lowest and highest reading and the strangest score of every stretch; readings that alarmed
are all drawn.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from insa_anomaly.core.units import Floats, Ints
from insa_anomaly.errors import FileFormatError, PlotUnavailable
from insa_anomaly.workbench.recordings.accuracy import runs as stretches
from insa_anomaly.workbench.recordings.evaluation import BAND, Run, moments

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_STRETCHES = 4000  # of a series that are drawn by three readings each
_BLUE, _RED, _GREY = "#1f5fa8", "#c22f2f", "#666"
_FILL, _LABEL, _EPISODE = "rgba(31,95,168,0.15)", "rgba(224,160,0,0.35)", "rgba(194,47,47,0.22)"
_ROW, _SCORES = 240, 180  # pixels
_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>insa-anomaly evaluate</title></head>
<body style="font-family: sans-serif">"""


def check_plots(path: Path) -> None:
    """Check, before hours of work, that a picture can be drawn and written.

    Raises PlotUnavailable or FileFormatError.
    """
    if find_spec("plotly") is None:
        raise PlotUnavailable
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileFormatError(f"{path}: cannot be written: there is no folder {folder}")


def write_plots(path: Path, runs: Sequence[Run]) -> None:
    """Write a picture of each run into a file, below each other. Raises FileFormatError."""
    parts = [
        picture(run).to_html(full_html=False, include_plotlyjs=i == 0, config={"responsive": True})
        for i, run in enumerate(runs)
    ]
    try:
        path.write_text("\n".join([_HEAD, *parts, "</body></html>\n"]), "utf-8")
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be written: {error.strerror or error}") from error


def picture(run: Run) -> "Figure":
    """Return the picture of a run: a row for every metric, the scores in the last row."""
    from plotly.subplots import make_subplots  # noqa: PLC0415 - an extra

    heights = [_ROW] * len(run.table.metrics) + [_SCORES]
    n = len(heights)
    look = {"shared_xaxes": True, "vertical_spacing": 0.12 / n, "row_heights": heights}
    figure, shown = make_subplots(n, 1, **look), drawn(run)
    for column in range(n - 1):
        _draw_metric(figure, run, column, shown)
    _draw_scores(figure, run, shown, n)
    _shade(figure, run)
    text = (
        f"{run.table.name}: {len(run.flags):,} readings after {run.trained:,} learnt, "
        f"{len(run.episodes)} episodes"
    )
    note = "" if len(shown) == len(run.flags) else f" ({len(shown):,} readings drawn)"
    figure.update_layout(title=text + note, height=sum(heights) + 140, template="plotly_white")
    return figure.update_layout(hovermode="x", legend={"orientation": "h"})


def drawn(run: Run) -> Ints:
    """Return the rows to draw: all of a short series, else its outline and every alarm."""
    n = len(run.flags)
    if n <= 3 * _STRETCHES:
        return np.arange(n)
    edges = np.linspace(0, n, _STRETCHES + 1).astype(np.int64)
    columns = [*np.nan_to_num(run.table.values).T, run.said["score"]]
    kept = np.asarray(run.flags).copy()
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        for column in columns:
            part = column[begin:end]
            kept[[begin + part.argmin(), begin + part.argmax()]] = True
    return np.flatnonzero(kept)


def _draw_metric(figure: "Figure", run: Run, column: int, shown: Ints) -> None:
    name, row = run.table.metrics[column], column + 1
    times, values, said = moments(run.table.times), run.table.values[:, column], run.said
    own = said.get("metric_name", name) == name
    if len(run.table.metrics) == 1:
        _draw_band(figure, times[shown], {side: said[side][shown] for side in BAND})
    _line(figure, row, times[shown], values[shown], name, color=_BLUE)
    at = np.flatnonzero(run.flags & own)
    _dots(figure, row, times[at], values[at], said["score"][at])
    figure.update_yaxes(title_text=name, row=row, col=1)


# Plotly takes it as numpy has it
def _draw_band(figure: "Figure", times: Any, band: dict[str, Floats]) -> None:  # noqa: ANN401
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "legendgroup": "band"}
    fill = {"fill": "tonexty", "fillcolor": _FILL, "name": "band"}
    dotted = {"width": 1, "color": _GREY, "dash": "dot"}
    _trace(figure, 1, times, band["lower"], showlegend=False, **edge)
    _trace(figure, 1, times, band["upper"], **fill, **edge)
    _trace(figure, 1, times, band["expected"], mode="lines", line=dotted, name="expected")


def _draw_scores(figure: "Figure", run: Run, shown: Ints, row: int) -> None:
    times = moments(run.table.times)
    _line(figure, row, times[shown], run.said["score"][shown], "score", color=_GREY)
    figure.add_hline(y=0, line={"color": _RED, "width": 1}, row=row, col=1)
    if run.threshold:
        line = {"color": _RED, "width": 1, "dash": "dash"}
        note = {"text": "an episode opens below"}
        place = {"annotation_position": "bottom left", "row": row, "col": 1}
        figure.add_hline(y=-run.threshold, line=line, annotation=note, **place)
    figure.update_yaxes(title_text="score", range=[-1.05, 1.05], row=row, col=1)


def _line(figure: "Figure", row: int, times: Any, values: Floats, name: str, *, color: str) -> None:  # noqa: ANN401
    line = {"width": 1, "color": color}
    _trace(figure, row, times, values, mode="lines", line=line, name=name)


def _dots(figure: "Figure", row: int, times: Any, values: Floats, scores: Floats) -> None:  # noqa: ANN401
    look = {
        "mode": "markers",
        "marker": {"size": 5, "color": _RED},
        "hovertemplate": "%{y}, score %{customdata:.2f}<extra></extra>",
    }
    legend = {"name": "anomalous", "legendgroup": "anomalous", "showlegend": row == 1}
    _trace(figure, row, times, values, customdata=scores, **look, **legend)


def _trace(figure: "Figure", row: int, times: Any, values: Any, **look: Any) -> None:  # noqa: ANN401
    figure.add_scatter(x=times, y=values, row=row, col=1, **look)


def _shade(figure: "Figure", run: Run) -> None:
    """Shade labels and episodes over all rows of the picture, with a line of the legend each."""
    truth = run.table.truth
    labelled = [] if truth is None else stretches(truth)
    for name, color, rows in (
        ("labelled event", _LABEL, labelled),
        ("episode", _EPISODE, run.spans),
    ):
        shapes = [_rectangle(run.table.times, first, last, color) for first, last in rows]
        figure.layout.shapes += tuple(shapes)
        if shapes:
            marker = {"size": 12, "symbol": "square", "color": color}
            _trace(figure, 1, [None], [None], mode="markers", marker=marker, name=name)


def _rectangle(times: Ints, first: int, last: int, color: str) -> dict[str, Any]:
    start, end = moments(times[[first, last]]).astype(str).tolist()
    place = {"xref": "x", "yref": "paper", "x0": start, "x1": end, "y0": 0, "y1": 1}
    look = {"fillcolor": color, "line": {"width": 1, "color": color}, "layer": "below"}
    return {"type": "rect", **place, **look}
