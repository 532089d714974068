"""Training end to end: a series by the admin API, a fleet by `insa-anomaly train --all`.

The baseline of each is a plain forest.
"""

import json
import pickle
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from uuid import uuid4

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler

from insa_anomaly.adapters.postgres.recorder import PostgresRecorder
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.ports.recorder import Page, Telemetry
from tests.benchmarks import signals
from tests.benchmarks.child import ROOT
from tests.benchmarks.figure import Figure
from tests.benchmarks.live import Bed, Say, bed
from tests.benchmarks.predicting import new_token, timed
from tests.benchmarks.subject import configured, subject

READINGS = 10_000  # of each series: a week of minutes
FLEET = 100
_TRAIN_SECONDS = 600.0


def learning(wanted: set[str], say: Say) -> Iterator[Figure]:
    """Yield the wanted figures of `train_one` and `train_all_100`."""
    now = time.time_ns() // 1000
    with bed() as on:
        migrate(on.dsn)
        count = FLEET if "train_all_100" in wanted else 1
        say(f"recording {count} series of {READINGS:,} readings")
        for number, key in enumerate(signals.keys(count)):
            record(on, number, key, now)
        plain = timed(lambda: plain_forest(0, now))
        if "train_all_100" in wanted:
            seconds = train_all(on)
            say(
                f"{FLEET} series in {seconds:.1f} s start-up included: "
                f"1000 in about {10 * seconds / 60:.1f} min"
            )
            yield Figure.less_is_better("train_all_100", seconds, "s", plain * FLEET)
        if "train_one" in wanted:
            yield Figure.less_is_better("train_one", train_one(on, signals.keys(1)[0]), "s", plain)


def record(on: Bed, number: int, key: SeriesKey, now: int) -> None:
    """Record a series in the database."""
    times, values = signals.history(number % signals.KINDS, READINGS, now)
    zeros = np.zeros(READINGS, np.int16)
    with PostgresRecorder(on.dsn) as recorder:
        recorder.record(
            Page(
                uuid4(),
                1,
                Telemetry(
                    keys=[key],
                    key=np.zeros(READINGS, np.int32),
                    timestamp=times,
                    discriminator=values.view(np.int64),
                    value=values,
                    quality=zeros,
                    flags=zeros,
                ),
            )
        )


def plain_forest(kind: int, now: int) -> bytes:
    """Fit a plain forest, as a first attempt does: scaled values, pickled, without calibration."""
    _, values = signals.history(kind, READINGS, now)
    scaler = StandardScaler()
    forest = IsolationForest(contamination=0.1, random_state=42).fit(
        scaler.fit_transform(values[:, None])
    )
    return pickle.dumps((scaler, forest))


def train_all(on: Bed) -> float:
    """Return the seconds of the command, from its start to its end."""
    config, _ = configured(on.folder, on.listener, on.dsn, {})
    argv = [sys.executable, "-m", "insa_anomaly", "train", "--all", "--config", str(config)]
    return timed(
        lambda: subprocess.run(
            argv, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=_TRAIN_SECONDS
        )
    )


def train_one(on: Bed, key: SeriesKey) -> float:
    """Return the seconds from the request to the model, of a daemon that has not trained yet."""
    token = new_token(on.dsn)
    with subject(on.folder, on.listener, on.dsn, {}) as running:

        def ask(path: str, body: object = None) -> dict[str, object]:
            data = None if body is None else json.dumps(body).encode()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            request = urllib.request.Request(
                f"http://127.0.0.1:{running.port}/api/v1/ml/{path}", data, headers
            )
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                said: dict[str, object] = json.loads(answer.read())
                return said

        def trained() -> None:
            job = ask("models/train", {"device_id": key.device_id, "metric_name": key.metric_name})
            while job["status"] in {"queued", "running"}:
                time.sleep(0.05)
                job = ask(f"jobs/{job['job_id']}")
            assert job["status"] == "done", job

        return timed(trained)
