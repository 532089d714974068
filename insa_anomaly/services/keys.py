"""API keys: created, shown once, proved by a digest, ended by expiry or by hand."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from math import inf
from secrets import token_hex
from threading import Lock
from typing import Protocol

from insa_anomaly.errors import DatabaseAway, DatabaseRefused, NotFound
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.keys import Key
from insa_anomaly.services.audit import Audit, Author

_STALE_SECONDS = 30.0  # since the last attempt to read the keys; older ones are read again
_SOONEST_SECONDS = 0.1  # between two queries of the database for an unknown key
_SECRET_BYTES, _ID_BYTES = 32, 6
_USED_EVERY = 60_000_000  # microseconds between two records of the use of a key


class Permission(StrEnum):
    """Permissions of a key; `admin` includes all others, and `ml:write` includes `ml:read`."""

    READ = "ml:read"
    WRITE = "ml:write"
    TELEMETRY = "telemetry:write"
    ADMIN = "admin"


_IMPLIED = {"admin": frozenset(Permission), "ml:write": frozenset({"ml:write", "ml:read"})}


class Denied(StrEnum):
    """Reason why a key is not accepted."""

    UNKNOWN = "the key is not known"
    EXPIRED = "the key has expired"
    REVOKED = "the key was revoked"


class Keys(Protocol):
    """Storage of keys. Any call may raise DatabaseAway or DatabaseRefused."""

    def all(self) -> list[Key]:
        """Return every key, including expired and revoked keys."""

    def add(self, key: Key) -> None:
        """Store a new key."""

    def revoke(self, key_id: str, at: int) -> None:
        """Revoke the key from `at` on. Raises NotFound."""

    def used(self, at: Mapping[str, int]) -> None:
        """Store when these keys were last used."""


@dataclass(frozen=True)
class Wish:
    """Properties of a key that is to be created."""

    name: str
    permissions: Sequence[Permission]
    lifetime: int | None = None  # microseconds; None: the key does not expire
    predictions_a_minute: int | None = None


def grants(key: Key, permission: str) -> bool:
    """Report whether the key grants this permission."""
    return any(permission in _IMPLIED.get(held, {held}) for held in key.permissions)


@dataclass(frozen=True)
class KeyService:
    """Creation, listing and revocation of keys; every change is audited beforehand."""

    keys: Keys
    audit: Audit

    def create(self, wish: Wish, who: str, now: int) -> tuple[Key, str]:
        """Return a new key, and its token, which is stored nowhere else."""
        key_id = token_hex(_ID_BYTES)
        token = f"insa_{key_id}_{token_hex(_SECRET_BYTES)}"
        expires_at = None if wish.lifetime is None else now + wish.lifetime
        permissions = tuple(map(str, wish.permissions))
        made = (key_id, wish.name, _digest(token), permissions, now)
        key = Key(*made, expires_at=expires_at, predictions_a_minute=wish.predictions_a_minute)
        shown = {"name": key.name, "permissions": permissions, "expires_at": expires_at}
        self.audit.write(Author(who, "command").change("key.create", key_id, None, shown))
        self.keys.add(key)
        return key, token

    def all(self) -> list[Key]:
        """Return every key."""
        return self.keys.all()

    def revoke(self, key_id: str, who: str, now: int) -> None:
        """Revoke a key. Raises NotFound."""
        if key_id not in {key.id for key in self.keys.all()}:
            raise NotFound(f"there is no key {key_id}")
        author = Author(who, "command")
        self.audit.write(author.change("key.revoke", key_id, None, {"revoked_at": now}))
        self.keys.revoke(key_id, now)


class KeyRing:
    """Keys in memory, as of the last `refresh`.

    While the database is unreachable, the known keys stay valid; their expiry is checked here.
    """

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self.clock = clock
        self._store = keys
        self._keys: dict[str, Key] | None = None
        self._read_at = -inf
        self._used: dict[str, int] = {}
        self._unsaved: dict[str, int] = {}
        self._reading = Lock()

    def knows(self, token: str) -> bool:
        """Report whether `authenticate` answers from memory, without a query of the database."""
        if not _id(token):
            return True
        age = self.clock.monotonic() - self._read_at
        known = self._keys is not None and _id(token) in self._keys
        return self._keys is not None and age < (_STALE_SECONDS if known else _SOONEST_SECONDS)

    def authenticate(self, token: str) -> Key | Denied:
        """Return the key of this token, or the reason of its denial.

        Raises DatabaseAway or DatabaseRefused if the keys were never read.
        """
        self.look_up(token)
        return self.remembered(token)

    def look_up(self, token: str) -> None:
        """Read the keys again unless this key is known.

        Raises DatabaseAway or DatabaseRefused if the keys were never read.
        """
        try:
            if not self.knows(token):
                self.refresh()
        except (DatabaseAway, DatabaseRefused):
            if self._keys is None:
                raise

    def remembered(self, token: str) -> Key | Denied:
        """Return the key of this token, or the reason of its denial, as of the last `refresh`.

        Raises DatabaseAway if the keys were never read.
        """
        if self._keys is None and _id(token):
            raise DatabaseAway("the keys have not been read yet")
        key = (self._keys or {}).get(_id(token))
        now = self.clock.now()
        if key is None or not hmac.compare_digest(key.digest, _digest(token)):
            return Denied.UNKNOWN
        if key.revoked_at is not None:
            return Denied.REVOKED
        if key.expires_at is not None and key.expires_at <= now:
            return Denied.EXPIRED
        if now - self._used.get(key.id, key.last_used_at or 0) > _USED_EVERY:
            self._used[key.id] = self._unsaved[key.id] = now
        return key

    def refresh(self) -> None:
        """Read the keys again, and store which were used.

        Raises DatabaseAway or DatabaseRefused.
        """
        with self._reading:
            self._read_at = self.clock.monotonic()
            unsaved = dict(self._unsaved)
            if unsaved:
                self._store.used(unsaved)
                for key_id in unsaved:
                    self._unsaved.pop(key_id, None)
            self._keys = {key.id: key for key in self._store.all()}


def _id(token: str) -> str:
    parts = token.split("_")
    return parts[1] if len(parts) == 3 and parts[0] == "insa" else ""


def _digest(token: str) -> str:
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
