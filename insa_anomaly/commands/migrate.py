"""The command `migrate`: bring the database to this version's schema."""

from typing import Annotated

import typer

from insa_anomaly.adapters.postgres import roles
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.commands.options import Config, load_for_use
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring.database import database


def migrate_database(settings: Settings) -> list[str]:
    """Apply missing migrations; return their names."""
    with database(settings) as dsn:
        return migrate(dsn)


def migrate_as(url: str, login: str | None) -> tuple[list[str], list[str]]:
    """Apply missing migrations as an administrator.

    With `login` the roles are made first. Returns the names of made roles and of applied
    migrations.
    """
    made = roles.create_roles(url, login) if login else []
    return made, roles.migrate_as_owner(url)


def migrate_command(
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
    """Bring the database to this version's schema.

    The daemon does so at its start, where it may.
    """
    if roles and administrator is None:
        raise typer.BadParameter("--roles needs --as: the address of a superuser")
    made: list[str] = []
    if administrator is None:
        applied = migrate_database(load_for_use(config)[0])
    else:
        made, applied = migrate_as(administrator, login if roles else None)
    for name in made:
        typer.echo(f"made the role {name}")
    typer.echo("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")
