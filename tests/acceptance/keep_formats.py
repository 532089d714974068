"""A program that stores the formats this version writes, for tests of later versions.

`python -m tests.acceptance.keep_formats FOLDER` writes a schema with rows in it, a log with
messages that no reader has read, an outbox with events that are not published, and a small model.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from uuid import uuid4

import numpy as np
import psycopg

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.disk.log import LogFile
from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.adapters.disk.state import StateFile
from insa_anomaly.adapters.postgres.recorder import PostgresRecorder
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.core.device.detector import DeviceParameters
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.reading.reading import Reading
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.ports.recorder import Page
from insa_anomaly.services.training import (
    DeviceTraining,
    SeriesTraining,
    TrainingData,
    TrainingService,
)
from insa_anomaly.wiring.clock import clock
from tests.contracts.recorded import NOW, model, page

RECORDED, WAITING = 3, 50
EVENTS = [
    ("insa/iiot/ml/anomaly/P-1", b'{"event_id": "e1"}'),
    ("insa/iiot/ml/anomaly/P-1", b'{"event_id": "e2"}'),
]
SECOND = 1_000_000


def keep(folder: Path) -> None:
    """Write all formats."""
    folder.mkdir(parents=True)
    keep_model(folder)
    with LogFile(folder / "spool.db") as log, StateFile(folder / "state.db") as state:
        state.bind(log.id)
        for number in range(WAITING):
            body = json.dumps(
                {"timestamp": (NOW + number * SECOND) / SECOND, "temperature": 60 + number % 7 / 10}
            )
            log.append([("insa/iiot/telemetry/P-1", body.encode())], [], NOW + number * SECOND)
        state.post(EVENTS)
        state.sync()
        instance = log.id
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="keep-") as scratch:
        Path(scratch).chmod(0o711)
        with embedded.postgres(Path(scratch) / "pg") as dsn:
            keep_schema(dsn, Page(instance, 0, page(0).telemetry), folder / "schema.sql")


def keep_model(folder: Path) -> None:
    """Write the model of a series, small and complete."""
    rng = np.random.default_rng(1)
    times = NOW - np.arange(600, 0, -1) * SECOND
    with ModelFiles(folder / "ml_models", folder / "model.key") as files:
        service = TrainingService(
            files,
            SeriesTraining(Parameters(n_estimators=5), Policy()),
            DeviceTraining(DeviceParameters(), 1.0, Policy()),
            clock,
        )
        service.from_readings(
            SeriesKey("P-1", "temperature"), TrainingData(times, rng.normal(60, 0.3, 600)), NOW
        )


def keep_schema(dsn: str, cursor: Page, target: Path) -> None:
    """Write the schema with a few readings, a model, a dead letter and a key in it."""
    migrate(dsn)
    with PostgresRecorder(dsn) as recorder:
        recorder.record(
            page(
                1,
                [Reading("P-0", "flow", NOW, float(number), number) for number in range(RECORDED)],
                uuid4(),
            )
        )
        recorder.record(page(2, [model(1)], uuid4()))
        recorder.record(cursor)
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(
            "INSERT INTO api_keys (id, name, digest, permissions) "
            "VALUES ('k1', 'kept', 'd', '{ml:read}')"
        )
        session.execute(
            "INSERT INTO audit_log (who, origin, action, subject) VALUES ('w', 'o', 'a', 's')"
        )
    bindir = embedded.postgres_installations()[0].bindir
    argv = [
        str(bindir / "pg_dump"),
        "--no-owner",
        "--no-privileges",
        "--inserts",
        f"--file={target}",
        f"--dbname={dsn}",
    ]
    subprocess.run(argv, check=True, timeout=60)
    lines = [
        line
        for line in target.read_text().splitlines()
        if line and not line.startswith(("--", "\\", "SET transaction_timeout"))
    ]
    target.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
