"""A broker that a test plays."""

from collections.abc import Callable
from contextlib import suppress
from itertools import count, cycle
from queue import Empty, SimpleQueue

from insa_anomaly.errors import BrokerAway
from insa_anomaly.ports.broker import Delivery, Settled


class MemoryBroker:
    """The port `Broker` without a connection: a test delivers messages and inspects publications.

    `published` holds the accepted messages as (token, topic, payload, retained). `refusing` maps
    topics to the reason of their refusal. With `answering` False, answers wait until `answer` is
    called. `acknowledged` holds the deliveries acknowledged in time.
    """

    def __init__(self, hand_over: Callable[[Delivery], bool] = lambda _: True) -> None:
        self.published: list[tuple[int, str, bytes, bool]] = []
        self.acknowledged: list[Delivery] = []
        self.refusing: dict[str, str] = {}
        self.answering = True
        self.trouble = "not connected yet"
        self.undelivered: str | None = None
        self.silent_for = 0.0  # because there is no thread
        self._connected = False
        self.generation = 0
        self._hand_over = hand_over
        self._tokens = count(1)
        self._mids = cycle(range(1, 65536))
        self._waiting: list[Settled] = []
        self._settled: SimpleQueue[Settled] = SimpleQueue()

    def open(self, patience: float = 0.0) -> bool:
        """Connect."""
        del patience
        if not self._connected:
            self._connected = True
            self.generation += 1
        return True

    def close(self) -> None:
        """End the connection; pending answers are lost."""
        if self._connected:
            self._connected = False
            self.generation += 1
            self._waiting.clear()

    def deliver(self, messages: list[tuple[str, bytes]]) -> Delivery:
        """Deliver messages; without room for them, the connection is made anew."""
        delivery = Delivery(self.generation, messages, [next(self._mids) for _ in messages])
        if not self._hand_over(delivery):
            self.close()
            self.open()
        return delivery

    def answer(self) -> None:
        """Settle the published messages that are not answered yet."""
        while self._waiting:
            self._settled.put(self._waiting.pop(0))

    @property
    def connected(self) -> bool:
        """True between `open` and `close`."""
        return self._connected

    @property
    def listening(self) -> bool:
        """True between `open` and `close`."""
        return self._connected

    def acknowledge(self, *deliveries: Delivery) -> None:
        """Remember the deliveries whose connection still stands."""
        self.acknowledged += [
            one for one in deliveries if self._connected and one.generation == self.generation
        ]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Send, and return a token. Raises BrokerAway."""
        if not self._connected:
            raise BrokerAway
        token = next(self._tokens)
        usable = topic and topic.isprintable() and not set(topic) & {"+", "#"}
        refused = self.refusing.get(topic) or (None if usable else "topic name invalid")
        if refused is None:
            self.published.append((token, topic, payload, retain))
        self._waiting.append(Settled(token, refused))
        if self.answering:
            self.answer()
        return token

    def settled(self, timeout: float) -> list[Settled]:
        """Return the answers since the last call; wait up to `timeout` seconds for the first."""
        answers: list[Settled] = []
        with suppress(Empty):
            answers.append(self._settled.get(block=timeout > 0, timeout=timeout or None))
            while True:
                answers.append(self._settled.get_nowait())
        return answers
