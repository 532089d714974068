"""The store of alerts in memory."""

import threading
from collections import Counter
from collections.abc import Sequence
from itertools import count

import msgspec
import numpy as np

from insa_anomaly.core.notification.cadence import Cadence
from insa_anomaly.core.notification.routing import DailyBudget, Dispatch, KnownCause
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.alerts import PendingAlert, SilenceState


class MemoryAlerts:
    """The port `AlertStore`; `dead` holds the dead letters with their reasons."""

    def __init__(self) -> None:
        self.dead: list[tuple[PendingAlert, str]] = []
        self._lock = threading.Lock()
        self._recent: set[str] = set()
        self._known: dict[tuple[str, str], KnownCause] = {}
        self._accounts: dict[str, DailyBudget] = {}
        self._waiting: dict[int, tuple[int, PendingAlert]] = {}  # by number: due time, alert
        self._numbers = count(1)
        self._cadences: dict[SeriesKey, Cadence] = {}
        self._silences = SilenceState()

    def recent(self) -> set[str]:
        """Return the event ids of the last decision."""
        return set(self._recent)

    def known(self, causes: Sequence[str]) -> dict[tuple[str, str], KnownCause]:
        """Return the state of these causes at every target, by (target, cause)."""
        return {key: known for key, known in self._known.items() if key[1] in set(causes)}

    def accounts(self) -> dict[str, DailyBudget]:
        """Return today's account of every target."""
        return dict(self._accounts)

    def keep(self, dispatch: Dispatch, event_ids: Sequence[str], now: int) -> None:
        """Store the whole dispatch at once."""
        with self._lock:
            for target, alert in dispatch.sent:
                number = next(self._numbers)
                self._waiting[number] = 0, PendingAlert(number, target, alert, now)
            for key, known in dispatch.known.items():
                self._known.pop(key, None)
                if known is not None:
                    self._known[key] = known
            self._accounts |= dispatch.accounts
            self._recent = set(event_ids) or self._recent

    def next(self, target: str, now: int) -> PendingAlert | None:
        """Return the alert that is due first, if any; alerts of the same cause keep their order."""
        with self._lock:
            first: dict[str, tuple[int, PendingAlert]] = {}
            for at, one in self._waiting.values():
                if one.target == target:
                    first.setdefault(one.alert.cause, (at, one))
            due = [(at, one.number, one) for at, one in first.values() if at <= now]
            return min(due, key=lambda one: one[:2])[2] if due else None

    def done(self, one: PendingAlert) -> None:
        """Record that the alert was delivered."""
        with self._lock:
            self._waiting.pop(one.number, None)

    def postpone(self, one: PendingAlert, due: int) -> None:
        """Record a failed attempt; the next attempt is at `due`."""
        with self._lock:
            known = self._waiting[one.number][1]
            tried = msgspec.structs.replace(known, attempts=known.attempts + 1)
            self._waiting[one.number] = due, tried

    def hasten(self, target: str) -> None:
        """Make all alerts of a target due, because the target answers again."""
        with self._lock:
            for number, (at, one) in self._waiting.items():
                self._waiting[number] = (0 if one.target == target else at), one

    def give_up(self, one: PendingAlert, reason: str, now: int) -> None:
        """Give up an alert, which becomes a dead letter."""
        del now
        self.done(one)
        self.dead.append((one, reason))

    def backlog(self) -> dict[str, int]:
        """Count the alerts that wait for each target."""
        with self._lock:
            return dict(Counter(one.target for _, one in self._waiting.values()))

    def forget(self, now: int) -> None:
        """Keep everything, because no entry grows old here."""

    def cadences(self) -> tuple[list[SeriesKey], Cadence]:
        """Return how often series report."""
        rows = list(self._cadences.values())
        names = ("longest", "pauses", "span")
        columns = ([float(getattr(row, name)[0]) for row in rows] for name in names)
        return list(self._cadences), Cadence(*map(np.array, columns))

    def keep_cadences(self, keys: Sequence[SeriesKey], cadence: Cadence) -> None:
        """Store how often these series report, a row each."""
        self._cadences |= {key: cadence.rows(np.array([row])) for row, key in enumerate(keys)}

    def silences(self) -> SilenceState:
        """Return the silences stored last."""
        return self._silences

    def keep_silences(self, silences: SilenceState) -> None:
        """Store the current silences."""
        self._silences = silences
