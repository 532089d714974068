"""Receivers of alerts."""

from typing import Protocol

from insa_anomaly.core.notification.alert import Alert


class AlertTarget(Protocol):
    """A receiver of alerts: a mail server, a webhook or an issue tracker."""

    def deliver(self, delivery_id: str, alert: Alert, decided_at: int) -> None:
        """Deliver an alert; the same id again is the same delivery.

        Raises TargetAway (a later attempt may succeed) or TargetRefused (no attempt will).
        """

    def interrupt(self) -> None:
        """End a delivery under way, from another thread; the delivery raises TargetAway."""
