"""The command `migrate`: bring the database to this version's schema."""

import typer

from insa_anomaly.adapters.postgres.roles import create_roles, migrate_as_owner
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.commands.options import Config, flag, load_for_use, option
from insa_anomaly.wiring.database import database


def migrate_command(
    config: Config = None,
    administrator: str | None = option(
        "Address of a superuser or of the schema's owner, instead of database.url.",
        "--as",
        metavar="URL",
    ),
    *,
    roles: bool = flag(
        "With --as: make the roles of least privilege, and the daemon's login.", "--roles"
    ),
    login: str = option("The daemon's login, with --roles.", default="insa-anomaly"),
) -> None:
    """Bring the database to this version's schema.

    The daemon does so at its start, where it may.
    """
    if roles and administrator is None:
        raise typer.BadParameter("--roles needs --as: the address of a superuser")
    if administrator is None:
        with database(load_for_use(config)[0]) as dsn:
            applied = migrate(dsn)
    else:
        made = create_roles(administrator, login) if roles else []
        applied = migrate_as_owner(administrator)
        for name in made:
            typer.echo(f"made the role {name}")
    typer.echo("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")
