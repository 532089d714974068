"""Readings over HTTP: the same forms and the same log as over MQTT; answered once on disk."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

import msgspec

from insa_anomaly.core.reading.parser import Parser
from insa_anomaly.core.reading.reading import Raw, Rejected
from insa_anomaly.core.reading.topics import Subscription
from insa_anomaly.errors import LogBroken

ROOT = "$http"  # MQTT reserves topics that begin with $ for the broker itself
SUBSCRIPTIONS = tuple(
    Subscription(topic)
    for topic in (ROOT, f"{ROOT}/{{device_id}}", f"{ROOT}/{{device_id}}/{{metric_name}}")
)


class IngestReceipt(msgspec.Struct, frozen=True):
    """Answer to a payload that is on disk, with the number of its readings."""

    success: bool
    readings: int


class Inlet(Protocol):
    """The way into the log."""

    def post(self, topic: str, payload: bytes) -> bool:
        """Write a message; True once it is on disk, False if room or disk lacked for too long."""


@dataclass(frozen=True)
class TelemetryService:
    """Intake of readings over HTTP; `parser` must know `SUBSCRIPTIONS`."""

    parser: Parser
    inlet: Inlet
    clock: Callable[[], int]
    _parsing: Lock = field(init=False, default_factory=Lock)

    def take(
        self, device_id: str | None, metric_name: str | None, payload: bytes
    ) -> IngestReceipt | Rejected:
        """Write a payload to the log and count its readings; a rejected payload is not stored.

        Raises LogBroken: the caller sends the payload again, with its id.
        """
        topic = "/".join(filter(None, (ROOT, device_id, metric_name)))
        with self._parsing:
            readings = self.parser.parse(Raw(topic, payload, self.clock()))
        if isinstance(readings, Rejected):
            return readings
        if not self.inlet.post(topic, payload):
            raise LogBroken(
                "the log takes nothing at the moment; what was sent may be in it or not,"
                " so send it again with its id"
            )
        return IngestReceipt(True, len(readings))  # noqa: FBT003 - the answer's `success`
