"""Models: training, swaps, and files that cannot be used."""

from logging import ERROR, INFO, WARNING

from insa_anomaly.instrumentation.logger import log, logged
from insa_anomaly.instrumentation.metrics import DaemonMetrics


@logged(INFO, "Trained a model", DaemonMetrics.models_trained, digits=2)
def model_trained(device_id: str, metric_name: str, model_id: str, seconds: float) -> None: ...
@logged(WARNING, "Training failed", DaemonMetrics.trainings_failed)
def training_failed(device_id: str, metric_name: str, reason: str) -> None: ...
@logged(INFO, "A model took over")
def model_swapped(device_id: str, metric_name: str, model_id: str | None) -> None: ...


def shadow_swapped(device_id: str, metric_name: str, model_id: str | None) -> None:
    scoring, none = "A version scores along, and says nothing", "No version scores along any more"
    key = {"device_id": device_id, "metric_name": metric_name}
    log(INFO, "shadow_swapped", scoring if model_id else none, **key, model_id=model_id)


@logged(ERROR, "A model cannot be loaded; its series goes on without")
def model_unusable(device_id: str, metric_name: str, model_id: str, reason: str) -> None: ...


@logged(ERROR, "A model failed its check and is put aside; the version before it serves")
def model_fell_back(device_id: str, metric_name: str, failed: str, model_id: str | None) -> None:
    """Report a failed model and its successor `model_id`.

    None: there is no earlier version, and the series trains a new model when it is due.
    """
    DaemonMetrics.models_failed.inc()


@logged(ERROR, "The index of models cannot be read; the stream goes on with the models it has")
def index_unreadable(reason: str) -> None: ...
@logged(WARNING, "The training process ended and is started again")
def trainer_restarted(reason: str) -> None: ...
@logged(WARNING, "An event of a model waits until the disk takes it")
def event_waits(reason: str) -> None: ...
@logged(
    WARNING,
    "A model was changed, and PostgreSQL does not show it until its series is swapped again",
)
def catalogue_behind(model_id: str, reason: str) -> None: ...
@logged(WARNING, "The table of training jobs cannot be read or written now")
def jobs_unreachable(reason: str) -> None: ...
