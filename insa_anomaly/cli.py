"""The command line: parse, call, print."""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from insa_anomaly.commands import alerts, backup, install_database
from insa_anomaly.commands import demo as demonstration
from insa_anomaly.commands import health as health_report
from insa_anomaly.commands import install as installation
from insa_anomaly.commands import keys as keyring
from insa_anomaly.commands import tune as tuning_report
from insa_anomaly.commands.alerts import letters
from insa_anomaly.commands.alerts import retry as try_again
from insa_anomaly.commands.check_config import migrate_as, migrate_database, try_connections
from insa_anomaly.commands.evaluate import evaluate_files
from insa_anomaly.commands.health import check
from insa_anomaly.commands.health import trail as trail_of
from insa_anomaly.commands.models import export_model
from insa_anomaly.commands.outline import outline
from insa_anomaly.commands.replay import replay_recordings
from insa_anomaly.commands.train import train_recordings, train_stored
from insa_anomaly.commands.tune import ACCEPTED, configured, from_files, stored, try_settings
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import AlreadyRunning, ConfigError, Conflict, InsaError
from insa_anomaly.instrumentation import set_up_logging
from insa_anomaly.processes import daemon, trainer
from insa_anomaly.services.keys import Permission, Wish
from insa_anomaly.settings.load import Settings, load
from insa_anomaly.wiring import storage
from insa_anomaly.wiring.models import model_files
from insa_anomaly.workbench.progress import open_console
from insa_anomaly.workbench.recordings import recording
from insa_anomaly.workbench.recordings.evaluation import Split
from insa_anomaly.workbench.recordings.evaluation_report import tell, to_json
from insa_anomaly.workbench.recordings.plot import check_plots, write_plots

BAD_CONFIG = 78  # sysexits' EX_CONFIG: systemd does not restart after it
ALREADY_RUNNING = 75  # sysexits' EX_TEMPFAIL
INSTANCE = re.compile(r"[A-Za-z0-9_-]{1,40}")
INTERRUPTED = 130  # a shell's word for Ctrl-C

cli = typer.Typer(
    name="insa-anomaly",
    help="Reads plant telemetry from MQTT, scores every reading with a model of its own series, and tells what stands out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Configuration file [default: $INSA_CONFIG, else /etc/insa-anomaly/config.yaml, else built-in values].",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def main() -> None:
    """Run the command; an error of ours is one clear line, never a traceback."""
    try:
        cli()
    except ConfigError as error:
        _fail(error, BAD_CONFIG)
    except AlreadyRunning as error:
        _fail(error, ALREADY_RUNNING)
    except InsaError as error:
        _fail(error, 1)


def _fail(error: InsaError, status: int) -> NoReturn:
    for line in str(error).splitlines():
        sys.stderr.write(f"insa-anomaly: {line}\n")
    sys.exit(status)


def _load(path: Path | None) -> tuple[Settings, str]:
    settings, source = load(path)
    set_up_logging(settings.logging.level, settings.logging.form)
    return settings, source


def _load_for_use(path: Path | None) -> tuple[Settings, str]:
    """For what writes into the storage directory."""
    settings, source = _load(path)
    storage.check_owner(settings.storage.directory)
    return settings, source


@cli.command()
def run(config: Config = None) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    raise typer.Exit(daemon.run(*_load_for_use(config)))


@cli.command()
def migrate(
    config: Config = None,
    administrator: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="Address of a superuser or of the schema's owner, instead of database.url.",
            metavar="URL",
        ),
    ] = None,
    *,
    roles: Annotated[
        bool,
        typer.Option(
            "--roles", help="With --as: make the roles of least privilege, and the daemon's login."
        ),
    ] = False,
    login: Annotated[str, typer.Option(help="The daemon's login, with --roles.")] = "insa-anomaly",
) -> None:
    """Bring the database to this version's schema; the daemon does it by itself at its start, where it may."""
    if roles and administrator is None:
        raise typer.BadParameter("--roles needs --as: the address of a superuser")
    made: list[str] = []
    if administrator is None:
        applied = migrate_database(_load_for_use(config)[0])
    else:
        made, applied = migrate_as(administrator, login if roles else None)
    for name in made:
        typer.echo(f"made the role {name}")
    typer.echo("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")


@cli.command("check-config")
def check_config(config: Config = None) -> None:
    """Explain mistakes in the configuration, one line each, say what would run, and try the connections."""
    settings, source = _load_for_use(config)
    set_up_logging("ERROR", settings.logging.form)  # what an attempt has to say stands in its line
    typer.echo(f"{source}: every setting is understood. A daemon of it")
    for sentence in outline(settings):
        typer.echo(f"  {sentence}")
    failed = False
    for name, said, wrong in try_connections(settings):
        failed |= wrong
        typer.echo(f"{name}: {said}")
    raise typer.Exit(1 if failed else 0)


