"""Status of a reading after `advance`."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Treatment of a reading."""

    COLLECTING = 0  # there is no model yet
    WARMING = 1  # the window is not full
    SCORED = 2
    LATE = 3  # older than the newest: scored if possible, the window did not move
    DUPLICATE = 4  # seen before: scored if possible, the window did not move
    BAD_QUALITY = 5  # of bad quality or not finite: not scored, the window did not move
