"""The database as the record reader writes it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt

from insa_anomaly.core.notification.event import Anomaly, Episode
from insa_anomaly.core.reading.reading import Raw, Rejected
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.models import ModelRow


@dataclass(frozen=True)
class Telemetry:
    """Readings as columns, n long; row i belongs to `keys[key[i]]`."""

    keys: Sequence[SeriesKey]
    key: npt.NDArray[np.int32]
    timestamp: npt.NDArray[np.int64]
    discriminator: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.int16]
    flags: npt.NDArray[np.int16]
    # by row: the timestamp as sent, where it was not accepted
    original: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """The content of a recording transaction, and the place in the log it reaches."""

    log_id: UUID
    seq: int
    telemetry: Telemetry
    anomalies: Sequence[Anomaly] = ()
    episodes: Sequence[Episode] = ()
    rejected: Sequence[Rejected] = ()
    models: Sequence[ModelRow] = ()
    # (row, anomaly): counted only if the reading, with this row of `telemetry`, is not recorded yet
    late: Sequence[tuple[int, Anomaly]] = ()


def letter_digest(raw: Raw) -> bytes:
    """Return a dead letter's identity: SHA-256 of its topic, a zero byte and its payload."""
    return sha256(raw.topic.encode(errors="backslashreplace") + b"\0" + raw.payload).digest()


class Recorder(Protocol):
    """The database as the record reader sees it. Every call has a deadline."""

    def cursor(self, log_id: UUID) -> int:
        """Return the sequence recorded for this log, 0 for none. Raises DatabaseAway."""

    def record(self, page: Page) -> None:
        """Record the page and its cursor in a single transaction; repetition changes no row.

        Raises DatabaseAway or DatabaseRefused; the latter is RowsRefused if the values of a row are
        refused.
        """
