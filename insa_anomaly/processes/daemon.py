"""The daemon, put together: its parts, the order in which they open, the signals that end it."""

import faulthandler
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import msgspec

from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.adapters.disk.reserve import FileReserve
from insa_anomaly.adapters.host.shared_memory import SharedMemory
from insa_anomaly.adapters.host.systemd import Notifier
from insa_anomaly.adapters.mqtt import MqttConnection, Terms
from insa_anomaly.errors import ConfigError
from insa_anomaly.files.whole import write_whole
from insa_anomaly.instrumentation.daemon import daemon_started, daemon_stopped, daemon_stopping
from insa_anomaly.instrumentation.logger import set_up_logging
from insa_anomaly.instrumentation.metrics import metrics_text
from insa_anomaly.ports.broker import Broker
from insa_anomaly.processes import admin_child
from insa_anomaly.processes.reload import Reload
from insa_anomaly.processes.trainer import start_child
from insa_anomaly.runtime.admin_process import AdminProcess
from insa_anomaly.runtime.daemon import Daemon, DaemonParts, Listeners, Supervision
from insa_anomaly.runtime.feed import Feed
from insa_anomaly.runtime.fleet.devices import DeviceTerms
from insa_anomaly.runtime.fleet.fleet import Fleet
from insa_anomaly.runtime.fleet.registry import Registry
from insa_anomaly.runtime.fleet.view import compared
from insa_anomaly.runtime.heartbeats import Heartbeats
from insa_anomaly.runtime.intake import Intake
from insa_anomaly.runtime.latest import LatestPublisher
from insa_anomaly.runtime.measure import Backlog, Measure
from insa_anomaly.runtime.models.activity import Activity
from insa_anomaly.runtime.models.events import ModelEvents
from insa_anomaly.runtime.models.failures import Failures
from insa_anomaly.runtime.models.trainer import Trainer
from insa_anomaly.runtime.publish import EventPublisher
from insa_anomaly.runtime.record import RecordReader
from insa_anomaly.runtime.score import ScoreReader
from insa_anomaly.runtime.status import StatusPublisher, last_will
from insa_anomaly.services.stream import Condition, StreamServer
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.secrets import secret
from insa_anomaly.settings.sections import BrokerSettings, RedisSettings
from insa_anomaly.wiring import alerts, health, services, storage
from insa_anomaly.wiring.broker import access
from insa_anomaly.wiring.certificates import certificates
from insa_anomaly.wiring.clock import clock
from insa_anomaly.wiring.database import database, recorder
from insa_anomaly.wiring.memory import share_arenas
from insa_anomaly.wiring.models import model_files

MIGRATION_SECONDS = 600.0  # one may take, in the record thread
SIZES_SECONDS = 600.0  # looking through the folder of models may take, on a slow disk
CHECK_SECONDS = 300.0  # a health check may take
LAST_SECONDS = 60.0  # from a failure to the end of the process, at the latest
# A thread that waits for the interpreter gets it after this time: with the default of 5 ms, every
# acknowledgement would be seen to wait.
SWITCH_SECONDS = 0.001


