"""The undisturbed run: the same detector on the same readings, without log, broker or database."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.event import (
    Transition,
    anomaly_id,
    deterministic_id,
    episode_id,
)
from insa_anomaly.core.reading.parser import Parser
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.reading.topics import Acceptance
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.core.scoring.status import Status
from insa_anomaly.core.series.detector import Results
from insa_anomaly.ports.log import Entry
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.runtime.feed import parsed
from insa_anomaly.runtime.fleet.fleet import Fleet
from insa_anomaly.runtime.fleet.registry import Registry
from tests.chaos.plant import BEGIN, KEYS, NEVER_HISTORICAL, Message, for_every_series

_AT_ONCE = 2000  # messages
_RECEIVED = BEGIN + 10**14  # long after every reading


@dataclass(frozen=True)
class Standing:
    """An episode at its newest transition; `closed_at` in microseconds."""

    readings: int
    peak: float
    closed_at: int | None


@dataclass
class Expected:
    """Expected results: values by (device, metric, time in us); scores, episodes, events by id."""

    readings: dict[tuple[str, str, int], float] = field(default_factory=dict)
    anomalies: dict[str, float] = field(default_factory=dict)
    episodes: dict[str, Standing] = field(default_factory=dict)
    events: dict[str, str] = field(default_factory=dict)

    def take(self, telemetry: Telemetry, results: Results) -> None:
        """Add readings in the order of their arrival, with the detector's results."""
        anomalous = (results.score < 0) & (
            (results.status == Status.SCORED) | (results.status == Status.LATE)
        )
        for i, number in enumerate(telemetry.key.tolist()):
            device, metric = telemetry.keys[number]
            time = int(telemetry.timestamp[i])
            if (device, metric, time) in self.readings:
                continue  # repeated
            self.readings[device, metric, time] = float(telemetry.value[i])
            name = anomaly_id(device, metric, time, int(telemetry.discriminator[i]))
            if anomalous[i]:
                self.anomalies[name] = float(results.score[i])
            if results.transition[i] != Transition.NONE:
                self._turn(device, metric, time, reading=name, results=results, i=i)

    def _turn(
        self, device: str, metric: str, time: int, *, reading: str, results: Results, i: int
    ) -> None:
        kind = Transition(int(results.transition[i])).name.lower()
        episode = episode_id(device, metric, int(results.episode_started[i]))
        closed_at = time if kind == "closed" else None
        self.episodes[episode] = Standing(
            int(results.episode_readings[i]), float(results.episode_peak[i]), closed_at
        )
        self.events[deterministic_id("event", episode, kind, reading)] = kind


def expected(messages: Iterable[Message]) -> Expected:
    """Return the results of these messages, in this order."""
    registry = Registry(len(KEYS))
    fleet = Fleet(registry, Parameters(), Policy())
    for one in for_every_series():
        fleet.swap(SeriesKey(one.model.device_id, one.model.metric_name), one.model)
    parser = Parser(Acceptance(max_age=None, historical_after=NEVER_HISTORICAL))
    found, said = Expected(), list(messages)
    for begin in range(0, len(said), _AT_ONCE):
        batch = parsed(
            Entry(1 + begin, _RECEIVED, said[begin : begin + _AT_ONCE], []), parser, registry
        )
        found.take(batch.telemetry, fleet.advance(batch.telemetry))
    assert np.isfinite(list(found.anomalies.values())).all()
    return found
