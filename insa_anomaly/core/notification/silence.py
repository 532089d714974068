"""Silence of devices that no longer report as usual, and of the stream as a whole.

While the daemon could not receive (it starts, the broker is unreachable, the process was
suspended), no device was silent: every device has its allowed time from then on, and a single
notice reports the stream. Times are seconds of a clock that only moves forward.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from insa_anomaly.core.notification.cadence import Cadence, Patience, learnt, limits, overdue
from insa_anomaly.core.units import Ints

FEWEST_TOGETHER = 3  # devices that make a stream
SURE = 1.2  # times what it is allowed: until then we wait whether others fall silent with it

# Device (None: the stream) -> for how many seconds, and the reason in words.
Silent = dict[str | None, tuple[float, str]]


class Silence:
    """Watch over the cadence of every series, numbered in the order of their admission."""

    def __init__(self, patience: Patience, now: float) -> None:
        self._patience = patience
        self._devices: dict[str, int] = {}
        self._device = np.zeros(0, np.int64)  # of each series
        self._last = np.zeros(0)
        # Nothing heard since we began to listen: the pause before says nothing.
        self._fresh = np.zeros(0, bool)
        self.series = Cadence.unknown(0)
        self.stream = Cadence.unknown(1)
        self._stream_last = now
        self._stream_fresh = True
        self._deaf_since = self._grace = now  # before the latter nobody is missed

    def admit(self, devices: Sequence[str], known: Cadence, now: float) -> None:
        """Admit series of these devices and cadence; their allowed time begins now."""
        begin, n = len(self._device), len(self._device) + len(devices)
        numbers = [self._devices.setdefault(device, len(self._devices)) for device in devices]
        self._device = np.concatenate([self._device, np.array(numbers, np.int64)])
        self._last = np.concatenate([self._last, np.full(n - begin, now)])
        self._fresh = np.concatenate([self._fresh, np.ones(n - begin, bool)])
        self.series = self.series.padded(n)
        self.series.put(np.arange(begin, n), known)

    def hear(self, numbers: Ints, now: float) -> None:
        """Note that these series reported."""
        if not len(numbers):
            return
        patience = self._patience
        known = numbers[~self._fresh[numbers]]
        rows, pauses = self.series.rows(known), now - self._last[known]
        self.series.put(known, learnt(rows, pauses, patience.device_seconds, patience))
        if not self._stream_fresh:
            pause = np.array([now - self._stream_last])
            self.stream = learnt(self.stream, pause, patience.stream_seconds, patience)
        self._fresh[numbers], self._stream_fresh = False, False
        self._last[numbers] = self._stream_last = now

    def look(self, was: Mapping[str | None, object], now: float, *, listening: bool) -> Silent:
        """Return the silent devices now; `was` holds the devices silent before.

        Time without `listening` does not count.
        """
        silent: Silent = dict.fromkeys(was, (0.0, ""))
        if not listening:
            return silent | self._deaf(now)
        self._deaf_since = now
        age = now - (self._grace if self._stream_fresh else self._stream_last)
        if age > float(limits(self.stream, self._patience.stream_seconds, self._patience)[0]):
            self._grace = now
            return silent | {None: (age, f"nothing has come for {age:.0f} s")}
        if None in was and self._stream_fresh:  # it is back once something came
            self._grace = now
            return silent
        return self._of_devices(was, now)

    def listen_anew(self, now: float) -> None:
        """Start anew after a time in which no reading could arrive."""
        self._fresh[:], self._stream_fresh, self._grace = True, True, now

    def _deaf(self, now: float) -> Silent:
        away, why = now - self._deaf_since, "the broker is away, or our disk takes nothing"
        self.listen_anew(now)
        reason = f"nothing could be heard for {away:.0f} s: {why}"
        return {None: (away, reason)} if away > self._patience.stream_seconds else {}

    def _of_devices(self, was: Mapping[str | None, object], now: float) -> Silent:
        """Return the overdue devices, or the stream if many are overdue together."""
        devices, ages = len(self._devices), now - np.maximum(self._last, self._grace)
        silent_for, allowed = overdue(ages, self._device, devices, self.series, self._patience)
        heard = np.zeros(devices, bool)
        heard[self._device[~self._fresh]] = True
        talking = np.flatnonzero(heard & (silent_for <= allowed))
        back = self._named(talking, {}) if was else {}
        silent: Silent = {name: (0.0, "") for name in was if name is not None and name not in back}
        late = self._named(np.flatnonzero(silent_for > allowed), silent)
        share = self._patience.stream_share * devices / (2 if None in was else 1)
        if len(late) >= max(FEWEST_TOGETHER, share):
            longest = float(min(silent_for[number] for number in late.values()))
            return silent | {None: (longest, f"{len(late)} of {devices} devices are silent")}
        for name, number in late.items():
            age = float(silent_for[number])
            if age > SURE * allowed[number]:
                silent[name] = age, f"nothing has come of it for {age:.0f} s"
        return silent

    def _named(self, numbers: Iterable[int], but: Silent) -> dict[str, int]:
        names = list(self._devices)
        return {names[number]: number for number in map(int, numbers) if names[number] not in but}
