"""Routing of alerts: routes choose targets, a cause is sent once, a budget limits each day.

Alerts over the budget become a digest. All decisions are made from values; earlier decisions come
in and go out, and the caller stores them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

import msgspec

from insa_anomaly.core.notification.alert import SUMMARY, Alert, Severity
from insa_anomaly.core.notification.event import deterministic_id, rfc3339
from insa_anomaly.core.units import DAY
from insa_anomaly.errors import ParameterError

SHOWN = 20  # alerts and devices that a summary names
_MOST_DEVICES = 1000  # counted one by one in a summary; those beyond are counted together
_OTHERS = "(others)"


@dataclass(frozen=True)
class Route:
    """Route of alerts to targets, by a pattern of devices (`press-*`), kinds and a least severity.

    No kinds or targets mean all.
    """

    devices: str = "*"
    kinds: tuple[str, ...] = (
        *("opened", "worsened", "device_silent", "stream_silent"),
        *("degraded", "failing", "disabled", "slow"),
    )
    severity: str = "warning"
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ParameterError for an empty word or an unknown severity."""
        if self.severity.upper() not in Severity.__members__:
            raise ParameterError("severity", self.severity, "info, warning or critical")
        lists = {"devices": (self.devices,), "kinds": self.kinds, "targets": self.targets}
        for name, words in lists.items():
            if not all(words):
                raise ParameterError(name, getattr(self, name), "without an empty word")

    def leads(self, alert: Alert, target: str) -> bool:
        """Return whether the route leads an alert to a target."""
        return (
            (not self.targets or target in self.targets)
            and (not self.kinds or alert.kind in self.kinds)
            and (alert.ends or alert.severity >= Severity[self.severity.upper()])
            and fnmatchcase(alert.device_id, self.devices)
        )


@dataclass(frozen=True)
class Target:
    """Receiver of at most `a_day` alerts a day."""

    name: str
    routes: tuple[Route, ...]
    a_day: int
    follows: bool = False  # a cause that it knows to its end, beside the budget

    def wants(self, alert: Alert) -> bool:
        """Return whether a route leads an alert here."""
        return any(route.leads(alert, self.name) for route in self.routes)


class KnownCause(NamedTuple):
    """Knowledge of a target about a cause: the worst alert it received, or that was `held` back."""

    severity: Severity
    held: bool


class Digest(msgspec.Struct, frozen=True):
    """Alerts held back since a time (microseconds): number, kinds, devices, and the first lines."""

    since: int = 0
    count: int = 0
    kinds: dict[str, int] = {}
    devices: dict[str, int] = {}
    first: list[str] = []


class DailyBudget(msgspec.Struct, frozen=True):
    """Alerts that a target received on a day (days since the epoch), and their digest."""

    day: int = 0
    sent: int = 0
    digest: Digest = Digest()


Knowledge = Mapping[tuple[str, str], KnownCause]  # (target, cause) -> what it knows


@dataclass
class Dispatch:
    """Alerts to be sent, and causes to be remembered (None: forgotten)."""

    sent: list[tuple[str, Alert]] = field(default_factory=list)
    known: dict[tuple[str, str], KnownCause | None] = field(default_factory=dict)
    accounts: dict[str, DailyBudget] = field(default_factory=dict)
    held: Counter[str] = field(default_factory=Counter)  # alerts by target, into its digest


def decide(
    alerts: Sequence[Alert],
    targets: Sequence[Target],
    known: Knowledge,
    accounts: Mapping[str, DailyBudget],
    now: int,
) -> Dispatch:
    """Decide which targets receive these alerts, in order.

    Historical alerts open no cause: no person can act on them now.
    """
    dispatch, held = Dispatch(), dict[str, list[Alert]]()
    for target in targets:
        account = accounts.get(target.name, DailyBudget())
        dispatch.accounts[target.name] = _today(account, now)
    for alert in alerts:
        for target in targets:
            key = (target.name, alert.cause)
            knows = dispatch.known[key] if key in dispatch.known else known.get(key)
            if alert.ends:
                kept = _ended(dispatch, target, alert, knows)
            else:
                kept = _concerns(target, alert, knows) and _told(dispatch, target, alert, knows)
            if kept:
                held.setdefault(target.name, []).append(alert)
    for name, kept_back in held.items():
        account = dispatch.accounts[name]
        digest = _added(account.digest, kept_back, now)
        dispatch.accounts[name] = msgspec.structs.replace(account, digest=digest)
        dispatch.held[name] += len(kept_back)
    return dispatch


