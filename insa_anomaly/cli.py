"""The command line: every verb is a file of `commands`; this module makes them a program."""

import typer

from insa_anomaly.commands import (
    alerts,
    backup,
    check_config,
    demo,
    evaluate,
    health,
    install,
    keys,
    migrate,
    models,
    replay,
    run,
    train,
    tune,
)
from insa_anomaly.commands.options import ALREADY_RUNNING, fail
from insa_anomaly.errors import AlreadyRunning, ConfigError, InsaError
from insa_anomaly.processes.trainer import train_orders

BAD_CONFIG = 78  # sysexits' EX_CONFIG: systemd does not restart after it

cli = typer.Typer(
    name="insa-anomaly",
    help=(
        "Reads plant telemetry from MQTT, scores every reading with a model of its own series, "
        "and tells what stands out."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command("run")(run.run_command)
cli.command("migrate")(migrate.migrate_command)
cli.command("check-config")(check_config.check_config_command)
cli.command("install")(install.install_command)
cli.command("uninstall")(install.uninstall_command)
cli.command("backup")(backup.backup_command)
cli.command("restore")(backup.restore_command)
cli.command("train")(train.train_command)
cli.command("models")(models.models_command)
cli.command("export")(models.export_command)
cli.command("health")(health.health_command)
cli.command("alerts")(alerts.alerts_command)
cli.add_typer(keys.keys, name="keys")
cli.command("replay")(replay.replay_command)
cli.command("evaluate")(evaluate.evaluate_command)
cli.command("tune")(tune.tune_command)
cli.command("demo")(demo.demo_command)
cli.command("train-orders", hidden=True)(train_orders)


def main() -> None:
    """Run the command; an error of insa-anomaly is a clear line, never a traceback."""
    try:
        cli()
    except ConfigError as error:
        fail(error, BAD_CONFIG)
    except AlreadyRunning as error:
        fail(error, ALREADY_RUNNING)
    except InsaError as error:
        fail(error, 1)
