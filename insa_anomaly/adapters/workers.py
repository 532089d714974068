"""Processes that train: on this machine (joblib's loky), or the workers of a Dask scheduler."""

import ctypes
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

from insa_anomaly.errors import TrainingError

IDLE_SECONDS = 30.0  # after which an idle process ends and frees its 200 MB
CONNECT_SECONDS = 10.0
_DIES_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
T = TypeVar("T")


class LokyWorkers:
    """Processes of this machine; with a single process the work is done in the caller."""

    def __init__(self, processes: int) -> None:
        self._processes = processes

    def run(self, tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
        """Call each task and yield the results in any order."""
        from joblib import parallel_config  # noqa: PLC0415 - needed only by training

        with parallel_config(
            "loky",
            n_jobs=self._processes,
            inner_max_num_threads=1,
            max_nbytes=None,
            idle_worker_timeout=IDLE_SECONDS,
        ):
            yield from _called(partial(_call, task) for task in tasks)


class DaskWorkers:
    """The workers of the scheduler at an address (`tls://host:8786`).

    They need this package, and they must be trusted: Dask sends pickles.
    """

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler

    def run(self, tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
        """Call each task and yield the results in any order. Raises TrainingError."""
        from joblib import parallel_config  # noqa: PLC0415 - needed only by training

        try:
            with self._client(), parallel_config("dask"):
                yield from _called(tasks)
        except OSError as error:  # every timeout is an OSError
            raise TrainingError(
                f"the Dask scheduler {self._scheduler} does not answer, or has no workers: {error}"
            ) from error

    def _client(self) -> AbstractContextManager[Any]:
        try:
            from distributed import Client  # noqa: PLC0415 - of the extra `dask`
        except ImportError as error:
            raise TrainingError(
                "training.dask_scheduler needs the extra `dask`: pip install insa-anomaly[dask]"
            ) from error
        client: AbstractContextManager[Any] = Client(
            self._scheduler, timeout=CONNECT_SECONDS, set_as_default=True
        )
        return client


def _called(tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
    from joblib import Parallel, delayed  # noqa: PLC0415

    yield from Parallel(return_as="generator_unordered", pre_dispatch="2*n_jobs", batch_size=1)(
        delayed(task)() for task in tasks
    )


def _call(task: Callable[[], T]) -> T:
    """Call a task in a process of this machine that ends when its parent is killed."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_DIES_WITH_PARENT, int(signal.SIGTERM), 0, 0, 0)
    return task()
