"""Redis, and the answers found there."""

from logging import WARNING

from insa_anomaly.instrumentation.logger import logged
from insa_anomaly.instrumentation.metrics import PortMetrics


@logged(WARNING, "Redis is away; the latest results are not shown there")
def latest_unavailable(reason: str) -> None: ...
@logged(WARNING, "Redis is away; what it would know is asked of PostgreSQL")
def cache_unavailable(reason: str) -> None: ...
@logged(WARNING, "Redis is away; rate limits are counted by this process alone")
def rate_limit_local(reason: str) -> None: ...


def cache_looked_up(kind: str, *, hit: bool) -> None:
    (PortMetrics.cache_hits if hit else PortMetrics.cache_misses).labels(kind).inc()
