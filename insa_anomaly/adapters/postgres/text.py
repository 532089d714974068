"""Text and JSON from outside in the form that PostgreSQL can store: no NUL, no lone surrogates."""

import msgspec
from psycopg.types.json import Jsonb


def storable(text: str) -> str:
    """Return the text with escapes in place of the characters that PostgreSQL refuses."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def document(value: object) -> Jsonb:
    """Return the value as JSON; NaN and infinities become null, NUL becomes U+FFFD."""
    return Jsonb(value, dumps=_encoded)


def _encoded(value: object) -> bytes:
    return msgspec.json.encode(value).replace(b"\\u0000", b"\\ufffd")
