"""Certificates in use, and when they end."""

from logging import WARNING

from insa_anomaly.instrumentation.logger import log
from insa_anomaly.instrumentation.metrics import DaemonMetrics

_WHOSE = {"broker": "the broker", "client": "ours for the broker", "http": "the admin port"}


def certificate_looked_at(of: str, seconds: float) -> None:
    """Publish the `seconds` until a certificate ends; `of` is broker, client or http."""
    DaemonMetrics.certificate_expires_seconds.labels(of).set(seconds)


def certificate_ending(of: str, seconds: float) -> None:
    end = "ends soon: renew it" if seconds > 0 else "has ended"
    message = f"The certificate of {_WHOSE[of]} {end}"
    log(WARNING, "certificate_ending", message, of=of, days=round(seconds / 86_400, 1))
