"""The status of a reading after `advance`."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """What became of a reading."""

    COLLECTING = 0  # there is no model yet
    WARMING = 1  # the window is not full
    SCORED = 2
    LATE = 3  # older than the newest: scored where that can be, moved nothing
    DUPLICATE = 4  # seen before: scored where that can be, moved nothing
    BAD_QUALITY = 5  # of bad quality or not finite: neither scored nor moved anything
