"""Predictions by the admin API: their time beside a busy stream, their effect on it, batches."""

import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.keys import PostgresKeys
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.core.series.training import Trained
from insa_anomaly.services.keys import KeyService, Permission, Wish
from tests.benchmarks.caller import Call, Heard
from tests.benchmarks.child import child
from tests.benchmarks.figure import Figure
from tests.benchmarks.live import Live, percentile
from tests.benchmarks.signals import Stream, keys

PREDICTIONS_PACE, STREAM_PACE = 200.0, 5_000.0
LINES = 8  # connections that stay open
BATCH = 5_000  # values
BATCH_SECONDS = 5.0
ASKED = 200  # different requests
_BASELINE_CALLS = 200


def new_token(dsn: str) -> str:
    """Create a key with every permission and practically no rate limit."""
    with Pool(dsn) as pool:
        wish = Wish("bench", [Permission.ADMIN], None, 10**9)
        return KeyService(PostgresKeys(pool), PostgresAudit(pool)).create(
            wish, "bench", time.time_ns() // 1000
        )[1]


def predict_p99(
    on: Live,
    token: str,
    trained: Sequence[Trained],
    *,
    alone: Sequence[float],
    seconds: float,
    spikes: float,
) -> list[Figure]:
    """Measure predictions beside the stream, each at its pace.

    Returns p99 of the predictions, and p99 of the stream's events beside their p99 without
    predictions.
    """
    with child("tests.benchmarks.caller") as caller:
        caller.tell(
            Call(
                port=on.subject.port,
                token=token,
                path="/api/v1/ml/predict",
                bodies=single(),
                seconds=seconds,
                rate=PREDICTIONS_PACE,
                lines=LINES,
            )
        )
        beside = on.paced(STREAM_PACE, seconds, spikes)
        heard = caller.answer(Heard)
    on.say(
        f"{len(heard.latencies)} predictions, {heard.refused} refused: {_spread(heard.latencies)}"
    )
    assert not heard.refused, "predictions were refused"
    one = sorted(
        timed(lambda: trained[0].forest.decision_function(_row(trained[0])))
        for _ in range(_BASELINE_CALLS)
    )
    return [
        Figure.less_is_better(
            "predict_p99", 1e3 * percentile(heard.latencies, 99), "ms", 1e3 * percentile(one, 99)
        ),
        Figure.less_is_better(
            "latency_p99_predicting",
            1e3 * percentile(beside, 99),
            "ms",
            1e3 * percentile(alone, 99),
        ),
    ]


def predict_batch(on: Live, token: str, trained: Sequence[Trained]) -> Figure:
    """Measure values a second, in batches one after the other."""
    with child("tests.benchmarks.caller") as caller:
        caller.tell(
            Call(on.subject.port, token, "/api/v1/ml/predict/batch", batches(), BATCH_SECONDS)
        )
        heard = caller.answer(Heard)
    on.say(
        f"{len(heard.latencies)} batches of {BATCH}, {heard.refused} refused: "
        f"{_spread(heard.latencies)}"
    )
    assert not heard.refused, "batches were refused"
    rows = np.repeat(_row(trained[0]), BATCH, axis=0)
    naive = BATCH / min(timed(lambda: trained[0].forest.decision_function(rows)) for _ in range(5))
    return Figure.more_is_better(
        "predict_batch", BATCH * len(heard.latencies) / heard.seconds, "values/s", naive
    )


def single() -> list[str]:
    """Return requests for a single value each, of different series."""
    values = Stream().round(time.time_ns() / 1000).tolist()
    chosen = range(0, len(values), len(values) // ASKED)
    return [
        _json({"device_id": keys()[i][0], "metric_name": keys()[i][1], "value": values[i]})
        for i in chosen
    ]


def batches() -> list[str]:
    """Return requests for many values of a series each."""
    random = np.random.default_rng(5)
    return [
        _json(
            {
                "device_id": device,
                "metric_name": metric,
                "values": random.normal(500, 50, BATCH).tolist(),
            }
        )
        for device, metric in keys(4)
    ]


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _row(one: Trained) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    return np.zeros((1, one.forest.n_features_in_), np.float32)


def _json(said: object) -> str:
    return msgspec.json.encode(said).decode()


def _spread(latencies: Sequence[float]) -> str:
    p50, p99 = (1e3 * percentile(latencies, percent) for percent in (50, 99))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
