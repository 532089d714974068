"""What stays while connections come and go: one thread that keeps us connected, and the number of the connection.

Each connection is a `Link` with a paho client of its own; this decides which version of MQTT the next one speaks and when.
"""

import random
from math import inf
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Self

from insa_anomaly.adapters.mqtt.access import Access, Backoff, Terms
from insa_anomaly.adapters.mqtt.client import FastClient, StockClient
from insa_anomaly.adapters.mqtt.link import Cause, End, Link
from insa_anomaly.adapters.mqtt.packets import Message
from insa_anomaly.errors import BrokerRefused

READERS: dict[str, type[StockClient]] = {"fast": FastClient, "stock": StockClient}
_LEAVE_SECONDS = 2.0
_SUSPICIOUS = 5  # connections lost without a word soon after they were granted, in a row
_SOON = 5.0  # seconds
_SUSPECTED_SECONDS = 8.0  # to wait then, at the most: it may have been a bad network after all
_ALWAYS = Backoff()


class Session:
    """Keeps one connection up from `open` to `close`; what is done with it is for who derives from this."""

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
        self._link: Link | None = None  # the one that stands
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
        """Start; True once connected and subscribed, False where that took longer than `patience` seconds: it is tried on.

        Raises BrokerRefused, with the broker's reason, and then is closed.
        """
        self._thread.start()
        self._decided.wait(patience)
        if self._refused:
            self.close()
            raise BrokerRefused(
                f"The MQTT broker at {self._access.host}:{self._access.port} refuses us: {self._refused}"
            )
        return self._decided.is_set()

    def close(self) -> None:
        """Take leave of the broker; where it does not listen, tear the connection off."""
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
        """Counts connections and disconnections."""
        return self._generation

    @property
    def connected(self) -> bool:
        """True between a granted connection and its end."""
        return self._link is not None

    @property
    def listening(self) -> bool:
        """True once every subscription of the connection that stands is granted."""
        link = self._link
        return link is not None and link.generation == self._subscribed

    @property
    def alive(self) -> bool:
        """False once the thread that keeps us connected has ended."""
        return self._thread.is_alive()

    @property
    def silent_for(self) -> float:
        """Seconds since the thread that keeps us connected showed life; infinite once it has ended, 0 before it has begun."""
        if self._thread.ident is None:
            return 0.0
        if not self._thread.is_alive():
            return inf
        link = self._trying
        return monotonic() - max(self._beat, 0.0 if link is None else link.beat)

    @property
    def trouble(self) -> str:
        """Why we are not connected, or last were not."""
        return self._trouble

    @property
    def certificate(self) -> bytes | None:
        """What the broker showed last, in DER; None where it showed none."""
        return self._certificate

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------ in the thread of ours
    def _run(self) -> None:
        while not self._closing.is_set():
            began = self._beat = monotonic()
            end = self._live()
            lasted = monotonic() - began
            if self._link is not None:
                self._link = None
                self._failures = 0  # it was granted: the broker is there, and a network that flaps must not keep us away for long
                self._generation += 1
                end = self._suspected(end, lasted)
            else:
                self._lost_soon = 0
            if end.cause is Cause.CLOSED or self._closing.is_set():
                return
            delay = self._after(end)
            self._trouble = (
                end.reason if end.cause is not Cause.TAKEN_OVER else self._rival(end.reason)
            )
            self.ended(end, delay)
            self._beat = monotonic() + delay
            self._closing.wait(delay)

    def _live(self) -> End:
        try:
            version = self._access.versions[self._version]
            link = self._trying = Link(
                self._reader,
                self._access,
                self._terms,
                self._context,
                version,
                self._generation + 1,
                self,
            )
        except ValueError as error:  # paho's word for a topic or a name it cannot use
            return End(Cause.REFUSED, str(error))
        end = End(Cause.CLOSED, "closed") if self._closing.is_set() else link.run()
        self._trying = (
            None  # with the last reference to it, paho closes what `release` could not reach
        )
        return end

    def _suspected(self, end: End, lasted: float) -> End:
        """Some brokers, mosquitto 2.0 for one, do not say that another client took over: they hang up."""
        self._lost_soon = self._lost_soon + 1 if end.cause is Cause.LOST and lasted < _SOON else 0
        if self._lost_soon < _SUSPICIOUS:
            return end
        return End(
            Cause.TAKEN_OVER,
            f"{end.reason}, {self._lost_soon} times in a row soon after it was granted",
        )

    def _rival(self, reason: str) -> str:
        return (
            f"another client seems to connect with our client id {self._access.client_id}: {reason}"
        )

    def _after(self, end: End) -> float:
        """Seconds to wait before the next attempt."""
        if end.cause is Cause.REFUSED and not self._decided.is_set():
            self._refused = end.reason
            self._decided.set()
        if end.cause is Cause.UNANSWERED and not self._proven:
            self._version = (self._version + 1) % len(self._access.versions)
            if self._version:
                return 0.0
        self._failures += 1
        failures = (
            30 if end.cause is Cause.TAKEN_OVER else self._failures
        )  # two of us must not throw each other out in turn
        delay = self._backoff.delay(failures, random.random())  # noqa: S311 - spreads clients in time, hides nothing
        return min(delay, _SUSPECTED_SECONDS) if self._lost_soon >= _SUSPICIOUS else delay

    def granted(self, link: Link, *, session_present: bool) -> None:
        """The broker took us; called before anything is subscribed to."""
        del session_present
        self._proven = True
        self._certificate = link.certificate
        self._generation = link.generation
        self._link = link

    def subscribed(self, link: Link, refused: str | None) -> None:
        """Every subscription is answered."""
        self._subscribed = -1 if refused else link.generation
        if refused and not self._decided.is_set():
            self._refused = f"subscription to {refused}"
        self._decided.set()

    def delivered(self, link: Link, messages: list[Message], mids: list[int]) -> bool:
        """Messages came; nobody here wants any."""
        del messages
        link.client.acknowledge(mids)
        return True

    def answered(self, link: Link, answers: list[tuple[int, int]]) -> None:
        """PUBACKs came."""

    def turned(self, link: Link) -> None:
        """Once a second or oftener."""

    def ended(self, end: End, delay: float) -> None:
        """A connection ended, or did not come about; the next attempt is `delay` seconds away."""
