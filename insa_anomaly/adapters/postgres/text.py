"""What PostgreSQL can hold of text and JSON that came from outside: no NUL, no lone surrogates."""

import msgspec
from psycopg.types.json import Jsonb


def storable(text: str) -> str:
    """The text, with what PostgreSQL refuses written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def document(value: object) -> Jsonb:
    """The value as JSON; NaN and infinities become null, NUL in text the replacement character."""
    return Jsonb(value, dumps=_encoded)


def _encoded(value: object) -> bytes:
    return msgspec.json.encode(value).replace(b"\\u0000", b"\\ufffd")
