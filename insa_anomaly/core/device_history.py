"""The rows of a device that it is learnt from: bounded, and with those marked that made an episode.

While a device is young everything is learnt. Of a mature one, rows that were told as anomalous stay out of refits, until they are
more than half of the last four refit steps: then they are how it is now, and are learnt for good.
"""

from __future__ import annotations

import io
from collections import deque

import numpy as np

from insa_anomaly.core.damage import DAMAGE
from insa_anomaly.core.device import CELLS_MOST, DeviceParameters
from insa_anomaly.core.features import DAY, Bools, Floats, Ints
from insa_anomaly.errors import ModelFileError

_STEPS = 4
_NEW_RULE = 0.5


class DeviceHistory:
    """The newest rows of a device with `metrics` columns, in order of arrival."""

    def __init__(self, metrics: int, parameters: DeviceParameters) -> None:
        self._metrics, self._parameters = metrics, parameters
        most = min(parameters.history_readings_most, max(CELLS_MOST // metrics, 1))
        self._rows: deque[tuple[int, bytes, bool]] = deque(maxlen=most)
        self._ever, self._first = 0, np.inf

    def begin(self, times: Ints, values: Floats) -> None:
        """These rows, in order of time, are the history from now on: all of it ordinary."""
        self._rows.clear()
        self.add(times, values, np.zeros(len(times), np.bool_))

    def add(self, times: Ints, values: Floats, told: Bools) -> None:
        """Add n rows; `told`: those that are anomalous and part of an episode."""
        raw, width = values.tobytes(), 8 * self._metrics
        cells = (raw[at : at + width] for at in range(0, len(raw), width))
        self._rows.extend(zip(times.tolist(), cells, told.tolist(), strict=True))
        self._ever += len(times)
        self._first = min(self._first, float(times.min(initial=2**62)))

    def ordinary(self, step: float) -> tuple[Ints, Floats]:
        """What is to be learnt: times [n], values [n, metrics]; `step`: rows between refits."""
        times, values, told = self._columns()
        if self._mature(float(times.max(initial=0))) and told[-int(_STEPS * step) :].mean() <= _NEW_RULE:
            return times[~told], values[~told]
        self._rows = deque(((time, cells, False) for time, cells, _ in self._rows), maxlen=self._rows.maxlen)
        return times, values

    def _mature(self, now: float) -> bool:
        long = now - self._first >= self._parameters.mature_days * DAY
        return long and self._ever >= self._parameters.mature_readings

    def _columns(self) -> tuple[Ints, Floats, Bools]:
        values = np.frombuffer(b"".join(cells for _, cells, _ in self._rows)).reshape(-1, self._metrics)
        return np.array([time for time, _, _ in self._rows], np.int64), values, np.array([told for _, _, told in self._rows], np.bool_)

    def to_bytes(self) -> bytes:
        """One npz that needs no pickle."""
        times, values, told = self._columns()
        buffer = io.BytesIO()
        np.savez(buffer, times=times, values=values, told=told, ever=self._ever, first=self._first)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, metrics: int, parameters: DeviceParameters) -> DeviceHistory:
        """Read what `to_bytes` wrote. Raises ModelFileError."""
        out = cls(metrics, parameters)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as npz:
                out.add(npz["times"], npz["values"].reshape(-1, metrics), npz["told"])
                out._ever, out._first = int(npz["ever"]), float(npz["first"])
        except DAMAGE as error:
            raise ModelFileError("the rows kept with a device model cannot be read") from error
        return out
