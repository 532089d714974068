"""The daily health check of a large fleet, beside a query for each model."""

import tempfile
import time
from pathlib import Path
from uuid import UUID

import psycopg

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.model_health import PostgresHealth
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.core.operations.model_health import DAY, Action, Limits
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.instrumentation.logger import set_up_logging
from insa_anomaly.services.audit import Author
from insa_anomaly.services.model_health import HealthService
from insa_anomaly.wiring.clock import clock
from tests.benchmarks.figure import Figure

MODELS = 10_000
_ONE_BY_ONE = 500  # models, scaled up
_VERSIONS = """
    INSERT INTO ml_models (
        id, device_id, metric_name, model_path, status, accuracy, false_positive_rate,
        training_samples, trained_at, version, threshold, figures, sha256
    )
    SELECT gen_random_uuid(), 'device-' || lpad(s::text, 6, '0'), 'a', '',
        CASE WHEN v = 12 THEN 'active' ELSE 'deleted' END,
        CASE WHEN v = 3 THEN 0.93 END, CASE WHEN v = 3 THEN 0.01 END, 20000,
        instant(%(now)s) - (16 - v + CASE WHEN s %% 7 = 0 THEN 3 ELSE -3 END) * interval '12 hours',
        v, 0.5,
        jsonb_build_object('training', CASE WHEN v = 3 THEN 'anew' ELSE 'refit' END, 'refusal', '')
            || CASE WHEN v > 3 THEN jsonb_build_object('predecessor_accuracy', 0.92) ELSE '{}' END,
        ''
    FROM generate_series(1, %(size)s) s, generate_series(1, 12) v
"""
_ACTIVITY = """
    INSERT INTO series_activity
    SELECT 'device-' || lpad(s::text, 6, '0'), 'a', instant(%(now)s) - h * interval '1 hour',
        %(instance)s, instant(%(now)s) - h * interval '1 hour', 3600,
        CASE WHEN s %% 10 = 0 THEN 400 ELSE 4 END
    FROM generate_series(1, %(size)s) s, generate_series(1, 24) h
"""


def fill(dsn: str, size: int, now: int) -> None:
    """Insert a number of series with twelve versions each and a day of activity.

    Every seventh series is old, every tenth degraded.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in (_VERSIONS, _ACTIVITY):
            connection.execute(
                statement.encode(), {"now": now, "size": size, "instance": UUID(int=1)}
            )
        connection.execute("VACUUM ANALYZE")


def health_check_10k(now: int) -> Figure:
    """Measure a check of 10 000 models, in seconds: measured, judged, decided and stored."""
    set_up_logging("CRITICAL")  # thousands of decisions
    with tempfile.TemporaryDirectory(prefix="insa-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # the account that PostgreSQL runs as under root passes through
        with embedded.postgres(folder / "pg") as dsn, Pool(dsn, 300.0, 2) as pool:
            migrate(dsn)
            fill(dsn, MODELS, now)
            tables = PostgresHealth(pool)
            one_by_one = _one_by_one(tables, now)
            report = HealthService(tables, PostgresAudit(pool), Limits(), None, clock).run(
                tuple(Action), Author("bench", ""), now
            )
    assert report.models == MODELS
    return Figure.less_is_better("health_check_10k", report.seconds, "s", one_by_one)


def _one_by_one(tables: PostgresHealth, now: int) -> float:
    """Measure a query for each model, before anything is decided."""
    after, began = SeriesKey("", ""), time.monotonic()
    for _ in range(_ONE_BY_ONE):
        [one] = tables.standings(after, now - DAY, 1)
        after = SeriesKey(one.device_id, one.metric_name)
    return (time.monotonic() - began) * MODELS / _ONE_BY_ONE
