"""Routing of alerts: within the budget, every alert sent or counted, no cause sent twice."""

from collections import Counter
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.core.notification.alert import SUMMARY, Alert, Severity
from insa_anomaly.core.notification.routing import (
    SHOWN,
    DailyBudget,
    Dispatch,
    KnownCause,
    Route,
    Target,
    decide,
    summaries,
)
from insa_anomaly.core.units import DAY
from tests.core.alerts import DAY_ZERO, HOUR, an_alert

ALL = Route(kinds=(), severity="info")
events = st.builds(
    an_alert,
    st.integers(0, 5),
    st.sampled_from(["a", "b", "c", ""]),
    st.sampled_from(["opened", "worsened", "closed"]),
    st.sampled_from(list(Severity)),
)
batches = st.lists(st.tuples(st.integers(0, 10 * HOUR), st.lists(events, max_size=8)), max_size=12)


@dataclass
class Desk:
    """The state of a dispatcher and the alerts that it has sent."""

    targets: list[Target]
    after: float = 3600.0
    known: dict[tuple[str, str], KnownCause] = field(default_factory=dict)
    accounts: dict[str, DailyBudget] = field(default_factory=dict)
    sent: list[tuple[int, str, Alert]] = field(default_factory=list)
    held: Counter[str] = field(default_factory=Counter)

    def take(self, alerts: list[Alert], now: int) -> list[tuple[str, Alert]]:
        """Decide on incoming alerts and return the alerts to send."""
        return self._keep(decide(alerts, self.targets, self.known, self.accounts, now), now)

    def look(self, now: int) -> list[tuple[str, Alert]]:
        """Return the summaries that are due at `now`."""
        return self._keep(summaries(self.targets, self.accounts, self.after, now), now)

    def _keep(self, decision: Dispatch, now: int) -> list[tuple[str, Alert]]:
        for key, known in decision.known.items():
            self.known.pop(key, None)
            if known is not None:
                self.known[key] = known
        self.accounts |= decision.accounts
        self.sent += [(now, name, alert) for name, alert in decision.sent]
        self.held += decision.held
        return decision.sent


def mail(budget: int = 5, *routes: Route) -> Desk:
    """Return a desk with a single mailbox."""
    return Desk([Target("mail", routes or (ALL,), budget)])