def run(settings: Settings, source: str) -> int:
    """Run the daemon until SIGTERM or SIGINT; return the exit status."""
    began = time.monotonic()
    share_arenas()
    sys.setswitchinterval(SWITCH_SECONDS)
    # A crash prints the stack of every thread, as does the signal that ends a stuck daemon.
    faulthandler.enable()
    with ExitStack() as stack:
        stack.enter_context(storage.alone(settings.storage.directory))
        bound = (
            stack.enter_context(admin_child.listening(settings.http))
            if settings.http.enabled
            else None
        )
        dsn = stack.enter_context(database(settings))
        models = stack.enter_context(model_files(settings))
        activity, failures = Activity(), Failures(clock)
        memory = SharedMemory()
        parts = _assemble(
            settings,
            dsn,
            models=models,
            memory=memory,
            activity=activity,
            failures=failures,
            stack=stack,
        )
        port = None if bound is None else admin_child.AdminPort(settings, dsn, parts, memory, bound)
        admin = None if port is None else stack.enter_context(admin_child.begun(port))
        reload = Reload(settings, source, partial(_adjust, parts, admin))
        others = stack.enter_context(
            health.threads(
                settings, dsn, daemon=parts, models=models, activity=activity, failures=failures
            )
        )
        others = (
            *parts.others,
            ("measure", _measure(settings, parts)),
            ("settings", reload),
            *others,
        )
        others = others if admin is None else (*others, ("admin", admin))
        daemon = Daemon(
            replace(parts, others=others, admin=admin), clock, _supervision(settings, parts.broker)
        )
        daemon.restore()
        if port is not None:
            port.open(_desk(parts, daemon))
        with _stopping(daemon.end), _reloading(reload.ask):
            daemon_started(
                version("insa-anomaly"),
                config=source,
                start_seconds=round(time.monotonic() - began, 2),
            )
            status = daemon.run()
        stopping = time.monotonic()
    faulthandler.cancel_dump_traceback_later()
    daemon_stopped(time.monotonic() - stopping)
    return status


def _measure(settings: Settings, parts: DaemonParts) -> Measure:
    waiting = Backlog(parts.log, parts.state, lambda: parts.record.reached, clock)
    return Measure(
        waiting, partial(storage.sizes, settings.storage.directory, settings.models.directory)
    )


def _desk(parts: DaemonParts, daemon: Daemon) -> StreamServer:
    def condition() -> Condition:
        return Condition(daemon.troubles(), daemon.figures())

    fleet = parts.fleet
    known, trainer = fleet.registry.find, parts.trainer
    return StreamServer(
        index_of=known,
        compared=partial(compared, fleet),
        inlet=parts.intake,
        interrupt=trainer.interrupt,
        condition=condition,
        metrics=metrics_text,
    )


def _adjust(parts: DaemonParts, admin: AdminProcess | None, settings: Settings) -> None:
    """Apply the settings that can change at run time (`reload.LIVE`)."""
    set_up_logging(settings.logging.level, settings.logging.form)
    parts.record.adjust(settings.record)
    parts.trainer.adjust(settings.training)
    if admin is not None:
        admin.adjust(settings)


def _assemble(
    settings: Settings,
    dsn: str,
    *,
    models: ModelFiles,
    memory: SharedMemory,
    activity: Activity,
    failures: Failures,
    stack: ExitStack,
) -> DaemonParts:
    directory = settings.storage.directory
    reserve = FileReserve(directory / "reserve", settings.storage.reserve_bytes)
    log, found, lost = storage.opened(directory, settings.storage.log_bytes, reserve)
    stack.enter_context(log)
    states = stack.enter_context(found)
    registry = Registry(settings.most_series)
    feed = Feed(log, services.parser(settings), registry, clock)
    intake = Intake(log, feed, clock, settings.intake, reserve)
    broker = intake.broker = _broker(settings, intake, directory)
    terms = DeviceTerms(settings.devices.parameters(settings.detection), settings.devices.tolerance)
    fleet = Fleet(registry, settings.detection, settings.verdict, terms, memory.zeros)
    memory.seal()
    publisher = EventPublisher(states, broker, clock)
    events = ModelEvents(states, publisher.enqueue)
    trainer = Trainer(
        models,
        intake.swap,
        lambda: start_child(settings, dsn),
        settings.training,
        clock,
        on_trained=events.trained_by_itself,
        on_failed=failures.add,
    )
    latest = _latest(settings.redis, fleet, stack)
    alerting = alerts.opened(
        settings,
        states,
        registry=registry,
        publisher=publisher,
        listening=lambda: broker.listening and score.writable,
        stack=stack,
    )
    listeners = Listeners(
        publisher=publisher,
        trainer=trainer,
        latest=latest,
        activity=activity,
        dispatcher=alerting.dispatcher,
        silence=alerting.silence,
    )
    score = ScoreReader(
        feed,
        states,
        fleet,
        models,
        listeners,
        clock=clock,
        checkpoint_seconds=settings.storage.checkpoint_seconds,
        max_ahead=settings.readings.max_ahead,
    )
    if lost:
        states.bind(log.id)
        score.adopt_active_models()
    record = RecordReader(
        log=log,
        feed=feed,
        state=states,
        recorder=stack.enter_context(recorder(dsn, settings, log.id)),
        models=models,
        settings=settings.record,
        clock=clock,
    )
    others = (
        ("alert", alerting.dispatcher),
        ("silence", alerting.silence),
        ("certificates", certificates(settings, broker)),
    )
    return DaemonParts(
        log=log,
        state=states,
        feed=feed,
        fleet=fleet,
        intake=intake,
        broker=broker,
        score=score,
        record=record,
        publisher=publisher,
        latest=latest,
        trainer=trainer,
        others=others,
        dispatcher=alerting.dispatcher,
        reserve=reserve,
    )


