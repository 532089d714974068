"""The rows of a device that it is learnt from: bounded, and with those marked that made an episode."""

from __future__ import annotations

import io
from collections import deque

import numpy as np

from insa_anomaly.core.damage import DAMAGE
from insa_anomaly.core.device.detector import CELLS_MOST
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.units import Bools, Floats, Ints
from insa_anomaly.errors import ModelFileError


class DeviceHistory:
    """The newest rows of a device with `metrics` columns, in order of arrival."""

    def __init__(self, metrics: int, parameters: Parameters) -> None:
        self._metrics = metrics
        most = min(parameters.history_readings_most, max(CELLS_MOST // metrics, 1))
        self._rows: deque[tuple[int, bytes, bool]] = deque(maxlen=most)

    def begin(self, times: Ints, values: Floats) -> None:
        """These rows, in order of time, are the history from now on: all of it ordinary."""
        self._rows.clear()
        self.add(times, values, np.zeros(len(times), np.bool_))

    def add(self, times: Ints, values: Floats, told: Bools) -> None:
        """Add n rows; `told`: those that are anomalous and part of an episode."""
        raw, width = values.tobytes(), 8 * self._metrics
        cells = (raw[at : at + width] for at in range(0, len(raw), width))
        self._rows.extend(zip(times.tolist(), cells, told.tolist(), strict=True))

    def columns(self) -> tuple[Ints, Floats, Bools]:
        """Times [n], values [n, metrics], and which rows were told [n]."""
        values = np.frombuffer(b"".join(cells for _, cells, _ in self._rows)).reshape(
            -1, self._metrics
        )
        return (
            np.array([time for time, _, _ in self._rows], np.int64),
            values,
            np.array([told for _, _, told in self._rows], np.bool_),
        )

    def to_bytes(self) -> bytes:
        """One npz that needs no pickle."""
        times, values, told = self.columns()
        buffer = io.BytesIO()
        np.savez(buffer, times=times, values=values, told=told)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, metrics: int, parameters: Parameters) -> DeviceHistory:
        """Read what `to_bytes` wrote. Raises ModelFileError."""
        out = cls(metrics, parameters)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as npz:
                out.add(npz["times"], npz["values"].reshape(-1, metrics), npz["told"])
        except DAMAGE as error:
            raise ModelFileError("the rows kept with a device model cannot be read") from error
        return out
