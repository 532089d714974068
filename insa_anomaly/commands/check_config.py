"""The command `check-config`: mistakes, a daemon's outline, and a try of every connection."""

from collections.abc import Callable, Iterator
from functools import partial

import typer

from insa_anomaly.adapters.mqtt import MqttConnection, Terms
from insa_anomaly.adapters.postgres.connection import PostgresConnection as DatabaseConnection
from insa_anomaly.commands.options import Config, load_for_use
from insa_anomaly.commands.outline import outline
from insa_anomaly.errors import BrokerAway, InsaError
from insa_anomaly.instrumentation.logger import set_up_logging
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.secrets import secret
from insa_anomaly.wiring import alerts, storage
from insa_anomaly.wiring.broker import CONNECT_SECONDS, access
from insa_anomaly.wiring.database import database
from insa_anomaly.wiring.models import model_files


def try_connections(settings: Settings) -> Iterator[tuple[str, str, bool]]:
    """Yield the name of each outside service, the result of a try, and whether it failed."""
    attempts = {"broker": _try_broker, "database": _try_database, "models": _try_models}
    for name, attempt in attempts.items():
        yield name, *_tried(partial(attempt, settings))
    if settings.redis.url:
        yield "redis", *_tried(partial(_try_redis, settings.redis.url, settings))
    for name, try_out in alerts.try_out(settings):
        yield name, *_tried(try_out)


def _tried(attempt: Callable[[], str | None]) -> tuple[str, bool]:
    try:
        return attempt() or "ok", False
    except InsaError as error:
        return " ".join(str(error).split()), True  # a driver's words may take several lines


def _try_broker(settings: Settings) -> str | None:
    """Connect as the daemon itself and leave; no message is acknowledged.

    A broker that knows sessions by their user would take another client id of that user for the
    daemon's session, and forget what it keeps for the daemon.
    """
    if storage.taken(settings.storage.directory):
        return "not tried: a daemon is connected under this name, and /readyz says how it is"
    broker = settings.broker
    trial = MqttConnection(access(broker), Terms(expiry=broker.session_expiry), lambda _: True)
    try:
        if not trial.open(CONNECT_SECONDS):
            place = f"{broker.host}:{broker.port}"
            raise BrokerAway(f"no MQTT broker answers at {place}: {trial.trouble}")
    finally:
        trial.close()
    return None


def _try_database(settings: Settings) -> None:
    with (
        database(settings) as dsn,
        DatabaseConnection(dsn, settings.database.deadline) as connection,
        connection.session() as session,
    ):
        session.execute(b"SELECT 1")


def _try_models(settings: Settings) -> None:
    with model_files(settings) as files:
        files.active()


def _try_redis(url: str, settings: Settings) -> None:
    # The driver takes 16 MB and 0.3 s
    from insa_anomaly.adapters.redis.latest import RedisLatest  # noqa: PLC0415

    with RedisLatest(url, secret(settings.redis.password_file)) as latest:
        latest.try_out()


def check_config_command(config: Config = None) -> None:
    """Explain mistakes in the configuration, outline the daemon, and try the connections."""
    settings, source = load_for_use(config)
    set_up_logging("ERROR", settings.logging.form)  # what an attempt has to say stands in its line
    typer.echo(f"{source}: every setting is understood. A daemon of it")
    for sentence in outline(settings):
        typer.echo(f"  {sentence}")
    failed = False
    for name, said, wrong in try_connections(settings):
        failed |= wrong
        typer.echo(f"{name}: {said}")
    raise typer.Exit(1 if failed else 0)
