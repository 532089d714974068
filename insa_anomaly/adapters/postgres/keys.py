"""API keys: stored by digest, never in clear."""

from collections.abc import Mapping

from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.errors import NotFound
from insa_anomaly.ports.keys import Key


class PostgresKeys:
    """The table `api_keys`.

    Any thread may call; any call may raise DatabaseAway or DatabaseRefused.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._statements = queries.load()

    def all(self) -> list[Key]:
        """Return every key, expired and revoked keys included, oldest first."""
        with self._pool.session() as session:
            rows = session.execute(self._statements["api_keys"]).fetchall()
        return [Key(row[0], row[1], row[2], tuple(row[3]), *row[4:]) for row in rows]

    def add(self, key: Key) -> None:
        """Store a new key."""
        values = (
            key.id,
            key.name,
            key.digest,
            list(key.permissions),
            key.created_at,
            key.expires_at,
            key.predictions_a_minute,
        )
        with self._pool.session() as session:
            session.execute(self._statements["add_api_key"], values)

    def revoke(self, key_id: str, at: int) -> None:
        """Revoke a key from `at` on. Raises NotFound."""
        with self._pool.session() as session:
            if session.execute(self._statements["revoke_api_key"], (at, key_id)).rowcount == 0:
                raise NotFound(f"there is no key {key_id}")

    def used(self, at: Mapping[str, int]) -> None:
        """Record when the given keys were last used."""
        with self._pool.session() as session:
            session.execute(self._statements["use_api_keys"], (list(at), list(at.values())))
