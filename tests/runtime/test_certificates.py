"""A certificate that expires within thirty days is logged once a day.

Each certificate has its gauge.
"""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from insa_anomaly.errors import ConfigError
from insa_anomaly.instrumentation.metrics import REGISTRY
from insa_anomaly.runtime.certificates import Certificates
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.sections import BrokerSettings, HttpSettings
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.wiring.certificates import certificates
from tests.core.operations.test_certificate import KINDS, made

__all__ = ["made"]
NOW = 1_760_000_000_000_000
DAY = 86_400_000_000


def gauge(of: str) -> float | None:
    """Return the days left, as Prometheus sees them."""
    seconds = REGISTRY.get_sample_value("insa_certificate_expires_seconds", {"of": of})
    return None if seconds is None else seconds / 86_400


def told(look: Certificates) -> list[tuple[object, object]]:
    """Return the log lines of a single turn."""
    with capture_logs() as logs:
        look.step(0.0)
    return [(log["of"], log["days"]) for log in logs if log["action"] == "certificate_ending"]


def test_it_is_told_from_thirty_days_before_once_a_day() -> None:
    """Each certificate is logged by itself, also when the clock is set back.

    An unknown certificate is not logged, and has no gauge.
    """
    clock, ends = SettableClock(NOW), {"broker": NOW + 31 * DAY, "client": NOW + 29 * DAY}
    look = Certificates(
        {"broker": lambda: ends["broker"], "client": lambda: ends["client"], "http": lambda: None},
        clock,
    )
    assert told(look) == [("client", 29.0)]
    assert told(look) == []
    assert (gauge("broker"), gauge("client")) == (31.0, 29.0)
    clock.time_us += DAY * 3 // 2
    assert told(look) == [("broker", 29.5), ("client", 27.5)]
    clock.time_us += DAY - 1
    assert told(look) == []
    clock.time_us = NOW
    assert told(look) == [("client", 29.0)]
    clock.time_us = NOW + 40 * DAY
    assert told(look) == [("broker", -9.0), ("client", -11.0)]
    ends["client"] += 365 * DAY
    clock.time_us += 2 * DAY
    assert told(look) == [("broker", -11.0)]


class Shown:
    """A connection with the certificate that the broker showed."""

    certificate: bytes | None = None


@pytest.mark.parametrize("made", KINDS[:1], indirect=True)
def test_those_in_use_are_looked_at(made: Path) -> None:
    """The certificates in use are the port's and the client's, as they were at the start.

    A renewed file is not in use before the next start.
    """
    settings = Settings(
        broker=BrokerSettings(tls=True, certificate_file=made, key_file=made),
        http=HttpSettings(certificate_file=made, key_file=made),
    )
    look = certificates(settings, Shown())
    made.rename(made.with_suffix(".old"))
    assert {of for of, _ in told(look)} == {"client", "http"}
    with pytest.raises(ConfigError, match=r"both\.pem"):
        certificates(settings, Shown())
