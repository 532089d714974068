"""The commands that make, show and end keys of the admin API."""

from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser

from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.keys import PostgresKeys
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.ports.keys import Key
from insa_anomaly.services.keys import KeyService, Wish
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring import clock
from insa_anomaly.wiring.database import database


@contextmanager
def _key_service(settings: Settings) -> Iterator[KeyService]:
    with database(settings) as dsn:
        migrate(dsn)
        with Pool(dsn, settings.database.deadline, 1) as pool:
            yield KeyService(PostgresKeys(pool), PostgresAudit(pool))


def create_key(settings: Settings, wish: Wish) -> tuple[Key, str]:
    """A new key, and the word to be presented, which is nowhere else."""
    with _key_service(settings) as service:
        return service.create(wish, getuser(), clock.now())


def list_keys(settings: Settings) -> list[Key]:
    """Every key, oldest first."""
    with _key_service(settings) as service:
        return service.all()


def revoke_key(settings: Settings, key_id: str) -> None:
    """End a key. Raises NotFound."""
    with _key_service(settings) as service:
        service.revoke(key_id, getuser(), clock.now())