def _supervision(settings: Settings, broker: Broker) -> Supervision:
    usual = settings.supervision.stuck_seconds
    training = usual + 2 * settings.training.deadline  # one, and the other's that it waits for
    limits = {"record": usual + MIGRATION_SECONDS, "trainer": training, "jobs": training}
    limits |= {"measure": usual + SIZES_SECONDS, "health": usual + CHECK_SECONDS}
    return Supervision(
        StatusPublisher(broker, settings.broker.client_id, version("insa-anomaly")),
        Heartbeats(usual, limits),
        Notifier(os.environ.get("NOTIFY_SOCKET")).tell,
        partial(faulthandler.dump_traceback_later, LAST_SECONDS, exit=True),
    )


def _latest(address: RedisSettings, fleet: Fleet, stack: ExitStack) -> LatestPublisher | None:
    if not address.url:
        return None
    # The driver takes 16 MB and 0.3 s
    from insa_anomaly.adapters.redis.latest import RedisLatest  # noqa: PLC0415

    latest = stack.enter_context(RedisLatest(address.url, secret(address.password_file)))
    return LatestPublisher(latest, clock, lambda index: fleet.model.get(index, (None, 0))[0])


def _broker(settings: Settings, intake: Intake, directory: Path) -> MqttConnection:
    """Connect to the broker, and end subscriptions of earlier runs that this run does not have.

    The broker's session remembers subscriptions until they are ended.
    """
    filters = [subscription.filter for subscription in settings.readings.subscriptions]
    canary = _canary(settings.broker)
    stale = _remember(
        directory / "subscriptions.json", filters if canary is None else [*filters, canary]
    )
    will = last_will(settings.broker.client_id, version("insa-anomaly"))
    terms = Terms(
        filters,
        stale,
        will,
        settings.broker.session_expiry,
        linger=settings.intake.linger,
        canary=canary,
    )
    return MqttConnection(
        access(settings.broker), terms, intake.hand_over, reader=settings.broker.reader
    )


def _canary(address: BrokerSettings) -> str | None:
    """Return the canary's topic: it holds the client id, so that every daemon has its own."""
    level = re.sub(r"[^\w.-]", "_", address.client_id)
    return None if address.canary is None else f"{address.canary}/{level}"


def _remember(file: Path, filters: list[str]) -> list[str]:
    """Return the subscriptions of earlier runs, and add the new filters to them in the file."""
    try:
        earlier = msgspec.json.decode(file.read_bytes(), type=list[str]) if file.exists() else []
        every = sorted({*filters, *earlier})
        if every != earlier:
            write_whole(file, msgspec.json.encode(every))
    except (OSError, msgspec.DecodeError) as error:
        message = (
            f"what was subscribed to before cannot be read from {file}, or not be "
            f"written there: {error}"
        )
        raise ConfigError(message) from error
    return earlier


@contextmanager
def _reloading(ask: Callable[[], None]) -> Iterator[None]:
    """Call `ask` at SIGHUP while the block runs."""
    before = signal.signal(signal.SIGHUP, lambda _number, _frame: ask())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def _stopping(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` at SIGTERM and SIGINT while the block runs; then restore the handlers."""

    def handle(number: int, _: FrameType | None) -> None:
        daemon_stopping(signal.Signals(number).name)
        end()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
