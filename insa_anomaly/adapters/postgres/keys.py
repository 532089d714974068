"""API keys: stored by digest, never in clear."""

from collections.abc import Mapping

from insa_anomaly.adapters.postgres.pool import PooledTables
from insa_anomaly.errors import NotFound
from insa_anomaly.ports.keys import Key


class PostgresKeys(PooledTables):
    """The table `api_keys`."""

    def all(self) -> list[Key]:
        """Return every key, expired and revoked keys included, oldest first."""
        return [
            Key(key_id, name, digest, tuple(permissions), *rest)
            for key_id, name, digest, permissions, *rest in self._rows("api_keys")
        ]

    def add(self, key: Key) -> None:
        """Store a new key."""
        known = (key.id, key.name, key.digest, list(key.permissions))
        limits = (key.created_at, key.expires_at, key.predictions_a_minute)
        self._change("add_api_key", (*known, *limits))

    def revoke(self, key_id: str, at: int) -> None:
        """Revoke a key from `at` on. Raises NotFound."""
        if self._change("revoke_api_key", (at, key_id)) == 0:
            raise NotFound(f"there is no key {key_id}")

    def used(self, at: Mapping[str, int]) -> None:
        """Record when the given keys were last used."""
        self._change("use_api_keys", (list(at), list(at.values())))
