"""Backlogs and sizes are measured; a failed measurement ends no thread."""

from collections.abc import Mapping

import pytest

from insa_anomaly.errors import DiskUnreadable
from insa_anomaly.instrumentation.metrics import REGISTRY
from insa_anomaly.runtime import measure as measuring
from insa_anomaly.runtime.measure import Backlog, Measure
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.testing.log import MemoryLog
from insa_anomaly.testing.state import MemoryState

NOW = 1_760_000_000_000_000
SECOND = 1_000_000


class Site:
    """Three entries, received a second apart, and the sequence that was recorded."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.state = MemoryState()
        self.recorded = 0
        self.clock = SettableClock(NOW)
        self.sizes: Mapping[str, int] | None = {"log": 5, "models": 7}
        self.asked = 0
        for number in range(3):
            self.log.append([("t", b"1")], [], NOW + number * SECOND)
        self.measure = Measure(
            Backlog(self.log, self.state, lambda: self.recorded, self.clock), self._sizes
        )

    def _sizes(self) -> Mapping[str, int]:
        self.asked += 1
        if self.sizes is None:
            raise DiskUnreadable
        return self.sizes


@pytest.fixture
def site() -> Site:
    """Return a site where no measurement was made yet."""
    return Site()


def said(name: str, **labels: str) -> float | None:
    """Return the present value of a metric."""
    return REGISTRY.get_sample_value(f"insa_{name}", labels)


def lag(reader: str) -> tuple[float | None, float | None]:
    """Return a reader's lag in entries and in seconds."""
    return said("reader_lag_entries", reader=reader), said("reader_lag_seconds", reader=reader)


def test_a_reader_lags_by_what_it_has_not_dealt_with(site: Site) -> None:
    """A reader's lag counts its unread entries, and seconds since the oldest of them was received.

    A reader that has read all entries has no lag.
    """
    site.state.commit(2, None, [("a", b"1"), ("b", b"2")])
    site.recorded, site.clock.time_us = 1, NOW + 10 * SECOND
    assert site.measure.step(0.0) > 0
    assert lag("score") == (1, 8)
    assert lag("record") == (2, 9)
    assert said("outbox_events") == 2
    site.state.commit(3, None, [])
    site.recorded = 3
    site.measure.step(0.0)
    assert lag("score") == lag("record") == (0, 0)


def test_a_clock_that_goes_back_gives_no_negative_age(site: Site) -> None:
    """The lag is at least 0."""
    site.clock.time_us = NOW - SECOND
    site.measure.step(0.0)
    assert lag("record") == (3, 0)


def test_sizes_are_looked_at_seldom(site: Site) -> None:
    """Sizes are measured seldom, because reading a large folder is costly."""
    for _ in range(3):
        site.measure.step(0.0)
    assert site.asked == 1
    assert (said("storage_bytes", what="log"), said("storage_bytes", what="models")) == (5, 7)
    site.sizes = {"log": 6}
    site.clock.sleep(measuring.SIZES_EVERY_SECONDS)
    site.measure.step(0.0)
    assert said("storage_bytes", what="log") == 6


def test_what_cannot_be_measured_is_said_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed measurement is logged once, and tried again."""
    reasons: list[str] = []
    monkeypatch.setattr(measuring, "measuring_failed", reasons.append)
    site.sizes = None
    for _ in range(2):
        site.clock.sleep(measuring.SIZES_EVERY_SECONDS)
        site.measure.step(0.0)
    assert reasons == ["The files on disk cannot be inspected."]
    site.sizes = {"log": 9}
    site.clock.sleep(measuring.SIZES_EVERY_SECONDS)
    site.measure.step(0.0)
    assert said("storage_bytes", what="log") == 9
