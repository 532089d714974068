"""The command `keys`: make, list and revoke keys of the admin API."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from getpass import getuser

import msgspec
import typer

from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.keys import PostgresKeys
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.commands.options import Config, Json, argument, as_json, load_for_use, option
from insa_anomaly.ports.keys import Key
from insa_anomaly.services.keys import KeyService, Permission, Wish
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring.clock import clock
from insa_anomaly.wiring.database import database


@contextmanager
def _key_service(settings: Settings) -> Iterator[KeyService]:
    with database(settings) as dsn:
        migrate(dsn)
        with Pool(dsn, settings.database.deadline, 1) as pool:
            yield KeyService(PostgresKeys(pool), PostgresAudit(pool))


def create_key(settings: Settings, wish: Wish) -> tuple[Key, str]:
    """Create a key; return it and its secret, which is stored nowhere."""
    with _key_service(settings) as service:
        return service.create(wish, getuser(), clock.now())


keys = typer.Typer(help="Keys for the admin API: make, list and revoke them.", no_args_is_help=True)


@keys.command("create")
def create_command(
    name: str = option("Whose key it is, for lists and the audit log.", default=...),
    permission: list[Permission] = option("What it is good for; may be repeated.", default=...),
    config: Config = None,
    days: float | None = option("Days until it expires [default: never].", min=0.01),
    predictions_a_minute: int | None = option(
        "Limit of its own [default: http.predictions_a_minute].", min=1
    ),
    *,
    json: Json = False,
) -> None:
    """Make a key. It is printed this once and stored nowhere."""
    settings, _ = load_for_use(config)
    lifetime = None if days is None else round(days * 86_400e6)
    key, token = create_key(settings, Wish(name, permission, lifetime, predictions_a_minute))
    typer.echo(as_json({"id": key.id, "key": token}) if json else token)


@keys.command("list")
def list_command(config: Config = None, *, json: Json = False) -> None:
    """List the keys, without their secrets."""
    settings, _ = load_for_use(config)
    with _key_service(settings) as service:
        found = service.all()
    if json:
        typer.echo(as_json([msgspec.structs.replace(key, digest=None) for key in found]))
        return
    for key in found:
        how, at = ("revoked", key.revoked_at) if key.revoked_at else ("expires", key.expires_at)
        ends = f"{how} {_when(at)}  last used {_when(key.last_used_at)}"
        typer.echo(f"{key.id}  {key.name}  {' '.join(key.permissions)}  {ends}")
    if not found:
        typer.echo("no keys yet: make one with `insa-anomaly keys create`")


@keys.command("revoke")
def revoke_command(
    key_id: str = argument("Its id: the part between the first two underscores."),
    config: Config = None,
) -> None:
    """Revoke a key for good; a running daemon knows within seconds."""
    settings, _ = load_for_use(config)
    with _key_service(settings) as service:
        service.revoke(key_id, getuser(), clock.now())
    typer.echo(f"{key_id} is revoked")


def _when(microseconds: int | None) -> str:
    if microseconds is None:
        return "never"
    return f"{datetime.fromtimestamp(microseconds / 1e6, UTC):%Y-%m-%d %H:%M}"
