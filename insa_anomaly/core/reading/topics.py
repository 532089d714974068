"""Topics that are read, their formats, and the limits of a message."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from insa_anomaly.core.bounds import Count, Nonnegative, Positive, check
from insa_anomaly.errors import ParameterError

Format = Literal["auto", "json", "number", "influx"]
_LEVEL = re.compile(r"\{device_id\}|\{metric_name\}|\+|[^+#{}\0]+")
_LEVELS = "levels of a word, {device_id}, {metric_name}, + or, as the last level, #"


@dataclass(frozen=True)
class Subscription:
    """Topics to read: `{device_id}` and `{metric_name}` name levels, `+` and a last `#` any."""

    topic: str = "insa/iiot/telemetry/{device_id}"
    format: Format = "auto"

    def __post_init__(self) -> None:
        """Raise ParameterError for a topic that is no template."""
        levels = self.topic.removesuffix("/#").split("/")
        if self.topic != "#" and not all(_LEVEL.fullmatch(level) for level in levels):
            raise ParameterError("topic", self.topic, _LEVELS)

    @property
    def filter(self) -> str:
        """The MQTT topic filter that covers the template."""
        return "/".join("+" if level.startswith("{") else level for level in self.topic.split("/"))

    def match(self, levels: list[str]) -> dict[str, str] | None:
        """Return the names in the levels of a topic, None if the template does not cover it."""
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
    """Limits of a message, in seconds and bytes; `max_age` None accepts a timestamp of any age."""

    subscriptions: tuple[Subscription, ...] = field(default_factory=lambda: (Subscription(),))
    max_age: Positive | None = 30 * 86400.0
    max_ahead: Nonnegative = 300.0
    historical_after: Nonnegative = 900.0
    max_bytes: Annotated[int, Ge(1), Le(1 << 28)] = 262144
    max_depth: Annotated[int, Ge(1), Le(500)] = 32
    max_values: Count = 3000

    def __post_init__(self) -> None:
        """Raise ParameterError for a value out of bounds, or no subscription at all."""
        check(self)
        if not self.subscriptions:
            raise ParameterError("subscriptions", [], "a list of at least one subscription")