# --------------------------------------------------------------------------------------------- laws
@given(batches=batches, budget=st.integers(2, 6))
def test_law_no_day_has_more_than_its_budget(
    batches: list[tuple[int, list[Alert]]], budget: int
) -> None:
    """A target receives at most its budget of alerts a day, summaries included."""
    desk, now = mail(budget), DAY_ZERO
    for pause, alerts in batches:
        now += pause
        desk.take(alerts, now)
        desk.look(now)
    days = Counter(at // DAY for at, _, _ in desk.sent)
    assert all(count <= budget for count in days.values())


@given(batches=batches, budget=st.integers(2, 6))
def test_law_what_is_held_back_is_in_exactly_one_summary(
    batches: list[tuple[int, list[Alert]]], budget: int
) -> None:
    """Every held alert is counted in a single summary, sent or pending."""
    desk, now = mail(budget), DAY_ZERO
    for pause, alerts in batches:
        now += pause
        desk.take(alerts, now)
        desk.look(now)
    told = sum(alert.event["count"] for _, _, alert in desk.sent if alert.kind == SUMMARY)
    waits = desk.accounts["mail"].digest.count if desk.accounts else 0
    assert told + waits == desk.held["mail"]


@given(alerts=st.lists(events, max_size=30))
def test_law_a_cause_is_told_only_when_it_is_worse(alerts: list[Alert]) -> None:
    """Alerts sent between two endings of a cause grow in severity."""
    desk = mail(1000)
    worst: dict[str, int] = {}
    for alert in alerts:
        sent = [one for _, one in desk.take([alert], DAY_ZERO)]
        if alert.ends:
            assert bool(sent) == (worst.pop(alert.cause, None) is not None)
        else:
            assert bool(sent) == (alert.severity > worst.get(alert.cause, -1))
            worst[alert.cause] = max(alert.severity, worst.get(alert.cause, -1))


@given(alerts=st.lists(events, max_size=30), cut=st.integers(0, 30), budget=st.integers(2, 50))
def test_law_it_does_not_matter_how_they_come(alerts: list[Alert], cut: int, budget: int) -> None:
    """A single batch and two batches lead to the same sent and held alerts."""
    one, two = mail(budget), mail(budget)
    one.take(alerts, DAY_ZERO)
    two.take(alerts[:cut], DAY_ZERO)
    two.take(alerts[cut:], DAY_ZERO)
    assert (one.sent, one.held, one.known, one.accounts if alerts else {}) == (
        two.sent,
        two.held,
        two.known,
        two.accounts if alerts else {},
    )


# -------------------------------------------------------------------------------------------- cases
def test_a_storm_is_some_alerts_and_one_summary() -> None:
    """Ten thousand episodes lead to nine mails about the first and a summary of the rest.

    The summary counts alerts by device and by kind.
    """
    desk = mail(10)
    for minute in range(20):
        desk.take(
            [an_alert(minute * 500 + i, device=f"press-{i % 50}") for i in range(500)],
            DAY_ZERO + minute * 3_000_000,
        )
    assert desk.look(DAY_ZERO + HOUR - 1) == []
    ((_, summary),) = desk.look(DAY_ZERO + 2 * HOUR)
    assert len(desk.sent) == 10
    assert summary.event["count"] == 10_000 - 9
    assert summary.event["kinds"] == {"opened": 9991}
    assert sum(summary.event["devices"].values()) == 9991
    assert len(summary.event["lines"]) < 3 * SHOWN


def test_what_comes_after_the_summary_waits_for_the_next_day() -> None:
    """Alerts held after the summary of a day are summarised on the next day."""
    desk = mail(2)
    desk.take([an_alert(i) for i in range(5)], DAY_ZERO)
    assert [alert.kind for _, alert in desk.look(DAY_ZERO + 2 * HOUR)] == [SUMMARY]
    desk.take([an_alert(i) for i in range(10, 13)], DAY_ZERO + 3 * HOUR)
    assert desk.look(DAY_ZERO + 23 * HOUR) == []
    ((_, summary),) = desk.look(DAY_ZERO + 25 * HOUR)
    assert summary.event["count"] == 3


def test_the_devices_of_a_summary_are_bounded() -> None:
    """A digest stores at most 1000 device names and counts the alerts of all others together."""
    desk = mail(2)
    desk.take([an_alert(i, device=f"press-{i}") for i in range(5000)], DAY_ZERO)
    digest = desk.accounts["mail"].digest
    assert len(digest.devices) == 1001
    assert sum(digest.devices.values()) == digest.count == 4999
    assert len(msgspec.msgpack.encode(digest)) < 100_000


def test_the_end_of_what_was_held_back_is_not_told() -> None:
    """The end of an episode whose beginning was held back is not sent."""
    desk = mail(2)
    desk.take([an_alert(1, "a"), an_alert(2, "b")], DAY_ZERO)
    assert desk.take([an_alert(3, "b", "closed")], DAY_ZERO) == []
    assert desk.known == {("mail", "a"): KnownCause(Severity.WARNING, held=False)}


def test_what_is_historical_opens_nothing() -> None:
    """A historical alert is never sent as a beginning, but may end a cause that was sent."""
    desk = mail()
    late = msgspec.structs.replace(an_alert(1, "a"), historical=True)
    assert desk.take([late], DAY_ZERO) == []
    desk.take([an_alert(1, "a")], DAY_ZERO)
    ended = msgspec.structs.replace(an_alert(2, "a", "closed"), historical=True)
    assert [alert for _, alert in desk.take([ended], DAY_ZERO)] == [ended]


def test_an_issue_tracker_follows_a_cause() -> None:
    """An issue tracker receives every event of a known cause, and only the first costs budget."""
    desk = Desk([Target("github", (Route(kinds=("degraded", "recovered")),), 2, follows=True)])
    for number in range(5):
        assert len(desk.take([an_alert(number, "a", "degraded")], DAY_ZERO)) == 1
    assert desk.take([an_alert(9, "b", "degraded")], DAY_ZERO) == []
    assert [
        alert.kind
        for _, alert in desk.take([an_alert(9, "a", "recovered", Severity.INFO)], DAY_ZERO)
    ] == ["recovered"]
    assert desk.accounts["github"].sent == 1


@pytest.mark.parametrize(
    ("route", "leads"),
    [
        (Route(), True),
        (Route(devices="press-*"), True),
        (Route(devices="pump-*"), False),
        (Route(kinds=("closed",)), False),
        (Route(kinds=()), True),
        (Route(severity="critical"), False),
        (Route(severity="info"), True),
        (Route(targets=("mail",)), True),
        (Route(targets=("webhook:scada",)), False),
    ],
)
def test_a_route_leads_where_all_of_it_fits(route: Route, leads: bool) -> None:
    """A route matches when device, kind, severity and target all match."""
    assert route.leads(an_alert(1), "mail") is leads


def test_several_targets_each_have_their_own_day() -> None:
    """A target that receives every alert uses up no other target's budget."""
    desk = Desk(
        [Target("mail", (Route(severity="critical"),), 3), Target("webhook:scada", (ALL,), 3)]
    )
    desk.take([an_alert(i) for i in range(9)], DAY_ZERO)
    desk.take([an_alert(10, severity=Severity.CRITICAL)], DAY_ZERO)
    assert Counter(name for _, name, _ in desk.sent) == {"mail": 1, "webhook:scada": 2}
