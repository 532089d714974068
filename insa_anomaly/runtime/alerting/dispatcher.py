"""Decisions on events and notices: the alerts of every target, stored, delivered by couriers.

The dispatcher neither holds up nor ends the stream: it waits for a file that cannot be written, and
the events wait with it in the state.
"""

from collections.abc import Sequence
from threading import Event as Flag

from insa_anomaly.core.notification.alert import Alert as Event
from insa_anomaly.core.notification.alert import alerts_of
from insa_anomaly.core.notification.routing import DailyBudget, Target, decide, summaries
from insa_anomaly.errors import AlertsBroken, StateBroken
from insa_anomaly.instrumentation.alerts import (
    alert_budget_spent,
    alerts_decided,
    alerts_unwritable,
    alerts_waiting,
)
from insa_anomaly.ports.alerts import AlertStore
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.runtime.alerting.courier import Courier
from insa_anomaly.runtime.step import Step
from insa_anomaly.settings.sections import AlertsSettings

AT_ONCE = 500
IDLE_SECONDS = 0.5  # before another attempt at a file that cannot be written
LINGER_SECONDS = 0.5  # between two decisions: each is an fsync, and the log is on the same disk
SUMMARY_SECONDS = 1.0
FORGET_SECONDS = 3600.0


class AlertDispatcher(Step):
    """The thread that reads events and notices and decides which alerts go to which targets."""

    def __init__(
        self,
        state: State,
        store: AlertStore,
        targets: Sequence[Target],
        couriers: Sequence[Courier],
        alerting: AlertsSettings,
        *,
        clock: Clock,
    ) -> None:
        self._state = state
        self._store = store
        self._targets = targets
        self._couriers = couriers
        self._alerting = alerting
        self._clock = clock
        self._news = Flag()
        self._accounts: dict[str, DailyBudget] | None = None
        self._recent: set[str] = set()
        self._backlog: dict[str, int] = {}
        self._next_summary = self._next_forget = 0.0

    @property
    def trouble(self) -> str | None:
        """Targets that cannot be reached while alerts wait for them, in words."""
        silent = [
            courier.name
            for courier in self._couriers
            if courier.failing and self._backlog.get(courier.name)
        ]
        return f"alerts are not delivered to: {', '.join(silent)}" if silent else None

    def notify(self, events: Sequence[Outgoing]) -> None:
        """Note that new events are among the notices."""
        if events:
            self._news.set()

    def step(self, timeout_s: float) -> float:
        """Decide on the waiting notices; return the seconds until the next step."""
        self._news.wait(timeout_s)
        self._news.clear()
        try:
            decided = self._turn()
            if self._clock.monotonic() >= self._next_summary:
                self._summarise()
        except (AlertsBroken, StateBroken) as error:
            alerts_unwritable(str(error))
            return IDLE_SECONDS
        if decided == AT_ONCE:
            self._news.set()
        return LINGER_SECONDS if decided else 0.0

    def _turn(self) -> int:
        """Decide on the oldest notices; return their number."""
        notices = self._state.notices(AT_ONCE)
        if not notices:
            return 0
        self._decide(
            [
                one
                for notice in notices
                for one in alerts_of(
                    notice.topic, notice.payload, self._alerting.critical_confidence
                )
            ]
        )
        self._state.noticed(notices[-1].number)
        return len(notices)

    def _decide(self, found: Sequence[Event]) -> None:
        """Decide on events, except those decided before a crash kept them among the notices."""
        accounts, now = self._restored(), self._clock.now()
        alerts = [one for one in found if one.event_id not in self._recent]
        dispatch = decide(
            alerts, self._targets, self._store.known([one.cause for one in alerts]), accounts, now
        )
        recent = [one.event_id for one in found]
        self._store.keep(dispatch, recent, now)
        self._recent = set(recent)
        for name in dispatch.held.keys() - {
            name for name, account in accounts.items() if account.digest.count
        }:
            alert_budget_spent(name)
        accounts |= dispatch.accounts
        alerts_decided([name for name, _ in dispatch.sent], dispatch.held)
        self._wake()

    def _restored(self) -> dict[str, DailyBudget]:
        """Return the budgets in use, and remember decisions that a crash may bring again."""
        if self._accounts is None:
            self._recent = self._store.recent()
            self._accounts = self._store.accounts()
        return self._accounts

    def _summarise(self) -> None:
        self._next_summary = self._clock.monotonic() + SUMMARY_SECONDS
        accounts, now = self._restored(), self._clock.now()
        dispatch = summaries(self._targets, accounts, self._alerting.summary_seconds, now)
        if dispatch.sent:
            self._store.keep(dispatch, [], now)
            accounts |= dispatch.accounts
            alerts_decided([name for name, _ in dispatch.sent], dispatch.held)
            self._wake()
        self._backlog = {target.name: 0 for target in self._targets} | self._store.backlog()
        alerts_waiting(self._backlog)
        if self._clock.monotonic() >= self._next_forget:
            self._next_forget = self._clock.monotonic() + FORGET_SECONDS
            self._store.forget(now)

    def _wake(self) -> None:
        for courier in self._couriers:
            courier.wake()
