"""Report of an evaluation: a row for each series, the episodes, and a JSON object."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from math import isfinite
from textwrap import shorten

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.workbench.recordings import accuracy
from insa_anomaly.workbench.recordings.accuracy import AccuracyRates, ConfusionCounts, figures
from insa_anomaly.workbench.recordings.evaluation import (
    BAND,
    EvaluationOutcome,
    ReportedEpisode,
    Run,
)

_LISTED = 200  # episodes on a console; JSON has them all
_LONGEST_NAME = 40
_LONGEST_REASON = 120
_WIDTH = 160  # a narrower terminal folds lines: a cut figure is worse than a folded line
_RATES = ("FPR\nreadings", "TPR\nreadings", "precision\nreadings", "precision\nepisodes")
_LABELLED = ("events\ncaught", "delay", "false\nalarms", "a day", *_RATES, "AUC-PR", "threshold")
_QUIET = ("learnt", "readings", "days", "episodes", "a day", "anomalous\nreadings", "threshold")


class EpisodeSaid(msgspec.Struct, frozen=True):
    """An episode as printed in JSON; NaN, where no value was expected, becomes null."""

    metric: str
    opened: str
    last: str
    value: float
    expected: float
    lower: float
    upper: float
    confidence: float
    reasons: tuple[str, ...]


class SeriesSaid(msgspec.Struct, frozen=True):
    """A series as printed in JSON."""

    series: str
    file: str
    learnt_readings: int
    readings: int
    days: float
    threshold: float | None
    episodes_per_day: float | None
    events_in_learnt_part: int
    figures: AccuracyRates | None
    episodes: tuple[EpisodeSaid, ...]


class Said(msgspec.Struct, frozen=True):
    """The whole evaluation as printed in JSON; `total` is over the labelled series."""

    series: list[SeriesSaid]
    refused: dict[str, str]
    total: AccuracyRates | None


def tell(console: Console, outcome: EvaluationOutcome, policy: Policy, recovery: int) -> None:
    """Print the table, the meaning of its words, and the episodes where labels are missing."""
    counted = [
        (run, counts)
        for run in outcome.runs
        if (counts := run.counts(policy.merge_gap_readings, recovery))
    ]
    unlabelled = [run for run in outcome.runs if run.table.truth is None]
    if counted:
        console.print()
        console.print(_accuracy_grid(counted), width=_WIDTH, crop=False)
        for line in _explained(counted, policy, recovery):
            console.print(line)
    if unlabelled:
        console.print()
        console.print(_quiet_grid(unlabelled), width=_WIDTH, crop=False)
        console.print(_chosen(policy))
        for line in _episode_lines(unlabelled):
            console.print(line, markup=False)
    for name, reason in outcome.refused.items():
        console.print(f"not evaluated: {name}: {reason}", markup=False)


def to_json(outcome: EvaluationOutcome, policy: Policy, recovery: int) -> str:
    """Return the evaluation as a JSON object on a single line."""
    counts = [run.counts(policy.merge_gap_readings, recovery) for run in outcome.runs]
    series = [_series(run, one) for run, one in zip(outcome.runs, counts, strict=True)]
    known = [one for one in counts if one]
    return msgspec.json.encode(
        Said(series, dict(outcome.refused), figures(known) if known else None)
    ).decode()


# -------------------------------------------------------------------------------- with labels
def _accuracy_grid(counted: Sequence[tuple[Run, ConfusionCounts]]) -> Grid:
    grid = _grid(_LABELLED)
    for run, counts in counted:
        grid.add_row(_name(run), *_rates(figures([counts])), _number(run.threshold, "{:.2f}"))
    grid.add_section()
    total = figures([counts for _, counts in counted])
    grid.add_row(f"total of {len(counted)} series", *_rates(total), "")
    return grid


def _rates(of: AccuracyRates) -> list[str]:
    told = of.told
    return [
        f"{told.caught}/{told.events}",
        _delay(told.median_delay_s),
        str(told.false_alarms),
        _number(told.false_alarms_per_day, "{:.2f}"),
        *(_number(rate, "{:.2%}") for rate in (of.fpr, of.tpr, of.precision, told.precision)),
        _number(of.auc_pr, "{:.3f}"),
    ]


def _explained(
    counted: Sequence[tuple[Run, ConfusionCounts]], policy: Policy, recovery: int
) -> Iterator[str]:
    total = figures([counts for _, counts in counted])
    yield (
        f"All readings: F1 {_number(total.f1, '{:.3f}')}, balanced accuracy "
        f"{_number(total.balanced_accuracy, '{:.3f}')} at "
        f"FPR {_number(total.fpr, '{:.2%}')}; nothing is point-adjusted."
    )
    yield f"If every anomalous reading were told, threshold or not: {_sentence(total.flagged)}."
    yield (
        "Caught: an anomalous reading of an episode lies in the event; delay: median from the "
        "event's start to the first of them. False "
        f"alarm: an episode that touches no event, nor the {recovery} readings after it."
    )
    yield (
        "FPR, TPR and precision of readings are taken at score < 0, of episodes at the threshold; "
        "AUC-PR needs neither."
    )
    yield _chosen(policy)
    if known := sum(run.known_before for run, _ in counted):
        yield f"Not counted: {known} event{'s' * (known > 1)} in the parts that were learnt from."
    if short := sum(counts.normal_days < 1 for _, counts in counted):
        yield (
            f"Less than a day of normal running: {short} of {len(counted)} series. There, false "
            "alarms a day are far extrapolated."
        )


def _sentence(of: accuracy.EventFigures) -> str:
    rate, precision = _number(of.false_alarms_per_day, "{:.2f}"), _number(of.precision, "{:.2f}")
    return (
        f"{of.caught} of {of.events} events caught, {of.false_alarms} false alarms, {rate} a "
        f"day, precision of episodes {precision}"
    )


def _chosen(policy: Policy) -> str:
    return (
        "Threshold: the least confidence that opens an episode. Training chose it from what it "
        "learnt from, without labels, to give "
        f"at most {policy.false_alarms_per_day:g} false episodes a day and series; a refit "
        "chooses anew. Refits are taken up at once; "
        "in the daemon that takes a second or so."
    )


# -------------------------------------------------------------------------------- without labels
def _quiet_grid(runs: Sequence[Run]) -> Grid:
    grid = _grid(_QUIET)
    for run in runs:
        counts = f"{run.trained:,}", f"{len(run.flags):,}", f"{run.days:.1f}"
        episodes = str(len(run.episodes)), _number(run.episodes_per_day, "{:.2f}")
        threshold = _number(run.threshold, "{:.2f}")
        grid.add_row(_name(run), *counts, *episodes, f"{run.flags.mean():.2%}", threshold)
    return grid


def _episode_lines(runs: Sequence[Run]) -> Iterator[str]:
    found = [(run, episode) for run in runs for episode in run.episodes]
    if found:
        yield ""
    for run, episode in found[:_LISTED]:
        times = run.table.times
        band = f"  expected {episode.expected:.4g} ({episode.lower:.4g} to {episode.upper:.4g})"
        band = band if isfinite(episode.expected) else ""
        lasted = _delay(float(times[episode.last] - times[episode.first]) / 1e6)
        why = shorten("; ".join(episode.reasons), _LONGEST_REASON, placeholder=" ...")
        where = f"{run.table.device_id}/{episode.metric}"
        yield (
            f"{_clock(times[episode.first])}  {where}  {episode.value:.4g}{band}  "
            f"confidence {episode.peak:.2f}  lasted {lasted}  {why}"
        )
    if len(found) > _LISTED:
        yield f"and {len(found) - _LISTED:,} more; --json tells all"


# -------------------------------------------------------------------------------- JSON
def _series(run: Run, counts: ConfusionCounts | None) -> SeriesSaid:
    return SeriesSaid(
        series=run.table.name,
        file=str(run.table.path),
        learnt_readings=run.trained,
        readings=len(run.flags),
        days=run.days,
        threshold=run.threshold,
        episodes_per_day=run.episodes_per_day,
        events_in_learnt_part=run.known_before,
        figures=figures([counts]) if counts else None,
        episodes=tuple(_episode(run, episode) for episode in run.episodes),
    )


def _episode(run: Run, episode: ReportedEpisode) -> EpisodeSaid:
    ends = run.table.times[[episode.first, episode.last]]
    opened, last = (_clock(time).replace(" ", "T") + "Z" for time in ends)
    band = {name: getattr(episode, name) for name in ("value", *BAND)}
    peak, reasons = episode.peak, episode.reasons
    return EpisodeSaid(episode.metric, opened, last, confidence=peak, reasons=reasons, **band)


# -------------------------------------------------------------------------------- words
def _grid(headings: Sequence[str]) -> Grid:
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    grid.add_column("series", no_wrap=True, vertical="bottom")
    for heading in headings:
        grid.add_column(heading, no_wrap=True, justify="right", vertical="bottom")
    return grid


def _name(run: Run) -> str:
    name = run.table.name
    return escape(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _delay(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _clock(micros: int) -> str:
    return f"{datetime.fromtimestamp(int(micros) // 1_000_000, UTC):%Y-%m-%d %H:%M:%S}"
