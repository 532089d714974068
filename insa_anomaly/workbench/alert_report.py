"""Alerts that wait and alerts that were given up, as a person reads them."""

from collections.abc import Sequence

from insa_anomaly.core.notification.alert import Alert
from insa_anomaly.core.notification.event import rfc3339
from insa_anomaly.ports import DeadAlert, Waiting


def text(waiting: Sequence[Waiting], dead: Sequence[DeadAlert]) -> str:
    """A line each, oldest first; what waits comes first."""
    lines = [
        f"waiting  {one.number}  {one.target}  since {_minute(one.decided_at)}, tried {one.attempts} times  {_about(one.alert)}"
        for one in waiting
    ]
    lines += [
        f"dead  {one.number}  {one.target}  given up {_minute(one.given_up_at)}: {one.reason}  {_about(one.alert)}"
        for one in dead
    ]
    return "\n".join(lines) or "no alert waits, and none was given up"


def _minute(at: int) -> str:
    return f"{rfc3339(at)[:16]}Z"


def _about(alert: Alert | None) -> str:
    return "(of another version)" if alert is None else f"{alert.subject}: {alert.text}"
