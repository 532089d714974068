"""Redis: the latest results, and rate limits that several daemons share."""

from typing import Any

# Seconds for one wait; the driver's own timeout would be 5 s, and again on every retry.
_TIMEOUT_SECONDS = 0.25


def impatient(password: str | None) -> dict[str, Any]:
    """Return the driver's options for a single, short attempt a call."""
    # The driver takes 16 MB and 0.3 s, so it is imported only if there is a Redis.
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    waits = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), _TIMEOUT_SECONDS)
    given = {} if password is None else {"password": password}
    return {**waits, "retry": Retry(NoBackoff(), 0), **given}
