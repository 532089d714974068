"""Which topics are read, in which format, and what is accepted of them."""

from dataclasses import dataclass, field
from typing import Literal

Format = Literal["auto", "json", "number", "influx"]


@dataclass(frozen=True)
class Subscription:
    """Topics to read. `{device_id}` and `{metric_name}` name levels of the topic; `+` and a last `#` stand for any."""

    topic: str = "insa/iiot/telemetry/{device_id}"
    format: Format = "auto"

    @property
    def filter(self) -> str:
        """The MQTT topic filter that covers the template."""
        return "/".join("+" if level.startswith("{") else level for level in self.topic.split("/"))

    def match(self, levels: list[str]) -> dict[str, str] | None:
        """Names found in the levels of a topic, None where the template does not cover it."""
        template = self.topic.split("/")
        if template[-1] == "#":
            template, levels = template[:-1], levels[: len(template) - 1]
        if len(template) != len(levels):
            return None
        pairs = list(zip(template, levels, strict=True))
        if not all(want in ("+", got) or want.startswith("{") for want, got in pairs):
            return None
        return {want[1:-1]: got for want, got in pairs if want.startswith("{")}


@dataclass(frozen=True)
class Acceptance:
    """What a message may be. Seconds; `max_age` None accepts a timestamp of any age."""

    subscriptions: tuple[Subscription, ...] = field(default_factory=lambda: (Subscription(),))
    max_age: float | None = 30 * 86400.0
    max_ahead: float = 300.0
    historical_after: float = 900.0
    max_bytes: int = 262144
    max_depth: int = 32
    max_values: int = 3000
