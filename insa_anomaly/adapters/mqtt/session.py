"""A session over many connections: a thread keeps us connected, a number counts the connections.

Each connection is a `Link` with a paho client of its own; the session decides which version of MQTT
the next connection speaks, and when it is made.
"""

import random
from math import inf
from threading import Event, Thread
from time import monotonic

from insa_anomaly.adapters.mqtt.access import Access, Backoff, Terms
from insa_anomaly.adapters.mqtt.client import FastClient, StockClient
from insa_anomaly.adapters.mqtt.link import End, EndReason, Link
from insa_anomaly.adapters.mqtt.packets import Message
from insa_anomaly.errors import BrokerRefused
from insa_anomaly.ports.closing import Closing

READERS: dict[str, type[StockClient]] = {"fast": FastClient, "stock": StockClient}
_LEAVE_SECONDS = 2.0
_SUSPICIOUS = 5  # connections in a row, lost without a DISCONNECT soon after they were granted
_SOON = 5.0  # seconds
_SUSPECTED_SECONDS = 8.0  # longest wait then: the cause may have been a bad network after all
_ALWAYS = Backoff()


class Session(Closing):
    """Keeps a connection up from `open` to `close`; subclasses handle its events."""

    def __init__(
        self, access: Access, terms: Terms, reader: str = "fast", backoff: Backoff = _ALWAYS
    ) -> None:
        self._access = access
        self._terms = terms
        self._reader = READERS[reader]
        self._backoff = backoff
        self._context = access.tls.context() if access.tls else None
        self._version = 0
        self._proven = False
        self._generation = 0
        self._subscribed = -1  # number of the connection on which every subscription is granted
        self._link: Link | None = None  # the connection that stands
        self._trying: Link | None = None
        self._failures = 0
        self._beat = monotonic()
        self._lost_soon = 0
        self._trouble = "not connected yet"
        self._certificate: bytes | None = None
        self._refused: str | None = None
        self._closing = Event()
        self._decided = Event()
        self._thread = Thread(target=self._run, name=f"mqtt {access.client_id}", daemon=True)

    # ------------------------------------------------------------------------------ from any thread
    def open(self, patience: float) -> bool:
        """Start; return whether the session is connected and subscribed within `patience` seconds.

        After False the attempts continue. Raises BrokerRefused, with the broker's reason; the
        session is then closed.
        """
        self._thread.start()
        self._decided.wait(patience)
        if self._refused:
            self.close()
            address = f"{self._access.host}:{self._access.port}"
            raise BrokerRefused(f"The MQTT broker at {address} refuses us: {self._refused}")
        return self._decided.is_set()

    def close(self) -> None:
        """Disconnect from the broker; cut the connection if the broker does not respond."""
        self._closing.set()
        link = self._trying
        if link is not None:
            link.close()
        if self._thread.ident is None:
            return
        self._thread.join(_LEAVE_SECONDS)
        if self._thread.is_alive() and link is not None:
            link.cut()
            self._thread.join(_LEAVE_SECONDS)

    @property
    def generation(self) -> int:
        """Count of connections and disconnections."""
        return self._generation

    @property
    def connected(self) -> bool:
        """Whether a granted connection stands."""
        return self._link is not None

    @property
    def listening(self) -> bool:
        """Whether every subscription of the standing connection is granted."""
        link = self._link
        return link is not None and link.generation == self._subscribed

    @property
    def alive(self) -> bool:
        """Whether the thread that keeps us connected runs."""
        return self._thread.is_alive()

    @property
    def silent_for(self) -> float:
        """Seconds since the thread that keeps us connected showed activity.

        Infinite once the thread has ended, 0 before it has begun.
        """
        if self._thread.ident is None:
            return 0.0
        if not self._thread.is_alive():
            return inf
        link = self._trying
        return monotonic() - max(self._beat, 0.0 if link is None else link.beat)

    @property
    def trouble(self) -> str:
        """Reason why we are not connected, or last were not."""
        return self._trouble

    @property
    def certificate(self) -> bytes | None:
        """The broker's last certificate, in DER; None if it had none."""
        return self._certificate

    # ------------------------------------------------------------------------ in the thread of ours
    def _run(self) -> None:
        while not self._closing.is_set():
            began = self._beat = monotonic()
            end = self._live()
            lasted = monotonic() - began
            if self._link is not None:
                self._link = None
                # It was granted: the broker is there, and an unstable network must not keep us
                # disconnected for long.
                self._failures = 0
                self._generation += 1
                end = self._suspected(end, lasted)
            else:
                self._lost_soon = 0
            if end.cause is EndReason.CLOSED or self._closing.is_set():
                return
            delay = self._after(end)
            trouble = end.reason
            if end.cause is EndReason.TAKEN_OVER:
                trouble = "another client seems to connect with our client id"
                trouble += f" {self._access.client_id}: {end.reason}"
            self._trouble = trouble
            self.ended(end, delay)
            self._beat = monotonic() + delay
            self._closing.wait(delay)

    def _live(self) -> End:
        try:
            version = self._access.versions[self._version]
            lasting = (self._reader, self._access, self._terms, self._context)
            link = self._trying = Link(
                *lasting, version=version, generation=self._generation + 1, owner=self
            )
        except ValueError as error:  # paho raises it for a topic or a name that it cannot use
            return End(EndReason.REFUSED, str(error))
        end = End(EndReason.CLOSED, "closed") if self._closing.is_set() else link.run()
        # With the last reference to the link, paho closes what `release` could not reach.
        self._trying = None
        return end

    def _suspected(self, end: End, lasted: float) -> End:
        """Detect a takeover that the broker does not report.

        Some brokers, such as mosquitto 2.0, close the connection without a DISCONNECT.
        """
        lost_soon = end.cause is EndReason.LOST and lasted < _SOON
        self._lost_soon = self._lost_soon + 1 if lost_soon else 0
        if self._lost_soon < _SUSPICIOUS:
            return end
        often = f"{self._lost_soon} times in a row soon after it was granted"
        return End(EndReason.TAKEN_OVER, f"{end.reason}, {often}")

    def _after(self, end: End) -> float:
        """Return the seconds to wait before the next attempt."""
        if end.cause is EndReason.REFUSED and not self._decided.is_set():
            self._refused = end.reason
            self._decided.set()
        if end.cause is EndReason.UNANSWERED and not self._proven:
            self._version = (self._version + 1) % len(self._access.versions)
            if self._version:
                return 0.0
        self._failures += 1
        # Two clients of our id must not expel each other in turn.
        failures = 30 if end.cause is EndReason.TAKEN_OVER else self._failures
        delay = self._backoff.delay(failures, random.random())  # noqa: S311 - spreads clients in time, hides no secret
        return min(delay, _SUSPECTED_SECONDS) if self._lost_soon >= _SUSPICIOUS else delay

    def granted(self, link: Link, *, session_present: bool) -> None:
        """Record the granted connection; called before any subscription."""
        del session_present
        self._proven = True
        self._certificate = link.certificate
        self._generation = link.generation
        self._link = link

    def subscribed(self, link: Link, refused: str | None) -> None:
        """Record that every subscription is answered."""
        self._subscribed = -1 if refused else link.generation
        if refused and not self._decided.is_set():
            self._refused = f"subscription to {refused}"
        self._decided.set()

    def delivered(self, link: Link, messages: list[Message], mids: list[int]) -> bool:
        """Acknowledge messages without using them."""
        del messages
        link.client.acknowledge(mids)
        return True

    def answered(self, link: Link, answers: list[tuple[int, int]]) -> None:
        """Ignore PUBACKs."""

    def turned(self, link: Link) -> None:
        """Do no regular work."""

    def ended(self, end: End, delay: float) -> None:
        """Ignore that a connection ended, or failed; the next attempt is `delay` seconds away."""
