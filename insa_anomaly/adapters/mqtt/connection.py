"""The daemon's connection to the broker: the port `Broker`."""

from collections.abc import Callable
from itertools import count
from queue import Empty, SimpleQueue
from time import monotonic

from insa_anomaly.adapters.mqtt.access import Access, Backoff, Terms
from insa_anomaly.adapters.mqtt.canary import Canary
from insa_anomaly.adapters.mqtt.link import End, EndReason, Link
from insa_anomaly.adapters.mqtt.packets import Message, refusal, unpublishable
from insa_anomaly.adapters.mqtt.session import Session
from insa_anomaly.errors import BrokerAway
from insa_anomaly.instrumentation import broker
from insa_anomaly.ports.broker import Delivery, Settled

HandOver = Callable[[Delivery], bool]
# Tokens of one connection: packet ids, and above them the numbers of messages that were not sent.
_TOKENS = 1 << 20
_UNSENT = 1 << 16


class MqttConnection(Session):
    """A session stored by the broker; deliveries go to `hand_over`, in the thread that reads.

    While `hand_over` waits, no packet is read: this wait is the back-pressure, and it must end well
    before the keepalive is over. If `hand_over` returns False, the connection is cut and made
    again: the only way to have the broker deliver once more.
    """

    def __init__(
        self,
        access: Access,
        terms: Terms,
        hand_over: HandOver,
        *,
        reader: str = "fast",
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(access, terms, reader, backoff or Backoff())
        self._hand_over = hand_over
        self._settled: SimpleQueue[Settled] = SimpleQueue()
        self._unsent = count()
        self._had_session = bool(terms.stale_filters)
        self._sessions_lost = 0
        self._last_refusal = ""
        self._canary = Canary(terms.canary)
        self._last_doubt: str | None = None

    @property
    def undelivered(self) -> str | None:
        """Reason to doubt that published messages reach us; None while a message proves it."""
        return self._canary.trouble

    @property
    def sessions_lost(self) -> int:
        """Connections on which the broker had lost our session, and with it the queued messages."""
        return self._sessions_lost

    def acknowledge(self, *deliveries: Delivery) -> None:
        """Send PUBACKs for deliveries of the present connection.

        Deliveries of a connection that ended are left out: the broker delivers them again.
        """
        link = self._link
        if link is not None:
            link.client.acknowledge(
                [mid for one in deliveries if one.generation == link.generation for mid in one.mids]
            )

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Publish at QoS 1 and return a token.

        A message over which the broker would end the connection is not sent, but settled as
        refused. The caller bounds how many messages are unsettled; above the broker's limit they
        wait here. Raises BrokerAway.
        """
        link = self._link
        if link is None:
            raise BrokerAway
        fault = unpublishable(topic, payload, link.most)
        if fault is not None:
            token = link.generation * _TOKENS + _UNSENT + next(self._unsent) % _UNSENT
            self._settled.put(Settled(token, fault))
            return token
        try:
            return link.generation * _TOKENS + link.client.send(topic, payload, retain=retain)
        except OSError as error:
            raise BrokerAway from error

    def settled(self, timeout: float) -> list[Settled]:
        """Return the answers since the last call; wait up to `timeout` seconds for the first."""
        answers: list[Settled] = []
        try:
            answers.append(self._settled.get(timeout > 0, timeout))
            while True:
                answers.append(self._settled.get_nowait())
        except Empty:
            return answers

    # --------------------------------------------------------------------- in the thread that reads
    def granted(self, link: Link, *, session_present: bool) -> None:
        """Log the new connection and count a lost session."""
        super().granted(link, session_present=session_present)
        self._last_refusal = ""
        protocol = "5" if link.protocol == 5 else "3.1.1"
        address = (self._access.host, self._access.port)
        broker.broker_connected(*address, protocol=protocol, session=session_present)
        if self._had_session and not session_present:
            self._sessions_lost += 1
            broker.session_lost()
        self._had_session = self._terms.expiry > 0

    def subscribed(self, link: Link, refused: str | None) -> None:
        """Log refused subscriptions and start the canary."""
        super().subscribed(link, refused)
        if refused:
            broker.broker_refused(f"subscription to {refused}")
        self._canary.begin(link.deaf, monotonic())

    def turned(self, link: Link) -> None:
        """Send the canary when it is due, and log a change of its state."""
        due = self._canary.due(monotonic())
        if due is not None:
            self._canary.sent(link.client.send(*due, retain=False))
        doubt, self._last_doubt = self._last_doubt, self._canary.trouble
        if self._last_doubt != doubt:
            broker.delivery_doubted(self._last_doubt)

    def delivered(self, link: Link, messages: list[Message], mids: list[int]) -> bool:
        """Hand messages over, without the canaries among them."""
        others, their_mids, own_mids = self._canary.heard(messages, mids, monotonic())
        if own_mids:
            link.client.acknowledge(own_mids)
        return not others or self._hand_over(Delivery(link.generation, others, their_mids))

    def answered(self, link: Link, answers: list[tuple[int, int]]) -> None:
        """Settle the publishes that were answered."""
        for mid, reason in answers:
            if self._canary.answered(mid, refusal(reason), monotonic()):
                continue
            self._settled.put(Settled(link.generation * _TOKENS + mid, refusal(reason)))

    def ended(self, end: End, delay: float) -> None:
        """Log the end; a broker that refuses repeatedly for the same reason is logged once."""
        self._canary.end(monotonic(), lost=end.cause is EndReason.LOST)
        if end.cause is EndReason.TAKEN_OVER:
            broker.broker_taken_over(self._access.client_id, end.reason, delay)
        elif end.cause is not EndReason.REFUSED:
            broker.broker_disconnected(end.reason)
        elif end.reason != self._last_refusal:
            broker.broker_refused(end.reason)
        self._last_refusal = end.reason if end.cause is EndReason.REFUSED else ""
