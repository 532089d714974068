"""A cheap fleet of 1000 models: a model for each kind of signal serves all series of that kind.

Each series has an id of its own. Every series has its own memory for its model, so that the caches
are as cold as with 1000 different models.
"""

import hashlib
import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid5

from insa_anomaly import core
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.series.training import SeriesLearner, Trained
from tests.benchmarks import signals
from tests.benchmarks.signals import KINDS

READINGS = 5760  # four days of minutes: enough to learn the time of day
_NAMESPACE = UUID("4a3c1d84-16ce-4d62-9a0c-0d6a5d9e3c11")


def trained(folder: Path, now: int, kinds: int = KINDS, readings: int = READINGS) -> list[Trained]:
    """Return a model of each kind.

    Models of an earlier run are taken from `folder` if the code that learns has not changed since.
    """
    kept = folder / f"fleet-{_digest()}-{kinds}-{readings}.pickle"
    if kept.exists():
        return list(pickle.loads(kept.read_bytes()))  # noqa: S301 - our own file
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(of_kind, range(kinds), [readings] * kinds, [now] * kinds))
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(pickle.dumps(found))
    return found


def of_kind(kind: int, readings: int, now: int) -> Trained:
    """Return a model of a kind of signal, from a number of minutes up to `now`."""
    times, values = signals.history(kind, readings, now)
    return SeriesLearner(
        key=SeriesKey("kind", str(kind)),
        id=str(kind),
        version=1,
        parameters=Parameters(),
        policy=Policy(),
    ).fit(times, values)


def _digest() -> str:
    """Return the hash of the code that learns, and of the signals that it learns from."""
    wings = (Path(core.__file__).with_name(name) for name in ("learning", "scoring", "series"))
    sources = [path for wing in wings for path in sorted(wing.glob("*.py"))]
    sources.append(Path(signals.__file__))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


def for_series(models: Sequence[Trained], keys: Sequence[SeriesKey]) -> Iterator[Trained]:
    """Yield the models again for every series, with its name and an id of its own."""
    for number, (device_id, metric_name) in enumerate(keys):
        one = models[number % len(models)]
        model_id = str(uuid5(_NAMESPACE, f"{device_id}/{metric_name}"))
        yield replace(one, model=_named(one.model, model_id, device_id, metric_name))


def _named(model: Model, model_id: str, device_id: str, metric_name: str) -> Model:
    return replace(model, id=model_id, device_id=device_id, metric_name=metric_name)
