"""Requests to the admin port, and the process that answers them."""

from logging import ERROR, WARNING

from insa_anomaly.instrumentation.logger import log, logged
from insa_anomaly.instrumentation.metrics import PortMetrics


def denial_counted(reason: str) -> None:
    PortMetrics.requests_denied.labels(reason).inc()


@logged(WARNING, "A request to the admin API was denied")
def request_denied(reason: str, origin: str, denied_since_last: int) -> None: ...


@logged(WARNING, "A request to the admin API did not come whole in time")
def request_too_slow(origin: str, seconds: float) -> None:
    PortMetrics.requests_too_slow.inc()


@logged(WARNING, "A request to the admin API cannot be answered now")
def request_unanswerable(method: str, reason: str) -> None: ...
@logged(ERROR, "A request to the admin API ran into a fault")
def request_failed(method: str, exc_info: BaseException) -> None: ...
@logged(ERROR, "a question of the admin port has no answer")
def question_failed(exc_info: BaseException) -> None: ...


def admin_process_ended(reason: str, retry_seconds: float) -> None:
    message = f"{reason}; it begins again"
    log(ERROR, "admin_process_ended", message, retry_seconds=round(retry_seconds, 1))


def predictions_given(count: int, anomalies: int) -> None:
    PortMetrics.predictions.inc(count)
    PortMetrics.predicted_anomalies.inc(anomalies)


@logged(WARNING, "The admin port is open to the network without TLS: keys can be overheard")
def port_unprotected(host: str) -> None: ...
@logged(WARNING, "The API keys cannot be read; those that are known go on being good")
def keys_unreadable(reason: str) -> None: ...
