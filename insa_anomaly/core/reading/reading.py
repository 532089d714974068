"""Raw messages, their readings, and rejected messages with their reasons."""

from enum import IntEnum, IntFlag, StrEnum

import msgspec


class Quality(IntEnum):
    """The sender's word on a value. Only GOOD is scored; all are stored."""

    GOOD = 0
    UNCERTAIN = 1
    BAD = 2


class Flag(IntFlag):
    """Origin of a reading's timestamp."""

    NONE = 0
    STAMPED = 1  # none was sent: the time of receipt
    RESTAMPED = 2  # the sent lies outside the accepted span: the time of receipt, original kept
    HISTORICAL = 4  # old by its own clock: recorded and told as such


class RejectionReason(StrEnum):
    """Reasons of rejection: a closed list, and the labels of their counter."""

    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    NOT_UTF8 = "not_utf8"
    MALFORMED = "malformed"
    EMPTY = "empty"
    NOT_A_NUMBER = "not_a_number"
    NOT_FINITE = "not_finite"
    BOOLEAN = "boolean"
    BAD_TIMESTAMP = "bad_timestamp"
    BAD_QUALITY = "bad_quality"
    BAD_ID = "bad_id"
    BAD_NAME = "bad_name"
    NO_DEVICE = "no_device"
    NO_METRIC = "no_metric"
    MISMATCH = "mismatch"
    UNKNOWN_TOPIC = "unknown_topic"
    TOO_MANY_SERIES = "too_many_series"
    UNRECORDABLE = "unrecordable"


class Raw(msgspec.Struct, frozen=True, gc=False):
    """A message as it came; `received` is in microseconds since the epoch and unique in the log."""

    topic: str
    payload: bytes
    received: int


class Reading(msgspec.Struct, frozen=True, gc=False):
    """A value of a series at a time (microseconds since the epoch)."""

    device_id: str
    metric_name: str
    timestamp: int
    value: float
    discriminator: int
    quality: int = 0
    flags: int = 0
    original: str | None = None


class Rejected(msgspec.Struct, frozen=True):
    """A message without a usable reading, with the reason and the raw bytes."""

    reason: RejectionReason
    detail: str
    raw: Raw
