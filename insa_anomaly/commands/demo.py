"""The command `demo`: servers in a temporary folder, and the daemon as a process of its own."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4

import numpy as np
import typer

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.mqtt import Listener
from insa_anomaly.adapters.postgres.history import PostgresHistory
from insa_anomaly.adapters.postgres.recorder import PostgresRecorder
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.commands.options import FiguresJson
from insa_anomaly.commands.train import train_many
from insa_anomaly.core.reading.parser import SECOND
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.errors import BrokerAway, ServiceError
from insa_anomaly.instrumentation.logger import set_up_logging
from insa_anomaly.ports.recorder import Page, Telemetry
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.sections import (
    BrokerSettings,
    DatabaseSettings,
    HttpSettings,
    ModelsSettings,
    RedisSettings,
    StorageSettings,
    TrainingSettings,
)
from insa_anomaly.wiring.broker import CONNECT_SECONDS, access, feeder
from insa_anomaly.wiring.clock import clock
from insa_anomaly.workbench.demo.demo import FALSE_ALARMS_PER_DAY, Demo, DemoOutcome, Stored
from insa_anomaly.workbench.demo.leaving import leaving
from insa_anomaly.workbench.demo.plant import Plant, SeriesHistory
from insa_anomaly.workbench.progress import Advance, open_console
from insa_anomaly.workbench.recordings.replay import MessagePublisher

READY_SECONDS = 60.0
ASK_SECONDS = 2.0


def run_demo(duration: float | None, *, json: bool) -> int:
    """Run the demonstration for `duration` seconds, None: until stopped; return the exit status."""
    console = open_console(sys.stderr if json else sys.stdout)
    with leaving() as leave, _services() as services:
        try:
            outcome: DemoOutcome = Demo(Plant(), services, console, leave).run(duration)
        except KeyboardInterrupt:
            console.print("stopped")
            return 130
    if json:
        sys.stdout.write(outcome.json() + "\n")
    return 0 if outcome.complete else 1


@contextmanager
def _services() -> Iterator["Services"]:
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="insa-demo-", ignore_cleanup_errors=True)
            )
        )
        folder.chmod(
            0o711
        )  # servers that may not run as root must get through to their own folders, which are 0700
        tools = embedded.Tools(Path(os.environ.get("INSA_UNPACKED", "/nonexistent")))
        dsn = stack.enter_context(embedded.postgres(folder / "database"))
        redis = stack.enter_context(embedded.valkey(folder / "valkey"))
        listener = stack.enter_context(embedded.broker(folder / "broker", tools))
        migrate(dsn)
        yield Services(stack, folder, dsn, redis, listener)


class Services:
    """Servers around the demonstration: the body of `workbench.demo.demo.DemoServices`."""

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        dsn: str,
        redis: str,
        listener: embedded.EmbeddedBroker,
    ) -> None:
        self._stack = stack
        self._folder = folder
        self._dsn = dsn
        self._password_file = folder / "broker-password"
        self._password_file.touch(0o600)
        self._password_file.write_text(listener.password)
        self._broker = BrokerSettings(
            host=listener.host,
            port=listener.port,
            username=listener.user,
            password_file=self._password_file,
        )
        self._settings = Settings(
            broker=self._broker,
            storage=StorageSettings(directory=folder / "storage"),
            database=DatabaseSettings(url=dsn),
            redis=RedisSettings(url=redis),
            http=HttpSettings(port=embedded.free_port()),
            models=ModelsSettings(directory=folder / "ml_models", key_file=folder / "model.key"),
            verdict=Policy(false_alarms_per_day=FALSE_ALARMS_PER_DAY),
            training=TrainingSettings(automatic=False),
        )
        self._history = stack.enter_context(PostgresHistory(dsn))

    def addresses(self) -> Sequence[tuple[str, str]]:
        """Return the names and addresses of the running servers."""
        settings = self._settings
        return [
            ("PostgreSQL", self._dsn),
            ("Redis", settings.redis.url or ""),
            (
                "MQTT broker",
                f"{settings.broker.host}:{settings.broker.port}, user {settings.broker.username}",
            ),
            ("admin port", f"http://{settings.http.host}:{settings.http.port}/api/v1/status"),
        ]

    def record(self, history: Iterable[SeriesHistory], advance: Advance) -> None:
        """Store history in the database, a series at a time."""
        with PostgresRecorder(self._dsn) as recorder:
            for number, series in enumerate(history):
                recorder.record(Page(uuid4(), number + 1, _columns(series)))
                advance(len(series.times))

    def train(self, series: Sequence[SeriesKey], advance: Advance) -> None:
        """Train a model for every series from what is stored."""
        outcomes = train_many(self._settings, self._dsn, series, os.cpu_count() or 1, advance)
        for key, outcome in outcomes.items():
            if not outcome.startswith("trained"):
                message = f"{'/'.join(key)}: {outcome}"
                raise ServiceError(message)

    def start_daemon(self) -> None:
        """Start the daemon as a process of its own; it takes its settings from a file."""
        config = self._folder / "config.yaml"
        config.touch(0o600)
        config.write_text(self._settings.model_dump_json())  # JSON is YAML
        log = self._stack.enter_context((self._folder / "daemon.log").open("wb"))
        process = embedded.spawn(
            [sys.executable, "-m", "insa_anomaly", "run", "--config", str(config)],
            stderr=log.fileno(),
            cwd=Path.cwd(),
        )
        self._stack.callback(embedded.stop, process)
        deadline = monotonic() + READY_SECONDS
        while not self._ready():
            if process.poll() is not None or monotonic() > deadline:
                lines = (self._folder / "daemon.log").read_text(errors="replace").splitlines()
                message = f"the daemon does not get ready; its last words: {' | '.join(lines[-3:])}"
                raise ServiceError(message)
            sleep(0.1)

    def _ready(self) -> bool:
        try:
            with urlopen(
                f"http://{self._settings.http.host}:{self._settings.http.port}/readyz",
                timeout=ASK_SECONDS,
            ) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def feeder(self) -> AbstractContextManager[MessagePublisher]:
        """Return a connection for publishing."""
        return feeder(self._broker, "plant")

    @contextmanager
    def listen(self, topics: str, hear: Callable[[bytes], None]) -> Iterator[None]:
        """Subscribe to topics while the block runs."""
        address = replace(access(self._broker), client_id=f"insa-demo-{uuid4().hex[:8]}")
        listener = Listener(address, [topics], lambda _topic, payload, _at: hear(payload))
        try:
            if not listener.open(CONNECT_SECONDS):
                raise BrokerAway
            yield
        finally:
            listener.close()

    def stored(self, start: int, end: int) -> Stored:
        """Return the readings of the span that are in the database."""
        return Stored(*self._history.counts(start, end))

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return clock.now() / SECOND


def _columns(series: SeriesHistory) -> Telemetry:
    n = len(series.times)
    return Telemetry(
        keys=[series.key],
        key=np.zeros(n, np.int32),
        timestamp=series.times,
        discriminator=series.values.view(np.int64),
        value=series.values,
        quality=np.zeros(n, np.int16),
        flags=np.zeros(n, np.int16),
    )


def demo_command(
    duration: Annotated[
        float | None, typer.Option(min=5, help="Seconds of streaming [default: until Ctrl-C].")
    ] = None,
    *,
    json: FiguresJson = False,
) -> None:
    """Show the whole way on a simulated plant with known faults, on servers of its own."""
    set_up_logging("WARNING")
    raise typer.Exit(run_demo(duration, json=json))
