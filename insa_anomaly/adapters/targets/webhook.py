"""Alerts as JSON to a webhook, signed, so that the receiver knows their author and time."""

import hmac
from collections.abc import Callable
from hashlib import sha256

import msgspec

from insa_anomaly.adapters.targets.exchange import Exchange
from insa_anomaly.core.notification.alert import Alert
from insa_anomaly.core.notification.event import rfc3339
from insa_anomaly.errors import InsaError, TargetAway, TargetRefused

# Final refusals of a message; after any other answer, a retry may succeed.
_OF_THE_MESSAGE = {400, 413, 414, 422}


class Webhook:
    """The port `AlertTarget`.

    `X-Insa-Signature: t=<seconds>,v1=<hex>` is the HMAC-SHA256 of `<seconds>.<body>`.
    `X-Insa-Delivery` stays the same whenever an alert comes again. `secret` and `clock`
    (microseconds) are called for each request.
    """

    def __init__(
        self,
        url: str,
        exchange: Exchange,
        secret: Callable[[], str | None],
        clock: Callable[[], int],
        link: Callable[[Alert], str] = lambda _: "",
    ) -> None:
        self._url = url
        self._exchange = exchange
        self._secret = secret
        self._clock = clock
        self._link = link

    def deliver(self, delivery_id: str, alert: Alert, decided_at: int) -> None:
        """Send an alert. Raises TargetAway, TargetRefused."""
        body = payload(delivery_id, alert, decided_at, self._link(alert))
        try:
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "insa-anomaly",
                "X-Insa-Delivery": delivery_id,
            } | self._signed(body)
        except InsaError as error:
            raise TargetAway(str(error)) from error
        answer = self._exchange.send("POST", self._url, headers, body)
        if answer.status in _OF_THE_MESSAGE:
            raise TargetRefused(f"the receiver answers {answer.status}")
        if not 200 <= answer.status < 300:
            raise TargetAway(
                f"the receiver answers {answer.status}",
                _asked(answer.headers.get("retry-after", "")),
            )

    def interrupt(self) -> None:
        """End a delivery under way."""
        self._exchange.interrupt()

    def _signed(self, body: bytes) -> dict[str, str]:
        secret = self._secret()
        if not secret:
            return {}
        seconds = str(self._clock() // 1_000_000)
        return {"X-Insa-Signature": f"t={seconds},v1={signature(secret, seconds, body)}"}


def signature(secret: str, seconds: str, body: bytes) -> str:
    """Return the HMAC-SHA256 of `<seconds>.<body>`, in hex."""
    return hmac.new(secret.encode(), seconds.encode() + b"." + body, sha256).hexdigest()


def payload(delivery_id: str, alert: Alert, decided_at: int, link: str) -> bytes:
    """Return the alert as JSON."""
    said = {
        "delivery_id": delivery_id,
        "decided_at": rfc3339(decided_at),
        "severity": alert.severity.name.lower(),
        **{
            name: getattr(alert, name)
            for name in (
                "kind",
                "cause",
                "device_id",
                "metric_name",
                "timestamp",
                "text",
                "ends",
                "event",
            )
        },
        "link": link or None,
    }
    return msgspec.json.encode(said)


def _asked(retry_after: str) -> float | None:
    """Return the seconds that the receiver asks to wait, at most an hour.

    A date in place of a number of seconds is not followed.
    """
    return min(float(retry_after), 3600.0) if retry_after.isdigit() else None
