"""The command `demo`: servers in a temporary folder, and the daemon as a process of its own."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from urllib.request import urlopen
from uuid import uuid4

import numpy as np
import typer

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.mqtt import Listener
from insa_anomaly.adapters.postgres.history import PostgresHistory
from insa_anomaly.adapters.postgres.recorder import PostgresRecorder
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.commands.options import FiguresJson, option
from insa_anomaly.commands.train import train_many
from insa_anomaly.core.reading.parser import SECOND
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.errors import BrokerAway, ServiceError
from insa_anomaly.instrumentation.logger import set_up_logging
from insa_anomaly.ports.recorder import Page, Telemetry
from insa_anomaly.settings import sections
from insa_anomaly.settings.load import Settings
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
        made = tempfile.TemporaryDirectory(prefix="insa-demo-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(made))
        # Servers that may not run as root must get through to their own folders, which are 0700.
        folder.chmod(0o711)
        tools = embedded.Tools(Path(os.environ.get("INSA_UNPACKED", "/nonexistent")))
        dsn = stack.enter_context(embedded.postgres(folder / "database"))
        redis = stack.enter_context(embedded.valkey(folder / "valkey"))
        server = stack.enter_context(embedded.broker(folder / "broker", tools))
        migrate(dsn)
        yield Services(stack, folder, dsn, redis, server)


class Services:
    """Servers around the demonstration: the body of `workbench.demo.demo.DemoServices`."""

    def __init__(
        self, stack: ExitStack, folder: Path, dsn: str, redis: str, server: embedded.EmbeddedBroker
    ) -> None:
        self._stack, self._folder, self._dsn = stack, folder, dsn
        password = folder / "broker-password"
        password.touch(0o600)
        password.write_text(server.password)
        self._broker = sections.BrokerSettings(
            host=server.host, port=server.port, username=server.user, password_file=password
        )
        self._settings = Settings(
            broker=self._broker,
            storage=sections.StorageSettings(directory=folder / "storage"),
            database=sections.DatabaseSettings(url=dsn),
            redis=sections.RedisSettings(url=redis),
            http=sections.HttpSettings(port=embedded.free_port()),
            models=sections.ModelsSettings(folder / "ml_models", key_file=folder / "model.key"),
            verdict=Policy(false_alarms_per_day=FALSE_ALARMS_PER_DAY),
            training=sections.TrainingSettings(automatic=False),
        )
        self._admin = f"{self._settings.http.host}:{self._settings.http.port}"
        self._history = stack.enter_context(PostgresHistory(dsn))

    def addresses(self) -> Sequence[tuple[str, str]]:
        """Return the names and addresses of the running servers."""
        broker = self._broker
        return [
            ("PostgreSQL", self._dsn),
            ("Redis", self._settings.redis.url or ""),
            ("MQTT broker", f"{broker.host}:{broker.port}, user {broker.username}"),
            ("admin port", f"http://{self._admin}/api/v1/status"),
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
                raise ServiceError(f"{'/'.join(key)}: {outcome}")

    def start_daemon(self) -> None:
        """Start the daemon as a process of its own; it takes its settings from a file."""
        config = self._folder / "config.yaml"
        config.touch(0o600)
        config.write_text(self._settings.model_dump_json())  # JSON is YAML
        log = self._stack.enter_context((self._folder / "daemon.log").open("wb"))
        command = [sys.executable, "-m", "insa_anomaly", "run", "--config", str(config)]
        process = embedded.spawn(command, stderr=log.fileno(), cwd=Path.cwd())
        self._stack.callback(embedded.stop, process)
        deadline = monotonic() + READY_SECONDS
        while not self._ready():
            if process.poll() is not None or monotonic() > deadline:
                lines = (self._folder / "daemon.log").read_text(errors="replace").splitlines()
                last = " | ".join(lines[-3:])
                raise ServiceError(f"the daemon does not get ready; its last words: {last}")
            sleep(0.1)

    def _ready(self) -> bool:
        try:
            with urlopen(f"http://{self._admin}/readyz", timeout=ASK_SECONDS) as answer:
                return bool(answer.status == 200)
        except OSError:
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
    none = np.zeros(len(series.times), np.int16)
    return Telemetry(
        [series.key],
        none.astype(np.int32),
        timestamp=series.times,
        discriminator=series.values.view(np.int64),
        value=series.values,
        quality=none,
        flags=none,
    )


def demo_command(
    duration: float | None = option("Seconds of streaming [default: until Ctrl-C].", min=5),
    *,
    json: FiguresJson = False,
) -> None:
    """Show the whole way on a simulated plant with known faults, on servers of its own."""
    set_up_logging("WARNING")
    raise typer.Exit(run_demo(duration, json=json))
