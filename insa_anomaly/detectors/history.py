"""The history that a detector refits itself on: bounded, with the readings marked that alarmed."""

from __future__ import annotations

import io
from collections import deque
from math import prod

import numpy as np

from insa_anomaly.core.npz import Arrays, unpacked
from insa_anomaly.core.units import Floats, Ints


class RefitHistory:
    """The newest `most` readings in order of arrival; rows of a device have a number of metrics."""

    def __init__(self, most: int, *metrics: int) -> None:
        self._shape = metrics
        self._rows: deque[tuple[int, bytes, float]] = deque(maxlen=most)

    def begin(self, times: Ints, values: Floats, alarms: Floats | None = None) -> None:
        """Replace the history by these readings, as `add` takes them; None: no alarms."""
        self._rows.clear()
        self.add(times, values, np.zeros(len(times)) if alarms is None else alarms)

    def add(self, times: Ints, values: Floats, alarms: Floats) -> None:
        """Add n readings; an alarm is the score of a reading that alarmed, else 0."""
        raw, width = values.tobytes(), 8 * prod(self._shape)
        cells = (raw[at : at + width] for at in range(0, len(raw), width))
        self._rows.extend(zip(times.tolist(), cells, alarms.tolist(), strict=True))

    def columns(self) -> tuple[Ints, Floats, Floats]:
        """Return times [n], values [n] or [n, metrics], and alarms [n]."""
        values = np.frombuffer(b"".join(cells for _, cells, _ in self._rows))
        return (
            np.array([time for time, _, _ in self._rows], np.int64),
            values.reshape(-1, *self._shape),
            np.array([alarm for _, _, alarm in self._rows], np.float64),
        )

    def to_bytes(self) -> bytes:
        """Return an npz that needs no pickle."""
        times, values, alarms = self.columns()
        buffer = io.BytesIO()
        np.savez(buffer, times=times, values=values, told=alarms < 0)
        return buffer.getvalue()

    def read(self, data: bytes) -> None:
        """Replace the history by the readings that `to_bytes` wrote. Raises ModelFileError."""
        unpacked(data, self._restore, "the rows kept with a device model cannot be read")

    def _restore(self, npz: Arrays) -> None:
        values = npz["values"].reshape(-1, *self._shape)
        self.begin(npz["times"], values, np.where(npz["told"], -1.0, 0.0))
