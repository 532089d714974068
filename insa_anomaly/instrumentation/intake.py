"""Messages on their way into the log."""

from logging import WARNING

from insa_anomaly.instrumentation import metrics
from insa_anomaly.instrumentation.logger import logged


def messages_logged(count: int, seconds: float) -> None:
    metrics.MESSAGES.inc(count)
    metrics.DURABLE_SECONDS.observe(seconds)


@logged(WARNING, "The hand-over is full: messages go back to the broker")
def messages_shed(count: int) -> None:
    metrics.SHED.inc(count)


@logged(WARNING, "The system clock was set", digits=3)
def clock_stepped(seconds: float) -> None:
    metrics.CLOCK_STEPS.inc()
