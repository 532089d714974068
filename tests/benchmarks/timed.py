"""The daemon with a record of each group commit of its intake.

`python -m tests.benchmarks.timed FILE run ...`
"""

import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple
from unittest.mock import patch

import numpy as np

from insa_anomaly.cli import main
from insa_anomaly.instrumentation.intake import messages_logged
from insa_anomaly.runtime import intake

_ROW = struct.Struct("=dqd")
_COLUMNS = np.dtype([("ended", "=f8"), ("messages", "=i8"), ("seconds", "=f8")])


class Span(NamedTuple):
    """A span of time, in seconds since the epoch."""

    begin: float
    end: float


def install(file: BinaryIO) -> None:
    """Record each commit: its time, its number of messages, and the seconds from receipt to disk.

    The buckets of the histogram are too coarse for a comparison.
    """
    logged: Callable[[int, float], None] = messages_logged

    def noted(count: int, seconds: float) -> None:
        logged(count, seconds)
        file.write(_ROW.pack(time.time(), count, seconds))

    patch.object(intake, "messages_logged", noted).start()


def p99(path: Path, spans: list[Span]) -> float:
    """Return the seconds from receipt to disk that 99 of 100 messages of these spans need."""
    rows = np.frombuffer(path.read_bytes(), _COLUMNS)
    within = np.zeros(len(rows), bool)
    for span in spans:
        within |= (span.begin <= rows["ended"]) & (rows["ended"] < span.end)
    rows = np.sort(rows[within], order="seconds")
    messages = np.cumsum(rows["messages"])
    return float(rows["seconds"][np.searchsorted(messages, 0.99 * messages[-1])])


if __name__ == "__main__":
    with Path(sys.argv.pop(1)).open("ab", buffering=0) as opened:
        install(opened)
        main()
