"""A log, a state, and a score reader that can be restarted on them, with a watching audience."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from insa_anomaly.core.notification.event import Anomaly, Episode
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.series.detector import Results
from insa_anomaly.ports.log import Swap
from insa_anomaly.ports.recorder import Telemetry
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.runtime.detections import Detections
from insa_anomaly.runtime.feed import Feed
from insa_anomaly.runtime.fleet.fleet import Fleet
from insa_anomaly.runtime.fleet.registry import Registry
from insa_anomaly.runtime.score import ScoreReader
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.testing.log import MemoryLog
from insa_anomaly.testing.models import MemoryModels
from insa_anomaly.testing.state import MemoryState
from tests.runtime.streams import CAPACITY, NOW, PARAMETERS, POLICY, Message, models, parser

SHELF = models(6)
EVERYTHING = 10**12
Outcome = tuple[list[Anomaly], list[Episode], list[Outgoing], dict[SeriesKey, bytes]]


class Watching:
    """An audience that remembers its calls, and checks them against the state."""

    def __init__(self, state: State) -> None:
        self.told: list[Outgoing] = []
        self.came: list[float | None] = []
        self.scored = 0
        self.asked: list[SeriesKey] = []
        self._state = state

    def on_events(self, outgoing: list[Outgoing], came: float | None) -> None:
        """Record events that are new in the outbox."""
        assert self._state.outgoing(outgoing[0].number - 1, len(outgoing)) == outgoing
        self.told += outgoing
        self.came.append(came)

    def on_results(self, telemetry: Telemetry, results: Results) -> None:
        """Count the readings of a batch that was scored."""
        assert len(results.score) == len(telemetry.value)
        self.scored += len(results.score)

    def on_due(self, keys: list[SeriesKey]) -> None:
        """Record the series that ask for training."""
        self.asked += keys


@dataclass
class World:
    """A log, a state, and a score reader that can be restarted on them."""

    log: MemoryLog = field(default_factory=MemoryLog)
    state: MemoryState = field(default_factory=MemoryState)
    shelf: MemoryModels = SHELF
    capacity: int = CAPACITY
    clock: SettableClock = field(default_factory=lambda: SettableClock(NOW))

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a score reader where the last reader ended."""
        registry = Registry(self.capacity)
        self.feed = Feed(self.log, parser(), registry, self.clock)
        self.fleet = Fleet(registry, PARAMETERS, POLICY)
        self.audience = Watching(self.state)
        self.score = ScoreReader(
            self.feed,
            self.state,
            self.fleet,
            self.shelf,
            self.audience,
            clock=self.clock,
            checkpoint_seconds=1e9,
        )
        self.state.bind(self.log.id)
        self.score.restore()

    def take(self, messages: list[Message], swaps: Sequence[Swap] = ()) -> None:
        """Append an entry to the log."""
        self.feed.add(self.log.append(messages, list(swaps), NOW))

    def outcome(self) -> Outcome:
        """Score the whole log, and return anomalies, episodes, events and states."""
        self.score.drain()
        found = [Detections.from_bytes(body) for body in self.state.results(0, EVERYTHING).values()]
        anomalies = [anomaly for one in found for anomaly in one.anomalies]
        episodes = [episode for one in found for episode in one.episodes]
        return anomalies, episodes, self.state.outgoing(0, EVERYTHING), self.state.restore()[1]
