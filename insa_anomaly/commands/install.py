"""The commands `install` and `uninstall`: prepare this machine for the service, and back."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from insa_anomaly.adapters.postgres import roles
from insa_anomaly.adapters.postgres.connection import as_login
from insa_anomaly.adapters.postgres.schema import is_up_to_date
from insa_anomaly.commands.options import as_json, option
from insa_anomaly.settings.secrets import without_secret
from insa_anomaly.workbench.installation import (
    ACCOUNT,
    InstallStep,
    Site,
    apply,
    install,
    pending,
    uninstall,
    unnamed,
)

INSTANCE = re.compile(r"[A-Za-z0-9_-]{1,40}")


Apply = Annotated[
    bool, typer.Option("--apply", help="Do it; without this it is only said what would be done.")
]


Root = Annotated[
    Path, typer.Option(help="Root folder to do it in, for images and trials.", file_okay=False)
]


def install_command(
    *,
    apply: Apply = False,
    instance: list[str] | None = option(
        "A line or area with a daemon of its own; may be repeated."
    ),
    database: str | None = option(
        "A PostgreSQL of yours, to be given roles and schema: address of a superuser.",
        metavar="URL",
    ),
    root: Root = Path("/"),
) -> None:
    """Prepare this machine for the service: account, folders, configuration, key, units, database.

    Safe to repeat; needs root.
    """
    site, instances = _site(root), _instances(instance or [])
    if database is None:
        _do(install(site, instances), apply)
        return
    named = as_login(database, ACCOUNT)  # for the configuration: without a password
    steps = install(site, instances, named)
    # A database that cannot be reached stops it before anything is done.
    _do([*database_steps(database), *steps], apply)
    for path in unnamed(site, instances, named):
        section = as_json({"url": named, "roles": True})
        typer.echo(f"{path} was there before: see that it has database: {section}")


def uninstall_command(*, apply: Apply = False, root: Root = Path("/")) -> None:
    """Remove the units and the command; data, configuration and account stay."""
    _do(uninstall(_site(root)), apply)


def _site(root: Path) -> Site:
    return Site(root.resolve(), Path(sys.prefix) / "bin" / "insa-anomaly")


def _instances(names: list[str]) -> list[str]:
    for name in names:
        if not INSTANCE.fullmatch(name) or name in {"config", "manual"}:
            raise typer.BadParameter(
                f"--instance {name}: a name is letters, digits, - and _, and neither config nor "
                "manual"
            )
    return names


def _do(steps: list[InstallStep], really: bool) -> None:  # noqa: FBT001 - what the option says
    if not really:
        for step in pending(steps):
            typer.echo(f"would {step.what}")
        typer.echo(
            "nothing was changed; --apply does it" if pending(steps) else "there is nothing to do"
        )
        return
    for what in apply(steps):
        typer.echo(what)
    typer.echo("done")


def database_steps(url: str) -> list[InstallStep]:
    """Return the steps that give a PostgreSQL server its roles and schema.

    `url` is the address of a superuser. Raises DatabaseAway, DatabaseRefused or MigrationError.
    """

    def done() -> bool:
        return is_up_to_date(url) and roles.are_given(url, ACCOUNT)

    def do() -> None:
        roles.create_roles(url, ACCOUNT)
        roles.migrate_as_owner(url)

    what = f"make the schema, roles of least privilege and the login {ACCOUNT}"
    return [InstallStep(f"{what} at {without_secret(url)}", done, do)]
