"""A run: devices publish, faults happen, an operator listens; then the results are judged."""

import random
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple, Self

import msgspec
import numpy as np

from insa_anomaly.adapters.embedded import Tools
from insa_anomaly.core.notification.alert import Alert
from tests.acceptance.site import EVENTS, Heard, Site
from tests.chaos import plant
from tests.chaos.checker import Excused, Left, Verdict, judge
from tests.chaos.clients import Devices, operator
from tests.chaos.faults import PAUSE, Injector, Span
from tests.chaos.oracle import expected
from tests.chaos.world import EVERY_CHANGE, EVERY_TWO_SECONDS, World, opened
from tests.conftest import wait_for

# Faults only on request: no setting of mosquitto keeps every message through them.
UNUSUAL = ("broker kill",)
KILL_PAUSE = (8.0, 14.0)  # between kills of the broker, seconds
DRAIN_SECONDS = 120.0
# Faults that may end the connection to the broker.
_BREAKING = ("daemon", "broker", "wire to broker")
_ON_THE_WAY = (*_BREAKING, "postgres", "wire to postgres")  # on the path of a reading
_LOOK_SECONDS = 0.2
_SLOWEST = 8
# Share of the time, at the end, in which the daemon has no fault, so that its memory is measurable.
_CALM_SHARE = 0.25
_WARM_SECONDS = 10.0  # at the start of a daemon, in which its memory is not measured


@dataclass(frozen=True)
class Plan:
    """A plan of a run; `rate` is messages a second.

    `kinds` limits the faults, and None means all but the unusual kinds. A broker that is killed
    saves every two seconds, and with `contract` devices repeat the messages that it may have lost.
    Without `contract` it saves at every change.
    """

    seconds: float = 120.0
    seed: int = 1
    rate: float = 500.0
    kinds: Collection[str] | None = None
    pause: tuple[float, float] | None = None  # between faults, seconds; None: as usual
    contract: bool = True
    latency: float = 0.0  # seconds that the wire to the broker always takes
    program: Sequence[str] = ("insa_anomaly",)  # the daemon's module and its first arguments
    # Settings of the daemon, by section.
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def saving(self) -> Mapping[str, str]:
        """Settings by which mosquitto saves acknowledged messages."""
        if not self.kills_broker:
            return {}
        return EVERY_TWO_SECONDS if self.contract else EVERY_CHANGE

    @property
    def between(self) -> tuple[float, float]:
        """Pause between faults.

        A broker that is killed lives long enough to save acknowledged messages, and for devices to
        repeat the others.
        """
        return self.pause or (KILL_PAUSE if self.kills_broker else PAUSE)

    def wants(self, kind: str) -> bool:
        """Return whether this kind of fault may happen."""
        return (
            kind not in UNUSUAL
            if self.kinds is None
            else any(kind.startswith(one) for one in self.kinds)
        )

    @property
    def kills_broker(self) -> bool:
        """Whether the broker may lose acknowledged messages, and the order of the rest."""
        return self.kinds is not None and any(self.wants(kind) for kind in UNUSUAL)


class Recovery(NamedTuple):
    """Duration of a recovery, in seconds.

    `alone` leaves out the time of other faults on the path of a reading, `seconds` includes it.
    """

    alone: float
    seconds: float
    kind: str


class Figures(msgspec.Struct, frozen=True):
    """Figures of a run, as they are printed."""

    faults: int
    published: int
    puback: int
    stored: int
    lost: int
    duplicates: int
    dead_letters: int
    poison: int
    events_missing: int
    event_duplicates: int
    recovery_p99_s: float | None  # without the time of other faults
    recovery_through_p99_s: float | None  # including the time of other faults
    rss_slope_kb_min: float | None


@dataclass(frozen=True)
class Outcome:
    """Figures and complaints of a run, and its course."""

    figures: Figures
    complaints: list[str]
    count: dict[str, int]
    exits: list[str]
    slowest: list[Recovery]


@dataclass
class Watch:
    """A thread that measures the newest row in the database and the daemon's memory."""

    world: World
    newest: list[tuple[float, int]] = field(default_factory=list)
    memory: list[tuple[float, int, int]] = field(default_factory=list)  # monotonic, pid, kB
    _stop: Event = field(default_factory=Event)

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            newest, rss = self.world.newest(), self.world.rss()
            if newest is not None:
                self.newest.append((time.monotonic(), newest))
            if rss is not None:
                self.memory.append((time.monotonic(), self.world.daemon.pid, rss))