Apply = Annotated[
    bool, typer.Option("--apply", help="Do it; without this it is only said what would be done.")
]
Root = Annotated[
    Path, typer.Option(help="Root folder to do it in, for images and trials.", file_okay=False)
]


@cli.command()
def install(
    *,
    apply: Apply = False,
    instance: Annotated[
        list[str] | None,
        typer.Option(help="A line or area with a daemon of its own; may be repeated."),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="A PostgreSQL of yours, to be given roles and schema: address of a superuser.",
            metavar="URL",
        ),
    ] = None,
    root: Root = Path("/"),
) -> None:
    """Make this machine ready for the service: account, folders, configuration, key, units, database. Safe to do again; needs root."""
    site, instances = (
        installation.Site(root.resolve(), Path(sys.prefix) / "bin" / "insa-anomaly"),
        _instances(instance or []),
    )
    if database is None:
        _do(installation.install(site, instances), apply)
        return
    named = install_database.address(database)
    steps = installation.install(site, instances, named)
    _do(
        [*install_database.database_steps(database), *steps], apply
    )  # one that cannot be reached stops it before anything is done
    for path in installation.unnamed(site, instances, named):
        typer.echo(
            f"{path} was there before: see that it has database: {msgspec.json.encode({'url': named, 'roles': True}).decode()}"
        )


@cli.command()
def uninstall(*, apply: Apply = False, root: Root = Path("/")) -> None:
    """Take the units and the command away; data, configuration and account stay."""
    _do(
        installation.uninstall(
            installation.Site(root.resolve(), Path(sys.prefix) / "bin" / "insa-anomaly")
        ),
        apply,
    )


def _instances(names: list[str]) -> list[str]:
    for name in names:
        if not INSTANCE.fullmatch(name) or name in {"config", "manual"}:
            raise typer.BadParameter(
                f"--instance {name}: a name is letters, digits, - and _, and neither config nor manual"
            )
    return names


def _do(steps: list[installation.Step], really: bool) -> None:  # noqa: FBT001 - what the option says
    if not really:
        for step in installation.pending(steps):
            typer.echo(f"would {step.what}")
        typer.echo(
            "nothing was changed; --apply does it"
            if installation.pending(steps)
            else "there is nothing to do"
        )
        return
    for what in installation.apply(steps):
        typer.echo(what)
    typer.echo("done")


@cli.command("backup")
def take_backup(
    target: Annotated[
        Path, typer.Argument(help="Folder to put it in, under the time it was taken.")
    ],
    config: Config = None,
) -> None:
    """Back up database, models, log and states into a folder of their own; the daemon may run meanwhile."""
    settings, _ = _load_for_use(config)
    typer.echo(str(backup.backup(settings, target)))


@cli.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="The backup: a folder that `backup` wrote.")],
    config: Config = None,
) -> None:
    """Restore a backup to where the configuration says, while no daemon runs and nothing is there yet."""
    settings, _ = _load_for_use(config)
    manifest = backup.restore(settings, folder)
    typer.echo(f"restored what version {manifest.version} backed up at {manifest.taken_at}")


@cli.command()
def train(
    config: Config = None,
    device: Annotated[
        str | None,
        typer.Option(help="Device to train, with --metric; from --csv: the name to give."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Metric to train.")] = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Train every series that has recorded readings.")
    ] = False,
    csv: Annotated[
        list[Path] | None,
        typer.Option(
            help="Train from recorded files instead of stored telemetry; may be repeated."
        ),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=100, help="With --csv: the first rows only.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="With --all: how many to train at once [default: training.processes].",
        ),
    ] = None,
) -> None:
    """Train models: one series or all, from stored telemetry or from recorded files. A running daemon takes them over by itself."""
    settings, _ = _load_for_use(config)
    console = open_console(sys.stderr)
    if csv:
        recordings = recording.inspect_all(csv, device, metric)
        outcomes = train_recordings(settings, recordings, rows, console)
    elif every or (device and metric):
        outcomes = train_stored(
            settings, None if every else [SeriesKey(device or "", metric or "")], jobs, console
        )
    else:
        raise typer.BadParameter(
            "say what to train: --device with --metric, or --all, or --csv FILE"
        )
    for key, outcome in outcomes.items():
        typer.echo(f"{'/'.join(key)}: {outcome}")
    raise typer.Exit(
        0 if all(outcome.startswith("trained") for outcome in outcomes.values()) else 1
    )


