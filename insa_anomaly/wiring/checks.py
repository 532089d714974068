"""What can be tried before the daemon runs: the database's schema, the connections."""

from collections.abc import Callable, Iterator
from functools import partial

from insa_anomaly.adapters.postgres.connection import Connection
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.errors import InsaError
from insa_anomaly.settings import Settings
from insa_anomaly.wiring import alerts
from insa_anomaly.wiring.broker import feeder
from insa_anomaly.wiring.database import database
from insa_anomaly.wiring.training import model_files


def migrate_database(settings: Settings) -> list[str]:
    """Apply what is missing; the names of what was applied."""
    with database(settings) as dsn:
        return migrate(dsn)


def try_connections(settings: Settings) -> Iterator[tuple[str, str | None]]:
    """Name of each thing the daemon needs, and what is wrong with it (None: nothing)."""
    needed = (("broker", _try_broker), ("database", _try_database), ("models", _try_models))
    for name, attempt in needed:
        yield name, _trouble(partial(attempt, settings))
    for name, try_out in alerts.try_out(settings):
        yield name, _trouble(try_out)


def _trouble(attempt: Callable[[], None]) -> str | None:
    try:
        attempt()
    except InsaError as error:
        return " ".join(str(error).split())  # a driver's words may take several lines
    return None


def _try_broker(settings: Settings) -> None:
    with feeder(settings.broker, "check"):
        pass


def _try_database(settings: Settings) -> None:
    with database(settings) as dsn, Connection(dsn, settings.database.deadline) as connection, connection.session() as session:
        session.execute(b"SELECT 1")


def _try_models(settings: Settings) -> None:
    with model_files(settings) as files:
        files.active()
