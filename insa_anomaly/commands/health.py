"""The command `health`: the daily check by hand, and the trail of decisions."""

from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser

import typer

from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.commands.options import (
    ALREADY_RUNNING,
    Config,
    Json,
    as_json,
    fail,
    load_settings,
    option,
)
from insa_anomaly.core.operations.model_health import Action
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import Conflict
from insa_anomaly.ports.model_health import DecisionFilter
from insa_anomaly.services.audit import Author
from insa_anomaly.services.model_health import (
    DecisionPage,
    DecisionView,
    HealthReport,
    HealthService,
)
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring import services
from insa_anomaly.wiring.clock import clock
from insa_anomaly.wiring.database import database

TRAIL_MOST = 100


@contextmanager
def _opened(settings: Settings) -> Iterator[HealthService]:
    with database(settings) as dsn:
        migrate(dsn)
        with services.pools(settings, dsn) as pools:
            yield services.health_service(settings, pools)


def check(settings: Settings) -> HealthReport:
    """Check all models. Raises Conflict while another check runs."""
    with _opened(settings) as health:
        return health.run(tuple(Action), Author(getuser(), "command line"), clock.now())


def series_key(text: str) -> SeriesKey:
    """Return the series that DEVICE/METRIC names."""
    device, mark, metric = text.partition("/")
    if not (device and mark and metric):
        raise typer.BadParameter(f"--why {text}: say DEVICE/METRIC")
    return SeriesKey(device, metric)


def text(report: HealthReport) -> str:
    """Return the report as lines."""
    decided = ", ".join(f"{count} {kind}" for kind, count in report.decided.items()) or "nothing"
    lines = [f"{'healthy' if report.healthy else 'not healthy'}: {report.summary}"]
    lines += [
        f"  {one.device_id}/{one.metric_name}: {'; '.join(one.reasons.values())}"
        for one in report.worst
    ]
    lines.append(f"decided: {decided}")
    lines.append(f"{report.models} models in {report.seconds:.2f} s, run {report.run_id}")
    return "\n".join(lines)


def trail_text(page: DecisionPage) -> str:
    """Return a line for each decision, newest first."""
    return "\n".join(map(_line, page.decisions)) or "nothing was decided about this series"


def _line(one: DecisionView) -> str:
    came_of_it = " -> ".join(
        part for part in (one.outcome or one.status, one.job_status, one.job_outcome) if part
    )
    return (
        f"{one.at[:16]}Z  {one.kind} version {one.model_version} ({one.cause}): {one.reason} "
        f"[{came_of_it}]"
    )


def health_command(
    config: Config = None,
    why: str | None = option(
        "Check nothing: print what was decided about the models of this series, and why.",
        metavar="DEVICE/METRIC",
    ),
    *,
    json: Json = False,
) -> None:
    """Check all models now: status 0 if all are well, 1 if a person is needed.

    A running daemon carries out the decisions.
    """
    settings, _ = load_settings(config)
    if why is not None:
        wanted = DecisionFilter(*series_key(why))
        with _opened(settings) as health:
            page = health.decisions(wanted, None, TRAIL_MOST)
        typer.echo(as_json(page) if json else trail_text(page))
        return
    try:
        report = check(settings)
    except Conflict as error:
        fail(error, ALREADY_RUNNING)
    typer.echo(as_json(report) if json else text(report))
    raise typer.Exit(0 if report.healthy else 1)
