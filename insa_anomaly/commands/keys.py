"""The command `keys`: make, list and revoke keys of the admin API."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from getpass import getuser
from typing import Annotated

import msgspec
import typer

from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.keys import PostgresKeys
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.commands.options import Config, Json, load_for_use
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


def list_keys(settings: Settings) -> list[Key]:
    """Return every key, oldest first."""
    with _key_service(settings) as service:
        return service.all()


def revoke_key(settings: Settings, key_id: str) -> None:
    """Revoke a key. Raises NotFound."""
    with _key_service(settings) as service:
        service.revoke(key_id, getuser(), clock.now())


keys = typer.Typer(help="Keys for the admin API: make, list and revoke them.", no_args_is_help=True)


@keys.command("create")
def create_command(
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
    """Make a key. It is printed this once and stored nowhere."""
    settings, _ = load_for_use(config)
    lifetime = None if days is None else round(days * 86_400e6)
    key, token = create_key(settings, Wish(name, permission, lifetime, predictions_a_minute))
    typer.echo(msgspec.json.encode({"id": key.id, "key": token}).decode() if json else token)


@keys.command("list")
def list_command(config: Config = None, *, json: Json = False) -> None:
    """List the keys, without their secrets."""
    settings, _ = load_for_use(config)
    found = list_keys(settings)
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
            f"{key.id}  {key.name}  {' '.join(key.permissions)}  {ends}  last used "
            f"{_when(key.last_used_at)}"
        )
    if not found:
        typer.echo("no keys yet: make one with `insa-anomaly keys create`")


@keys.command("revoke")
def revoke_command(
    key_id: Annotated[
        str, typer.Argument(help="Its id: the part between the first two underscores.")
    ],
    config: Config = None,
) -> None:
    """Revoke a key for good; a running daemon knows within seconds."""
    settings, _ = load_for_use(config)
    revoke_key(settings, key_id)
    typer.echo(f"{key_id} is revoked")


def _when(microseconds: int | None) -> str:
    return (
        "never"
        if microseconds is None
        else f"{datetime.fromtimestamp(microseconds / 1e6, UTC):%Y-%m-%d %H:%M}"
    )
