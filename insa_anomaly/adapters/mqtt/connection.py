"""The daemon's one connection to the broker: the port `Broker`."""

from collections.abc import Callable
from itertools import count
from queue import Empty, SimpleQueue
from time import monotonic

from insa_anomaly import instrumentation
from insa_anomaly.adapters.mqtt.access import Access, Backoff, Terms
from insa_anomaly.adapters.mqtt.canary import Canary
from insa_anomaly.adapters.mqtt.link import Cause, End, Link
from insa_anomaly.adapters.mqtt.packets import Message, refusal, unpublishable
from insa_anomaly.adapters.mqtt.session import Session
from insa_anomaly.errors import BrokerAway
from insa_anomaly.ports import Delivery, Settled

HandOver = Callable[[Delivery], bool]
_TOKENS = 1 << 20  # tokens of one connection: packet ids, and above them those that were never sent
_UNSENT = 1 << 16


class Connection(Session):
    """A kept session. Deliveries go to `hand_over`, in the thread that reads.

    While `hand_over` waits, nothing is read: that is the back-pressure; it must return well before the keepalive is over. Where it
    answers False the connection is torn off and made again, the only way to have the broker deliver once more.
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
        """Why nothing proves that what is published reaches us; None where something does."""
        return self._canary.trouble

    @property
    def sessions_lost(self) -> int:
        """Connections on which the broker had forgotten our session, and with it what it had queued."""
        return self._sessions_lost

    def acknowledge(self, *deliveries: Delivery) -> None:
        """PUBACK all of them but those of a connection that ended: they will be delivered again."""
        link = self._link
        if link is not None:
            link.client.acknowledge(
                [mid for one in deliveries if one.generation == link.generation for mid in one.mids]
            )

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Send at QoS 1; answers a token. What the broker would end the connection over is not sent, but settled as refused.

        Raises BrokerAway. How many are under way is for the caller to bound; above what the broker allows they wait here.
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
        """Answers that came since the last call; waits up to `timeout` seconds for the first."""
        answers: list[Settled] = []
        try:
            answers.append(
                self._settled.get(timeout=timeout) if timeout > 0 else self._settled.get_nowait()
            )
            while True:
                answers.append(self._settled.get_nowait())
        except Empty:
            return answers

    # --------------------------------------------------------------------- in the thread that reads
    def granted(self, link: Link, *, session_present: bool) -> None:
        """The broker took us."""
        super().granted(link, session_present=session_present)
        self._last_refusal = ""
        instrumentation.broker_connected(
            self._access.host,
            self._access.port,
            protocol="5" if link.protocol == 5 else "3.1.1",
            session_present=session_present,
        )
        if self._had_session and not session_present:
            self._sessions_lost += 1
            instrumentation.session_lost()
        self._had_session = self._terms.expiry > 0

    def subscribed(self, link: Link, refused: str | None) -> None:
        """Every subscription is answered."""
        super().subscribed(link, refused)
        if refused:
            instrumentation.broker_refused(f"subscription to {refused}")
        self._canary.begin(link.deaf, monotonic())

    def turned(self, link: Link) -> None:
        """Send the canary where it is due, and say how it is."""
        due = self._canary.due(monotonic())
        if due is not None:
            self._canary.sent(link.client.send(*due, retain=False))
        doubt, self._last_doubt = self._last_doubt, self._canary.trouble
        if self._last_doubt != doubt:
            instrumentation.delivery_doubted(self._last_doubt)

    def delivered(self, link: Link, messages: list[Message], mids: list[int]) -> bool:
        """Messages came; the canary among them is ours alone."""
        others, their_mids, own_mids = self._canary.heard(messages, mids, monotonic())
        if own_mids:
            link.client.acknowledge(own_mids)
        return not others or self._hand_over(Delivery(link.generation, others, their_mids))

    def answered(self, link: Link, answers: list[tuple[int, int]]) -> None:
        """PUBACKs came."""
        for mid, reason in answers:
            if self._canary.answered(mid, refusal(reason), monotonic()):
                continue
            self._settled.put(Settled(link.generation * _TOKENS + mid, refusal(reason)))

    def ended(self, end: End, delay: float) -> None:
        """One line for each end, and one in all while the broker goes on refusing."""
        self._canary.end(monotonic(), lost=end.cause is Cause.LOST)
        if end.cause is Cause.TAKEN_OVER:
            instrumentation.broker_taken_over(self._access.client_id, end.reason, delay)
        elif end.cause is not Cause.REFUSED:
            instrumentation.broker_disconnected(end.reason)
        elif end.reason != self._last_refusal:
            instrumentation.broker_refused(end.reason)
        self._last_refusal = end.reason if end.cause is Cause.REFUSED else ""
