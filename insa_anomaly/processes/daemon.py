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
        bound = None
        if settings.http.enabled:
            bound = stack.enter_context(admin_child.listening(settings.http))
        dsn = stack.enter_context(database(settings))
        models = stack.enter_context(model_files(settings))
        records, memory = health.Records(Activity(), Failures(clock)), SharedMemory()
        parts = _assemble(settings, dsn, models, memory, records, stack=stack)
        port = None if bound is None else admin_child.AdminPort(settings, dsn, parts, memory, bound)
        admin = None if port is None else stack.enter_context(admin_child.begun(port))
        reload = Reload(settings, source, partial(_adjust, parts, admin))
        keeping = stack.enter_context(health.threads(settings, dsn, parts, models, records))
        own = (("measure", _measure(settings, parts)), ("settings", reload))
        last = () if admin is None else (("admin", admin),)
        parts = replace(parts, others=(*parts.others, *own, *keeping, *last), admin=admin)
        daemon = Daemon(parts, clock, _supervision(settings, parts.broker))
        daemon.restore()
        if port is not None:
            port.open(_desk(parts, daemon))
        with _stopping(daemon.end), _reloading(reload.ask):
            took = round(time.monotonic() - began, 2)
            daemon_started(version("insa-anomaly"), config=source, start_seconds=took)
            status = daemon.run()
        stopping = time.monotonic()
    faulthandler.cancel_dump_traceback_later()
    daemon_stopped(time.monotonic() - stopping)
    return status


def _measure(settings: Settings, parts: DaemonParts) -> Measure:
    waiting = Backlog(parts.log, parts.state, lambda: parts.record.reached, clock)
    sizes = partial(storage.sizes, settings.storage.directory, settings.models.directory)
    return Measure(waiting, sizes)


def _desk(parts: DaemonParts, daemon: Daemon) -> StreamServer:
    def condition() -> Condition:
        return Condition(daemon.troubles(), daemon.figures())

    known, shadowed = parts.fleet.registry.find, partial(compared, parts.fleet)
    asked = known, shadowed, parts.intake, parts.trainer.interrupt
    return StreamServer(*asked, condition=condition, metrics=metrics_text)


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
    models: ModelFiles,
    memory: SharedMemory,
    records: health.Records,
    *,
    stack: ExitStack,
) -> DaemonParts:
    directory = settings.storage.directory
    reserve = FileReserve(directory / "reserve", settings.storage.reserve_bytes)
    log, found, lost = storage.opened(directory, settings.storage.log_bytes, reserve)
    stack.enter_context(log)
    state = stack.enter_context(found)
    registry = Registry(settings.most_series)
    feed = Feed(log, services.parser(settings), registry, clock)
    intake = Intake(log, feed, clock, settings.intake, reserve)
    broker = intake.broker = _broker(settings, intake, directory)
    terms = DeviceTerms(settings.devices.parameters(settings.detection), settings.devices.tolerance)
    fleet = Fleet(registry, settings.detection, settings.verdict, terms, memory.zeros)
    memory.seal()
    publisher = EventPublisher(state, broker, clock)
    events = ModelEvents(state, publisher.enqueue)
    begin = partial(start_child, settings, dsn)
    told, failed = events.trained_by_itself, records.failures.add
    trainer = Trainer(
        models, intake.swap, begin, settings.training, clock, on_trained=told, on_failed=failed
    )
    latest = _latest(settings.redis, fleet, stack)

    def listening() -> bool:
        return broker.listening and score.writable

    alerting = alerts.opened(settings, state, registry, publisher, listening, stack=stack)
    listeners = Listeners(publisher, trainer, latest, records.activity, *alerting)
    ahead, every = settings.readings.max_ahead, settings.storage.checkpoint_seconds
    reader = partial(ScoreReader, clock=clock, checkpoint_seconds=every, max_ahead=ahead)
    score = reader(feed, state, fleet, models, listeners)
    if lost:
        state.bind(log.id)
        score.adopt_active_models()
    writer = stack.enter_context(recorder(dsn, settings, log.id))
    record = RecordReader(log, feed, state, writer, models, settings=settings.record, clock=clock)
    others = (
        ("alert", alerting.dispatcher),
        ("silence", alerting.silence),
        ("certificates", certificates(settings, broker)),
    )
    return DaemonParts(
        log=log,
        state=state,
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
    every = filters if canary is None else [*filters, canary]
    stale, linger = _remember(directory / "subscriptions.json", every), settings.intake.linger
    address = settings.broker
    will = last_will(address.client_id, version("insa-anomaly"))
    terms = Terms(filters, stale, will, address.session_expiry, linger=linger, canary=canary)
    return MqttConnection(access(address), terms, intake.hand_over, reader=address.reader)


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
        failed = f"cannot be read from {file}, or not be written there: {error}"
        raise ConfigError(f"what was subscribed to before {failed}") from error
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
