"""API keys as they are stored."""

import msgspec


class Key(msgspec.Struct, frozen=True):
    """An API key as it is stored: known by its id, proved by a digest."""

    id: str
    name: str
    digest: str
    permissions: tuple[str, ...]
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None
    predictions_a_minute: int | None = None  # None: the limit of the settings
