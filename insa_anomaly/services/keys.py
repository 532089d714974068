"""API keys: made, shown once, proved by a digest, ended by time or by hand."""

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from math import inf
from secrets import token_hex
from threading import Lock
from time import monotonic
from typing import Protocol

from insa_anomaly.errors import DatabaseAway, DatabaseRefused, NotFound
from insa_anomaly.ports import Key
from insa_anomaly.services.audit import Audit, Author

_STALE_SECONDS = (
    30.0  # since whoever refreshes last tried: then they are read again before a key is taken
)
_SOONEST_SECONDS = 0.1  # between two looks into the database for a key that is not known
_SECRET_BYTES, _ID_BYTES = 32, 6
_USED_EVERY = 60_000_000  # microseconds between two notes that a key was used
_IMPLIED = {
    "admin": frozenset({"admin", "ml:read", "ml:write", "telemetry:write"}),
    "ml:write": frozenset({"ml:write", "ml:read"}),
}


class Permission(StrEnum):
    """What a key may be good for; `admin` is good for everything, and who may write models may read them."""

    READ = "ml:read"
    WRITE = "ml:write"
    TELEMETRY = "telemetry:write"
    ADMIN = "admin"


class Denied(StrEnum):
    """Why a key is not taken."""

    UNKNOWN = "the key is not known"
    EXPIRED = "the key has expired"
    REVOKED = "the key was revoked"


class Keys(Protocol):
    """Where keys are stored. Any call may raise DatabaseAway or DatabaseRefused."""

    def all(self) -> list[Key]:
        """Every key, expired and revoked ones included."""

    def add(self, key: Key) -> None:
        """Store a new key."""

    def revoke(self, key_id: str, at: int) -> None:
        """The key is good for nothing from `at` on. Raises NotFound."""

    def used(self, at: Mapping[str, int]) -> None:
        """Note when these keys were last used."""


@dataclass(frozen=True)
class Wish:
    """What a new key is to be."""

    name: str
    permissions: Sequence[Permission]
    lifetime: int | None = None  # microseconds, None: it does not expire
    predictions_a_minute: int | None = None


def grants(key: Key, permission: str) -> bool:
    """Whether the key is good for this."""
    return any(permission in _IMPLIED.get(held, {held}) for held in key.permissions)


class KeyService:
    """Makes, lists and revokes keys, each change with its line in the audit log before it."""

    def __init__(self, keys: Keys, audit: Audit) -> None:
        self._keys = keys
        self._audit = audit

    def create(self, wish: Wish, who: str, now: int) -> tuple[Key, str]:
        """A new key, and the word to be presented, which is nowhere else."""
        key_id = token_hex(_ID_BYTES)
        token = f"insa_{key_id}_{token_hex(_SECRET_BYTES)}"
        expires_at = None if wish.lifetime is None else now + wish.lifetime
        permissions = tuple(str(permission) for permission in wish.permissions)
        key = Key(
            key_id,
            wish.name,
            _digest(token),
            permissions,
            now,
            expires_at,
            predictions_a_minute=wish.predictions_a_minute,
        )
        shown = {"name": key.name, "permissions": permissions, "expires_at": expires_at}
        self._audit.write(Author(who, "command").change("key.create", key_id, None, shown))
        self._keys.add(key)
        return key, token

    def all(self) -> list[Key]:
        """Every key."""
        return self._keys.all()

    def revoke(self, key_id: str, who: str, now: int) -> None:
        """End a key. Raises NotFound."""
        if key_id not in {key.id for key in self._keys.all()}:
            raise NotFound(f"there is no key {key_id}")
        self._audit.write(
            Author(who, "command").change("key.revoke", key_id, None, {"revoked_at": now})
        )
        self._keys.revoke(key_id, now)


class KeyRing:
    """The keys as the API asks for them: in memory, and as old as the last `refresh`.

    With the database away the keys that are known go on being good; expiry is watched here.
    """

    def __init__(self, keys: Keys, clock: Callable[[], int]) -> None:
        self._store = keys
        self._clock = clock
        self._keys: dict[str, Key] | None = None
        self._read_at = -inf
        self._used: dict[str, int] = {}
        self._unsaved: dict[str, int] = {}
        self._reading = Lock()

    def knows(self, token: str) -> bool:
        """Whether `authenticate` answers from memory, without asking the database."""
        age = monotonic() - self._read_at
        return (
            self._keys is not None
            and age < _STALE_SECONDS
            and (_id(token) in self._keys or age < _SOONEST_SECONDS)
        )

    def authenticate(self, token: str) -> Key | Denied:
        """The key of this word. Raises DatabaseAway or DatabaseRefused where no keys could ever be read."""
        if not self.knows(token):
            self._look_again()
        key = (self._keys or {}).get(_id(token))
        now = self._clock()
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
        """Read the keys anew, and save which were used. Raises DatabaseAway or DatabaseRefused."""
        with self._reading:
            self._read_at = monotonic()
            unsaved = dict(self._unsaved)
            if unsaved:
                self._store.used(unsaved)
                for key_id in unsaved:
                    self._unsaved.pop(key_id, None)
            self._keys = {key.id: key for key in self._store.all()}

    def _look_again(self) -> None:
        try:
            self.refresh()
        except (DatabaseAway, DatabaseRefused):
            if self._keys is None:
                raise


def _id(token: str) -> str:
    parts = token.split("_")
    return parts[1] if len(parts) == 3 and parts[0] == "insa" else ""


def _digest(token: str) -> str:
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