def summaries(
    targets: Sequence[Target], accounts: Mapping[str, DailyBudget], after: float, now: int
) -> Dispatch:
    """Return the digests due `after` seconds from their first alert, within the day's budget."""
    dispatch = Dispatch()
    for target in targets:
        account = _today(accounts.get(target.name, DailyBudget()), now)
        digest = account.digest
        if digest.count and now - digest.since >= after * 1e6 and account.sent < target.a_day:
            dispatch.sent.append((target.name, _summary(target.name, digest, now)))
            dispatch.accounts[target.name] = DailyBudget(account.day, account.sent + 1)
    return dispatch


def _today(account: DailyBudget, now: int) -> DailyBudget:
    day = now // DAY
    return account if account.day == day else DailyBudget(day, 0, account.digest)


def _concerns(target: Target, alert: Alert, knows: KnownCause | None) -> bool:
    """Return whether the target wants the alert, and does not know as much already."""
    if alert.historical or not target.wants(alert):
        return False
    return target.follows or knows is None or alert.severity > knows.severity


def _told(dispatch: Dispatch, target: Target, alert: Alert, knows: KnownCause | None) -> bool:
    """Send an alert, or return that it is held back: the last of a day's budget is the digest's."""
    key, account = (target.name, alert.cause), dispatch.accounts[target.name]
    follows = target.follows and knows is not None and not knows.held
    room = account.sent < target.a_day - 1
    severity = max(alert.severity, knows.severity) if knows else alert.severity
    dispatch.known[key] = KnownCause(severity, not (follows or room))
    if not (follows or room):
        return knows is None or not knows.held
    dispatch.sent.append((target.name, alert))
    if not follows:
        dispatch.accounts[target.name] = msgspec.structs.replace(account, sent=account.sent + 1)
    return False


def _ended(dispatch: Dispatch, target: Target, alert: Alert, knows: KnownCause | None) -> bool:
    """Forget the cause, and send its end to a target that received it; return as `_told`."""
    if knows is None:
        return False
    dispatch.known[target.name, alert.cause] = None
    if knows.held or not (target.follows or target.wants(alert)):
        return False
    account = dispatch.accounts[target.name]
    room = target.follows or account.sent < target.a_day - 1
    if room:
        dispatch.sent.append((target.name, alert))
        cost = 0 if target.follows else 1
        dispatch.accounts[target.name] = msgspec.structs.replace(account, sent=account.sent + cost)
    return not room


def _added(digest: Digest, alerts: Sequence[Alert], now: int) -> Digest:
    kinds, devices = Counter(digest.kinds), Counter(digest.devices)
    kinds.update(alert.kind for alert in alerts)
    for alert in alerts:
        named = alert.device_id in devices or len(devices) < _MOST_DEVICES
        devices[alert.device_id if named else _OTHERS] += 1
    shown = alerts[: max(0, SHOWN - len(digest.first))]
    lines = [f"{alert.timestamp} {alert.subject}: {alert.text}" for alert in shown]
    since, count = digest.since or now, digest.count + len(alerts)
    return Digest(since, count, dict(kinds), dict(devices), digest.first + lines)


def _summary(target: str, digest: Digest, now: int) -> Alert:
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(digest.kinds).most_common())
    since = rfc3339(digest.since)
    text = f"{digest.count} more alerts since {since}, beyond the daily budget: {kinds}"
    most = Counter(digest.devices).most_common(SHOWN)
    lines = [f"Devices ({len(digest.devices)}):"]
    lines += [f"  {count:>6}  {device or '-'}" for device, count in most]
    lines += ["", f"The first {len(digest.first)}:", *(f"  {line}" for line in digest.first)]
    event = {
        "count": digest.count,
        "since": since,
        "kinds": digest.kinds,
        "devices": digest.devices,
        "lines": lines,
    }
    event_id = deterministic_id("summary", target, digest.since, digest.count)
    return Alert(
        event_id=event_id,
        kind=SUMMARY,
        severity=Severity.WARNING,
        cause=event_id,
        device_id="",
        metric_name="",
        timestamp=rfc3339(now),
        text=text,
        event=event,
    )