def run(plan: Plan, folder: Path, tools: Tools, say: Callable[[str], None]) -> Outcome:
    """Carry out the plan."""
    chance, heard = random.Random(plan.seed), Heard()
    with ExitStack() as stack:
        world = stack.enter_context(opened(folder, tools, plan.saving))
        injector = Injector(
            [fault for fault in world.faults() if plan.wants(fault.kind)], chance, plan.between
        )
        stack.enter_context(operator(world.broker.address, EVENTS, heard))
        for section, settings in plan.settings.items():
            world.site.put(section, settings)
        world.wires["broker"].delay(plan.latency)
        world.restart_as(plan.program)
        devices = Devices(
            world.broker.address,
            plant.messages(plan.seed),
            plan.rate,
            replay=plan.kills_broker and plan.contract,
        )
        stack.callback(devices.close)
        watch = stack.enter_context(Watch(world))
        injector.run(plan.seconds * (1 - _CALM_SHARE), world.watch)
        injector.run(plan.seconds * _CALM_SHARE, world.watch, spared="daemon")
        injector.heal_all(world.watch)
        say(
            f"{sum(injector.done.values())} faults, all over; "
            f"waiting for {len(devices.said)} messages to come through"
        )
        settle(world, devices, heard)
        left, unheard = Left.of(world.site, heard), _unheard(world.site)
    assert devices.failure is None, devices.failure
    everything = expected(devices.said)
    breaks = sum(times for kind, times in injector.done.items() if kind.startswith(_BREAKING))
    excused = Excused(
        breaks + len(world.exits), 0 if plan.contract else injector.done["broker kill"]
    )
    verdict = judge(
        devices.said, None if plan.kills_broker else everything, left, everything, excused
    )
    recoveries = recoveries_of(devices, injector.over, watch.newest)
    figures = _figures(devices, injector, watch, verdict, recoveries)
    return Outcome(
        figures,
        verdict.complaints + unheard,
        dict(injector.done),
        world.exits,
        sorted(recoveries)[-_SLOWEST:],
    )


def settle(world: World, devices: Devices, heard: Heard) -> None:
    """Wait until each message is acknowledged, scored, recorded and published; stop the daemon."""
    devices.stop(DRAIN_SECONDS)
    world.keep_running()
    world.daemon.wait_ready()
    wait_for(lambda: world.newest() is not None, 10)
    before = -1
    # until no message is in transit from the broker
    while before != (before := world.site.stored()):
        world.daemon.wait_idle(DRAIN_SECONDS)
        time.sleep(0.5)
    world.site.wait_told(heard)
    assert world.daemon.terminate() == 0, world.daemon.log[-3000:]


def _unheard(site: Site) -> list[str]:
    """Return a complaint for each target that lacks alerts of episodes.

    All alerts wait, because no target accepts any.
    """
    opened = {str(episode) for (episode,) in site.query("SELECT id FROM anomaly_episodes")}
    waiting: dict[str, set[str]] = {"mail": set(), "webhook:gone": set()}
    for target, body in site.alerts("SELECT target, body FROM waiting"):
        waiting[target].add(msgspec.msgpack.decode(body, type=Alert).cause)
    return [
        f"{len(opened - causes)} of {len(opened)} episodes are no alert for {target}"
        for target, causes in waiting.items()
        if opened - causes
    ]


def _figures(
    devices: Devices,
    injector: Injector,
    watch: Watch,
    verdict: Verdict,
    recoveries: Sequence[Recovery],
) -> Figures:
    return Figures(
        faults=sum(injector.done.values()),
        published=len(devices.said),
        puback=devices.puback,
        stored=verdict.stored,
        lost=verdict.lost,
        duplicates=verdict.duplicates,
        dead_letters=verdict.dead_letters,
        poison=verdict.poison,
        events_missing=verdict.events_missing,
        event_duplicates=verdict.event_duplicates,
        recovery_p99_s=_p99([one.alone for one in recoveries]),
        recovery_through_p99_s=_p99([one.seconds for one in recoveries]),
        rss_slope_kb_min=_slope(watch.memory),
    )


def _p99(seconds: Sequence[float]) -> float | None:
    return round(float(np.quantile(seconds, 0.99)), 2) if seconds else None


def recoveries_of(
    devices: Devices, faults: Sequence[Span], newest: Sequence[tuple[float, int]]
) -> list[Recovery]:
    """Return the time from the end of each fault until a later reading is in the database."""
    said: dict[int, float] = {}
    device, _ = plant.KEYS[0]
    for message, at in zip(devices.said, devices.said_at, strict=True):
        if not plant.is_poison(message) and message[0].endswith(device):
            said.setdefault(plant.time_of(message), at)
    looks = [(looked, said[time]) for looked, time in newest if time in said]
    times = np.maximum.accumulate([at for _, at in looks]).tolist() if looks else []
    wrong = together([(one.began, one.ended) for one in faults if one.kind.startswith(_ON_THE_WAY)])
    found = []
    for fault in faults:
        place = bisect_left(times, fault.ended)
        if place < len(looks):
            until = max(fault.ended, looks[place][0])
            disturbed = sum(
                max(0.0, min(end, until) - max(begin, fault.ended)) for begin, end in wrong
            )
            found.append(Recovery(until - fault.ended - disturbed, until - fault.ended, fault.kind))
    return found


def together(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the spans of time in which at least one of these spans lasted."""
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def _slope(memory: Sequence[tuple[float, int, int]]) -> float | None:
    """Return the growth of the last daemon in kB a minute, or None if it lived too briefly."""
    lived = [(at, rss) for at, pid, rss in memory if pid == memory[-1][1]]
    looked = [(at, rss) for at, rss in lived if at > lived[0][0] + _WARM_SECONDS]
    if len(looked) < 20:
        return None
    at, rss = np.array(looked).T
    return round(float(np.polyfit((at - at[0]) / 60, rss, 1)[0]), 1)
