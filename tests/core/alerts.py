"""Alerts for tests."""

from insa_anomaly.core.notification.alert import ENDINGS, Alert, Severity

HOUR = 3_600_000_000
DAY_ZERO = 20_000 * 24 * HOUR  # midnight in UTC


def an_alert(
    number: int,
    cause: str = "",
    kind: str = "opened",
    severity: Severity = Severity.WARNING,
    device: str = "press-1",
) -> Alert:
    """Return the alert of an event; without `cause` the alert has a cause of its own."""
    cause = cause or f"episode-{number}"
    return Alert(
        event_id=f"event-{number}-{cause}-{kind}-{severity}",
        kind=kind,
        severity=severity,
        cause=cause,
        device_id=device,
        metric_name="pressure",
        timestamp="2026-01-01T00:00:00.000000Z",
        text="opened: 9, expected 5 (4 to 6)",
        event={"value": 9.0, "expected": 5.0, "lower": 4.0, "upper": 6.0, "episode_id": cause},
        ends=kind in ENDINGS,
    )
