"""The part of an installation that is in a PostgreSQL of the plant's: roles of least privilege, and the schema."""

from insa_anomaly.adapters.postgres import roles
from insa_anomaly.adapters.postgres.connection import as_login
from insa_anomaly.adapters.postgres.schema import is_up_to_date
from insa_anomaly.commands.install import ACCOUNT, Step
from insa_anomaly.settings.secrets import without_secret


def database_steps(url: str) -> list[Step]:
    """What is to be so at this address, which is of a superuser. Asking raises DatabaseAway, DatabaseRefused or MigrationError."""

    def done() -> bool:
        return is_up_to_date(url) and roles.are_given(url, ACCOUNT)

    def do() -> None:
        roles.create_roles(url, ACCOUNT)
        roles.migrate_as_owner(url)

    return [
        Step(
            f"make the schema, roles of least privilege and the login {ACCOUNT} at {without_secret(url)}",
            done,
            do,
        )
    ]


def address(url: str) -> str:
    """What the daemon's configuration names: the same place by the daemon's own login, without a password."""
    return as_login(url, ACCOUNT)