@cli.command()
def models(config: Config = None, *, json: Json = False) -> None:
    """List the models on disk, newest first."""
    settings, _ = _load_for_use(config)
    with model_files(settings) as files:
        found = files.rows()
    if json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    for row in found:
        trained = datetime.fromtimestamp(row.trained_at / 1e6, UTC)
        known = f"{row.status}  {trained:%Y-%m-%d %H:%M}  {row.training_samples:,} readings"
        typer.echo(f"{row.device_id}/{row.metric_name}  v{row.version}  {known}  {row.id}")
    if not found:
        typer.echo(
            "no models yet: series train themselves once they have readings enough, or use `insa-anomaly train`"
        )


@cli.command()
def export(
    model_id: Annotated[
        str, typer.Argument(metavar="MODEL", help="Its id, as `insa-anomaly models` prints it.")
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Where its files go; made if need be.", file_okay=False
        ),
    ],
    config: Config = None,
) -> None:
    """Copy the files of a model, verified and unsealed: open a pickle of it from there, never from the folder of the models."""
    settings, _ = _load_for_use(config)
    for path in export_model(settings, model_id, target):
        typer.echo(path)


@cli.command()
def health(
    config: Config = None,
    why: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE/METRIC",
            help="Check nothing: print what was decided about the models of this series, and why.",
        ),
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Check all models now: status 0 where all is well, 1 where something needs a person. A running daemon does what is decided."""
    settings, _ = _load(config)
    if why is not None:
        trail = trail_of(settings, _series(why))
        typer.echo(msgspec.json.encode(trail).decode() if json else health_report.trail_text(trail))
        return
    try:
        report = check(settings)
    except Conflict as error:
        _fail(error, ALREADY_RUNNING)
    typer.echo(msgspec.json.encode(report).decode() if json else health_report.text(report))
    raise typer.Exit(0 if report.healthy else 1)


def _series(text: str) -> SeriesKey:
    device, mark, metric = text.partition("/")
    if not (device and mark and metric):
        raise typer.BadParameter(f"--why {text}: say DEVICE/METRIC")
    return SeriesKey(device, metric)


@cli.command("alerts")
def list_alerts(
    config: Config = None,
    retry: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Deliver this dead letter after all.")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """List alerts that wait to be delivered, and those that were given up: the dead letters of thirty days."""
    settings, _ = _load_for_use(config)
    if retry is not None:
        typer.echo(f"{retry} waits for {try_again(settings, retry).target} again")
        return
    waiting, dead = letters(settings)
    typer.echo(
        msgspec.json.encode({"waiting": waiting, "dead": dead}).decode()
        if json
        else alerts.text(waiting, dead)
    )


keys = typer.Typer(help="Keys for the admin API: make, list and revoke them.", no_args_is_help=True)
cli.add_typer(keys, name="keys")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Whose key it is, for lists and the audit log.")],
    permission: Annotated[
        list[Permission], typer.Option(help="What it is good for; may be repeated.")
    ],
    config: Config = None,
    days: Annotated[
        float | None, typer.Option(min=0.01, help="Days until it expires [default: never].")
    ] = None,
    predictions_a_minute: Annotated[
        int | None,
        typer.Option(min=1, help="Limit of its own [default: http.predictions_a_minute]."),
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Make a key. It is printed this once and kept nowhere."""
    settings, _ = _load_for_use(config)
    lifetime = None if days is None else round(days * 86_400e6)
    key, token = keyring.create_key(
        settings, Wish(name, permission, lifetime, predictions_a_minute)
    )
    typer.echo(msgspec.json.encode({"id": key.id, "key": token}).decode() if json else token)


@keys.command("list")
def list_keys(config: Config = None, *, json: Json = False) -> None:
    """List the keys, without what proves them."""
    settings, _ = _load_for_use(config)
    found = keyring.list_keys(settings)
    if json:
        typer.echo(
            msgspec.json.encode(
                [{**msgspec.structs.asdict(key), "digest": None} for key in found]
            ).decode()
        )
        return
    for key in found:
        ends = (
            f"revoked {_when(key.revoked_at)}"
            if key.revoked_at
            else f"expires {_when(key.expires_at)}"
        )
        typer.echo(
            f"{key.id}  {key.name}  {' '.join(key.permissions)}  {ends}  last used {_when(key.last_used_at)}"
        )
    if not found:
        typer.echo("no keys yet: make one with `insa-anomaly keys create`")


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[
        str, typer.Argument(help="Its id: the part between the first two underscores.")
    ],
    config: Config = None,
) -> None:
    """End a key for good; a running daemon knows within seconds."""
    settings, _ = _load_for_use(config)
    keyring.revoke_key(settings, key_id)
    typer.echo(f"{key_id} is revoked")


