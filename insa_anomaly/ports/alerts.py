"""Decided alerts, from the decision to the delivery."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from insa_anomaly.core.notification.alert import Alert
from insa_anomaly.core.notification.cadence import Cadence
from insa_anomaly.core.notification.routing import DailyBudget, Dispatch, KnownCause
from insa_anomaly.core.reading.series_key import SeriesKey


class PendingAlert(msgspec.Struct, frozen=True):
    """An alert that waits for delivery to a target.

    `decided_at` is in microseconds; `attempts` counts failed attempts.
    """

    number: int
    target: str
    alert: Alert
    decided_at: int
    attempts: int = 0


class DeadAlert(msgspec.Struct, frozen=True):
    """An alert that was given up at `given_up_at` (microseconds).

    `alert` is None if its stored form is no longer readable.
    """

    number: int
    target: str
    alert: Alert | None
    given_up_at: int
    reason: str


class SilenceState(msgspec.Struct, frozen=True):
    """Silent devices, and since when (microseconds); the stream as a whole is `None`."""

    since: dict[str | None, int] = {}


class AlertStore(Protocol):
    """Decided alerts that are not delivered yet.

    Any thread may call. Any call may raise AlertsBroken; the store is then unchanged.
    """

    def recent(self) -> set[str]:
        """Return the event ids of the last decision: after a crash these events come again."""

    def known(self, causes: Sequence[str]) -> dict[tuple[str, str], KnownCause]:
        """Return the state of these causes at every target, by (target, cause)."""

    def accounts(self) -> dict[str, DailyBudget]:
        """Return today's account of every target."""

    def keep(self, dispatch: Dispatch, event_ids: Sequence[str], now: int) -> None:
        """Store the whole decision at once, durably."""

    def next(self, target: str, now: int) -> PendingAlert | None:
        """Return the alert that is due first, if any; alerts of the same cause keep their order."""

    def done(self, one: PendingAlert) -> None:
        """Record that the alert was delivered."""

    def postpone(self, one: PendingAlert, due: int) -> None:
        """Record a failed attempt; the next attempt is at `due`."""

    def hasten(self, target: str) -> None:
        """Make all alerts of a target due, because the target answers again."""

    def give_up(self, one: PendingAlert, reason: str, now: int) -> None:
        """Give up an alert, which becomes a dead letter."""

    def backlog(self) -> dict[str, int]:
        """Count the alerts that wait for each target."""

    def forget(self, now: int) -> None:
        """Drop causes without news for long, and old dead letters."""

    def cadences(self) -> tuple[list[SeriesKey], Cadence]:
        """Return how often series report; the stream as a whole has two empty names."""

    def keep_cadences(self, keys: Sequence[SeriesKey], cadence: Cadence) -> None:
        """Store how often these series report, a row each."""

    def silences(self) -> SilenceState:
        """Return the silences stored last."""

    def keep_silences(self, silences: SilenceState) -> None:
        """Store the current silences."""
