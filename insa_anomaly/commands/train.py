"""The command `train`: models from stored telemetry or from recorded files."""

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import typer
from rich.console import Console

from insa_anomaly.adapters.postgres.history import PostgresHistory
from insa_anomaly.commands.options import Config, flag, load_for_use, option
from insa_anomaly.core.device.detector import FEWEST_METRICS
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.units import Floats, Ints
from insa_anomaly.processes.trainer import _answered, start_child
from insa_anomaly.runtime.models.child import (
    Child,
    FleetTrainingOrder,
    FleetTrainingReply,
    TrainingReply,
)
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring.clock import clock
from insa_anomaly.wiring.database import database
from insa_anomaly.wiring.models import model_files
from insa_anomaly.wiring.training import training_service
from insa_anomaly.workbench.progress import Advance, open_console, progress
from insa_anomaly.workbench.recordings import recording
from insa_anomaly.workbench.recordings.recording import Recording

Outcomes = dict[SeriesKey, str]
AT_ONCE = 64  # given to the training process as one order, which has a deadline
Column = tuple[Ints, Floats]  # times in microseconds, values


def train_stored(
    settings: Settings, keys: Sequence[SeriesKey] | None, processes: int | None, console: Console
) -> Outcomes:
    """Train series (None: all) on their recorded readings.

    `processes` trainings run at once; None takes the number from the settings.
    """
    with database(settings) as dsn:
        if keys is None:
            with PostgresHistory(dsn) as history:
                keys = history.series()
            keys += _devices(keys) if settings.training.devices else []
        with progress(console, "models trained", len(keys)) as advance:
            return train_many(settings, dsn, keys, processes, advance)


def _devices(keys: Sequence[SeriesKey]) -> list[SeriesKey]:
    """Return the keys of devices with metrics enough for a model of their own."""
    counts = Counter(key.device_id for key in keys)
    many = [device_id for device_id, count in counts.items() if count >= FEWEST_METRICS]
    return [SeriesKey.of_device(device_id) for device_id in many]


def train_many(
    settings: Settings, dsn: str, keys: Sequence[SeriesKey], processes: int | None, advance: Advance
) -> Outcomes:
    """Train series in `processes` at once; return the outcome of each series."""
    found = dict.fromkeys(keys, "not trained: its training was cut short")

    def hear(said: FleetTrainingReply) -> None:
        found[said.key] = _outcome(said.answer)
        advance(1)

    child = Child(lambda: start_child(settings, dsn), settings.training.deadline)
    try:
        for begin in range(0, len(keys), AT_ONCE):
            some = tuple(keys[begin : begin + AT_ONCE])
            child.ask_many(FleetTrainingOrder(some, processes=processes), hear)
        child.finish()
    finally:
        child.close()
    return found


def _outcome(answer: TrainingReply) -> str:
    if not answer.model_id:
        return f"not trained: {answer.reason}"
    return f"trained in {answer.seconds:.1f} s, model {answer.model_id}"


def train_recordings(
    settings: Settings, recordings: Sequence[Recording], rows: int | None, console: Console
) -> Outcomes:
    """Train series and devices of the recordings on their first `rows` rows; None: on all."""
    # Loads scikit-learn, other commands do without
    from insa_anomaly.services.training import TrainingData  # noqa: PLC0415

    outcomes: Outcomes = {}
    learning = progress(console, "recordings learnt", len(recordings))
    with model_files(settings) as files, learning as advance:
        service = training_service(settings, files)
        for recording in recordings:
            device_id, columns = recording.device_id, _columns(recording, rows)
            data = {SeriesKey(device_id, name): TrainingData(*c) for name, c in columns.items()}
            if settings.training.devices and len(columns) >= FEWEST_METRICS:
                together = TrainingData(*_rows(columns), tuple(columns))
                data[SeriesKey.of_device(device_id)] = together
            for key, own in data.items():
                train = partial(service.from_readings, key, own, clock.now())
                outcomes[key] = _outcome(_answered(train))
            advance(1)
    return outcomes


def _columns(recording: Recording, rows: int | None) -> dict[str, Column]:
    columns: dict[str, tuple[list[int], list[float]]] = {}
    for number, row in enumerate(recording.rows()):
        if rows is not None and number >= rows:
            break
        for name, value in row.values.items():
            times, values = columns.setdefault(name, ([], []))
            times.append(row.timestamp)
            values.append(value)
    return {
        name: (np.array(times, np.int64), np.array(values, np.float64))
        for name, (times, values) in columns.items()
    }


def _rows(columns: dict[str, Column]) -> tuple[Ints, Floats]:
    """Return columns as rows: times [n], values [n, columns], NaN where a column has no value."""
    moments = np.unique(np.concatenate([times for times, _ in columns.values()]))
    values = np.full((len(moments), len(columns)), np.nan)
    for place, (times, column) in enumerate(columns.values()):
        values[np.searchsorted(moments, times), place] = column
    return moments, values


def train_command(
    config: Config = None,
    device: str | None = option("Device to train, with --metric; from --csv: the name to give."),
    metric: str | None = option("Metric to train."),
    *,
    every: bool = flag("Train every series that has recorded readings.", "--all"),
    csv: list[Path] | None = option(
        "Train from recorded files instead of stored telemetry; may be repeated."
    ),
    rows: int | None = option("With --csv: the first rows only.", min=100),
    jobs: int | None = option(
        "With --all: how many to train at once [default: training.processes].", min=1, max=64
    ),
) -> None:
    """Train a series or all, from stored telemetry or from recorded files.

    A running daemon takes the models over by itself.
    """
    settings, _ = load_for_use(config)
    console = open_console(sys.stderr)
    if csv:
        recordings = recording.inspect_all(csv, device, metric)
        outcomes = train_recordings(settings, recordings, rows, console)
    elif every or (device and metric):
        keys = None if every else [SeriesKey(device or "", metric or "")]
        outcomes = train_stored(settings, keys, jobs, console)
    else:
        hint = "say what to train: --device with --metric, or --all, or --csv FILE"
        raise typer.BadParameter(hint)
    for key, outcome in outcomes.items():
        typer.echo(f"{'/'.join(key)}: {outcome}")
    trained = all(outcome.startswith("trained") for outcome in outcomes.values())
    raise typer.Exit(0 if trained else 1)
