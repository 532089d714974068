"""End of a certificate, read from its bytes: the standard library reads only a verified peer's.

X.509 is DER: elements of a tag, a length and a content, which for a sequence is elements again (RFC
5280, section 4.1).
"""

import re
from base64 import b64decode
from datetime import UTC, datetime, timedelta

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_VERSION, _UTC_TIME = 0xA0, 0x17
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ends_of_pem(text: bytes) -> list[int]:
    """Return the ends of the certificates in a file, in microseconds since the epoch.

    Keys and other blocks are skipped.
    """
    return [end for block in _BLOCK.findall(text) if (end := expires(_decoded(block))) is not None]


def _decoded(block: bytes) -> bytes:
    try:
        return b64decode(block)
    except ValueError:
        return b""


def expires(der: bytes) -> int | None:
    """Return the end of a certificate, microseconds since the epoch; None for other bytes."""
    try:
        return (_not_after(der) - _EPOCH) // timedelta(microseconds=1)
    except (IndexError, ValueError):
        return None


def _not_after(der: bytes) -> datetime:
    certificate, _ = _content(der, 0)
    at, _ = _content(der, certificate)
    # Version, where it is said, serial number, algorithm, issuer.
    for _ in range(4 if der[at] == _VERSION else 3):
        _, at = _content(der, at)
    not_before, _ = _content(der, at)
    _, at = _content(der, not_before)
    start, end = _content(der, at)
    text = der[start:end].decode("ascii")
    if der[at] == _UTC_TIME:  # two digits of the year
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element at a position begins and ends."""
    length, at = der[at + 1], at + 2
    if length & 0x80:
        digits = length & 0x7F
        length, at = int.from_bytes(der[at : at + digits], "big"), at + digits
    return at, at + length
