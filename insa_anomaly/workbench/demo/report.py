"""Report of the demonstration.

A line for each event as it comes, a table of the faults at the end.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from textwrap import shorten

from rich.console import Console
from rich.table import Table
from rich.text import Text

from insa_anomaly.core.notification.event import Event
from insa_anomaly.core.reading.parser import microseconds
from insa_anomaly.core.units import SECOND
from insa_anomaly.workbench.demo.plant import DEVICES, MINUTE, SIGNALS, PlantFault
from insa_anomaly.workbench.demo.scoreboard import Alarm, DemoFigures, FaultMatch

_STYLES = {"opened": "bold red", "worsened": "yellow", "closed": "green"}
_SERIES_WIDTH = max(map(len, DEVICES)) + 1 + max(map(len, SIGNALS))
_LONGEST_REASON = 100


def event_line(event: Event, fault: PlantFault | None) -> Text:
    """Return time, series, transition, value, expectation, confidence, fault and reasons."""
    at = microseconds(event.timestamp) or 0
    line = Text(f"{_clock(at)}  {f'{event.device_id}/{event.metric_name}':<{_SERIES_WIDTH}}  ")
    line.append(f"{event.kind:<8}", _STYLES.get(event.kind))
    line.append(f"  {event.value:>8.4g}")
    if event.expected is not None:
        line.append(f"  expected {event.expected:.4g} ({event.lower:.4g} to {event.upper:.4g})")
    if event.kind == "closed":
        lasted = at - (microseconds(event.started_at) or at)
        return line.append(f"  after {_minutes(lasted)}", "dim")
    line.append(f"  confidence {event.confidence:.2f}")
    if fault:
        line.append(f"  injected {fault.kind}", "cyan")
    if event.reasons:
        line.append(f"  {shorten(event.reasons[0].text, _LONGEST_REASON, placeholder=' ...')}")
    return line


def fault_table(findings: Sequence[FaultMatch]) -> Table:
    """Return the injected faults: time, place, kind, and how soon they were caught."""
    table = Table(title="Injected faults", box=None, pad_edge=False, header_style="bold")
    table.title_justify = "left"
    for heading in ("began", "series", "fault", "lasted", "result", "delay", "readings"):
        right = heading in {"lasted", "delay", "readings"}
        table.add_column(heading, no_wrap=True, justify="right" if right else "left")
    for finding in findings:
        fault, delay = finding.fault, finding.delay
        result = Text("missed", "red") if delay is None else Text("caught", "green")
        after = ("", "") if delay is None else (_minutes(delay), str(delay // MINUTE + 1))
        where = (_clock(fault.start), "/".join(fault.key), fault.kind)
        table.add_row(*where, _minutes(fault.end - fault.start), result, *after)
    return table


def tell_outcome(
    console: Console,
    findings: Sequence[FaultMatch],
    false_alarms: Sequence[Alarm],
    figures: DemoFigures,
) -> None:
    """Print the table and the summary."""
    console.print()
    console.print(fault_table(findings))
    console.print()
    for alarm in false_alarms:
        console.print(f"false alarm: {_clock(alarm.at)}  {'/'.join(alarm.key)}")
    console.print(
        f"faults     {figures.faults_caught} of {figures.faults_injected} caught, "
        f"{figures.false_alarm_episodes} false alarms"
    )
    console.print(
        f"readings   {figures.readings_published:,} published, {figures.readings_stored:,} stored, "
        f"{figures.lost:,} lost, {figures.duplicates:,} duplicates"
    )
    console.print(
        f"events     {figures.events:,}, from reading sent to event received {_latency(figures)}"
    )


def _latency(figures: DemoFigures) -> str:
    if figures.p50_ms is None or figures.p99_ms is None:
        return "not measured"
    return f"p50 {figures.p50_ms:.1f} ms, p99 {figures.p99_ms:.1f} ms"


def _clock(timestamp: int) -> str:
    return f"{datetime.fromtimestamp(timestamp / SECOND, UTC):%m-%d %H:%M}"


def _minutes(duration: int) -> str:
    return f"{duration // MINUTE} min"