def _when(microseconds: int | None) -> str:
    return (
        "never"
        if microseconds is None
        else f"{datetime.fromtimestamp(microseconds / 1e6, UTC):%Y-%m-%d %H:%M}"
    )


@cli.command()
def replay(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Recorded: `timestamp,value`, or a column per metric; `,` `;` or tab; .gz too."
        ),
    ],
    config: Config = None,
    device: Annotated[
        str | None,
        typer.Option(help="Device the readings are published as [default: the file's name]."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Metric of a file with one column of values.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.001, help="Times as fast as recorded [default: as fast as possible]."),
    ] = None,
    *,
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="Move all timestamps so that the last is now.")
    ] = False,
    exclude: Annotated[
        str, typer.Option(help="Columns that are not readings, separated by commas.")
    ] = ",".join(recording.LABELS),
) -> None:
    """Publish recorded readings through the broker, keeping their timestamps."""
    settings, _ = _load_for_use(config)
    recordings = recording.inspect_all(
        files, device, metric, [name.strip() for name in exclude.split(",") if name.strip()]
    )
    counts = replay_recordings(
        settings, recordings, speed, shift_to_now=shift_to_now, console=open_console(sys.stderr)
    )
    raise typer.Exit(INTERRUPTED if counts.stopped else 1 if counts.unacknowledged else 0)


@cli.command()
def evaluate(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Recorded: `timestamp,value`, or a column per metric; a column `anomaly` of 0 and 1 is its labels."
        ),
    ],
    config: Config = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Events: JSON as NAB's combined_windows.json, or CSV with start,end and maybe file."
        ),
    ] = None,
    train: Annotated[
        str,
        typer.Option(
            help="Learn from the first part: a share, rows, or both, whichever is less (0.15,750).",
            metavar="SHARE|ROWS",
        ),
    ] = "0.3",
    *,
    device: Annotated[
        bool, typer.Option("--device", help="Take all columns of a file together, as one device.")
    ] = False,
    recovery: Annotated[
        int,
        typer.Option(
            min=0,
            help="Readings after an event that still belong to it: no alarm in them is false.",
        ),
    ] = 60,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw series, bands, labels, episodes and scores into this HTML file."),
    ] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the figures as one JSON object last; the rest goes to standard error.",
        ),
    ] = False,
) -> None:
    """Run the detector over recorded data and say how good its alarms are, or without labels how many there are and why."""
    settings, _ = _load(config)
    if plot:
        check_plots(plot)
    outcome = evaluate_files(
        settings, files, labels, _split(train), device=device, console=open_console(sys.stderr)
    )
    tell(open_console(sys.stderr if json else sys.stdout), outcome, settings.verdict, recovery)
    if plot:
        write_plots(plot, outcome.runs)
    if json:
        typer.echo(to_json(outcome, settings.verdict, recovery))
    raise typer.Exit(1 if outcome.refused else 0)


def _split(text: str) -> Split:
    try:
        return Split.parse(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"--train {text}: {error}; say a share (0.3), rows (400), or both (0.15,750)"
        ) from error


@cli.command()
def tune(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Recorded, as for `evaluate`; none: what is stored of a series."),
    ] = None,
    config: Config = None,
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
    *,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the figures as one JSON object last; the rest goes to standard error.",
        ),
    ] = False,
) -> None:
    """Show what other settings would have done to a series: alarms a day, faults told, false positives. Changes nothing."""
    settings, _ = _load(config)
    console = open_console(sys.stderr)
    if files:
        series = from_files(files)
    elif device and metric:
        series = stored(settings, SeriesKey(device, metric))
    else:
        raise typer.BadParameter("say what to try it on: files, or --device with --metric")
    found = try_settings(settings, series, accept or ACCEPTED, line or (), console)
    now = configured(settings)
    tuning_report.tell(
        open_console(sys.stderr if json else sys.stdout), found.tried, found.refused, now
    )
    if json:
        typer.echo(tuning_report.to_json(found.tried, found.refused, now))
    raise typer.Exit(1 if found.refused else 0)


@cli.command()
def demo(
    duration: Annotated[
        float | None, typer.Option(min=5, help="Seconds of streaming [default: until Ctrl-C].")
    ] = None,
    *,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the figures as one JSON object last; the rest goes to standard error.",
        ),
    ] = False,
) -> None:
    """Show the whole way on a simulated plant with known faults, on servers of its own."""
    set_up_logging("WARNING")
    raise typer.Exit(demonstration.run_demo(duration, json=json))


@cli.command("train-orders", hidden=True)
def train_orders() -> None:
    """Be the daemon's training process."""
    trainer.train_orders()
