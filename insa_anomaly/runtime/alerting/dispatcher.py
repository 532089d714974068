"""Decisions on events and notices: the alerts of every target, stored, delivered by couriers.

The dispatcher neither holds up nor ends the stream: it waits for a file that cannot be written, and
the events wait with it in the state.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from threading import Event as Flag

from insa_anomaly.core.notification.alert import Alert as Event
from insa_anomaly.core.notification.alert import alerts_of
from insa_anomaly.core.notification.routing import DailyBudget, Target, decide, summaries
from insa_anomaly.errors import AlertsBroken, StateBroken
from insa_anomaly.instrumentation import alerts as instruments
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


@dataclass(eq=False)
class AlertDispatcher(Step):
    """The thread that reads events and notices and decides which alerts go to which targets."""

    state: State
    store: AlertStore
    targets: Sequence[Target]
    couriers: Sequence[Courier]
    alerting: AlertsSettings
    _: KW_ONLY
    clock: Clock

    def __post_init__(self) -> None:
        self._news = Flag()
        self._accounts: dict[str, DailyBudget] | None = None
        self._recent: set[str] = set()
        self._backlog: dict[str, int] = {}
        self._next_summary = self._next_forget = 0.0

    @property
    def trouble(self) -> str | None:
        """Targets that cannot be reached while alerts wait for them, in words."""
        failing = [courier.name for courier in self.couriers if courier.failing]
        silent = ", ".join(name for name in failing if self._backlog.get(name))
        return f"alerts are not delivered to: {silent}" if silent else None

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
            if self.clock.monotonic() >= self._next_summary:
                self._summarise()
        except (AlertsBroken, StateBroken) as error:
            instruments.alerts_unwritable(str(error))
            return IDLE_SECONDS
        if decided == AT_ONCE:
            self._news.set()
        return LINGER_SECONDS if decided else 0.0

    def _turn(self) -> int:
        """Decide on the oldest notices; return their number."""
        notices = self.state.notices(AT_ONCE)
        if not notices:
            return 0
        found: list[Event] = []
        for notice in notices:
            found += alerts_of(notice.topic, notice.payload, self.alerting.critical_confidence)
        self._decide(found)
        self.state.noticed(notices[-1].number)
        return len(notices)

    def _decide(self, found: Sequence[Event]) -> None:
        """Decide on events, except those decided before a crash kept them among the notices."""
        accounts, now = self._restored(), self.clock.now()
        alerts = [one for one in found if one.event_id not in self._recent]
        known = self.store.known([one.cause for one in alerts])
        dispatch = decide(alerts, self.targets, known, accounts, now)
        recent = [one.event_id for one in found]
        self.store.keep(dispatch, recent, now)
        self._recent = set(recent)
        spent = {name for name, account in accounts.items() if account.digest.count}
        for name in dispatch.held.keys() - spent:
            instruments.alert_budget_spent(name)
        accounts |= dispatch.accounts
        instruments.alerts_decided([name for name, _ in dispatch.sent], dispatch.held)
        self._wake()

    def _restored(self) -> dict[str, DailyBudget]:
        """Return the budgets in use, and remember decisions that a crash may bring again."""
        if self._accounts is None:
            self._recent = self.store.recent()
            self._accounts = self.store.accounts()
        return self._accounts

    def _summarise(self) -> None:
        self._next_summary = self.clock.monotonic() + SUMMARY_SECONDS
        accounts, now = self._restored(), self.clock.now()
        dispatch = summaries(self.targets, accounts, self.alerting.summary_seconds, now)
        if dispatch.sent:
            self.store.keep(dispatch, [], now)
            accounts |= dispatch.accounts
            instruments.alerts_decided([name for name, _ in dispatch.sent], dispatch.held)
            self._wake()
        self._backlog = {target.name: 0 for target in self.targets} | self.store.backlog()
        instruments.alerts_waiting(self._backlog)
        if self.clock.monotonic() >= self._next_forget:
            self._next_forget = self.clock.monotonic() + FORGET_SECONDS
            self.store.forget(now)

    def _wake(self) -> None:
        for courier in self.couriers:
            courier.wake()
