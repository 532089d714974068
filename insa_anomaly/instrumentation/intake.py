"""Messages on their way into the log."""

from logging import WARNING

from insa_anomaly.instrumentation.logger import logged
from insa_anomaly.instrumentation.metrics import DaemonMetrics


def messages_logged(count: int, seconds: float) -> None:
    DaemonMetrics.messages.inc(count)
    DaemonMetrics.receive_to_durable_seconds.observe(seconds)


@logged(WARNING, "The hand-over is full: messages go back to the broker")
def messages_shed(count: int) -> None:
    DaemonMetrics.messages_shed.inc(count)


@logged(WARNING, "The system clock was set", DaemonMetrics.clock_steps, digits=3)
def clock_stepped(seconds: float) -> None: ...
