"""Questions of the admin port to the daemon, a message each, and the daemon's answers.

The port is a process of its own, so that no request takes the interpreter from the stream.

`StreamClient` asks and `StreamServer` answers; a pair of them, over any carrier of bytes, stands
for the daemon.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.services.stream_view import ShadowTally
from insa_anomaly.services.telemetry import Inlet

ANSWER_SECONDS = 5.0
POST_SECONDS = 60.0  # the daemon itself refuses long before


class AskIndex(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Question for the index of a series."""

    series: SeriesKey


class AskCompared(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Question for the comparison of a series' shadow with its champion."""

    series: SeriesKey


class AskCondition(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Question for the condition of the daemon."""


class AskMetrics(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Question for the metrics of the daemon."""


class Interrupt(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Request to end the training of this job, if the training is under way."""

    job_id: str


class IngestMessage(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Request to write this message to the log."""

    topic: str
    payload: bytes


Question = AskIndex | AskCompared | AskCondition | AskMetrics | Interrupt | IngestMessage


class Condition(msgspec.Struct, frozen=True):
    """Troubles of the daemon in words, and the position of every reader of its log."""

    troubles: list[str]
    figures: dict[str, int]


class Carry(Protocol):
    """Carrier of a question to the daemon and of its answer back."""

    def __call__(self, question: bytes, seconds: float) -> bytes:
        """Deliver the question and return the answer. Raises DaemonSilent after `seconds`."""


class StreamClient:
    """The port `Inlet`, and the other questions to the daemon.

    Any thread may ask; any call may raise DaemonSilent.
    """

    def __init__(self, ask: Carry, post: Carry) -> None:
        """Take `ask` for questions, and `post` for messages: no question waits for the disk."""
        self._carry_question = ask
        self._carry_post = post
        self._encode = msgspec.msgpack.Encoder().encode
        self._indices: dict[SeriesKey, int] = {}

    def index_of(self, key: SeriesKey) -> int | None:
        """Return the index of a series, constant while the daemon runs; None if unknown."""
        found = self._indices.get(key)
        if found is None:
            found = self._ask(AskIndex(key), int | None)
            if found is not None:
                self._indices[key] = found
        return found

    def compared(self, key: SeriesKey) -> ShadowTally | None:
        """Return the counts of the series' shadow and champion so far; None without a shadow."""
        found: ShadowTally | None = self._ask(AskCompared(key), ShadowTally | None)
        return found

    def condition(self) -> Condition:
        """Return the condition of the daemon."""
        found: Condition = self._ask(AskCondition(), Condition)
        return found

    def metrics(self) -> bytes:
        """Return the daemon's metrics in Prometheus' text format."""
        found: bytes = self._ask(AskMetrics(), bytes)
        return found

    def interrupt(self, job_id: str) -> None:
        """End the training of this job, if the training is under way."""
        self._ask(Interrupt(job_id), None)

    def post(self, topic: str, payload: bytes) -> bool:
        """Write a message to the log, and report whether it is on disk, as `Inlet.post` does."""
        answer = self._carry_post(self._encode(IngestMessage(topic, payload)), POST_SECONDS)
        return msgspec.msgpack.decode(answer, type=bool)

    def _ask(self, question: Question, form: Any) -> Any:  # noqa: ANN401 - a type and its value
        answer = self._carry_question(self._encode(question), ANSWER_SECONDS)
        return msgspec.msgpack.decode(answer, type=form)


@dataclass(frozen=True)
class StreamServer:
    """Answers of the daemon to a `StreamClient`. Any thread may call."""

    index_of: Callable[[SeriesKey], int | None]
    compared: Callable[[SeriesKey], ShadowTally | None]
    inlet: Inlet
    interrupt: Callable[[str], object]
    condition: Callable[[], Condition]
    metrics: Callable[[], bytes]

    def answer(self, question: bytes) -> bytes:
        """Return the answer to a question of a `StreamClient`."""
        return msgspec.msgpack.encode(self._found(msgspec.msgpack.decode(question, type=Question)))

    def _found(self, question: Question) -> object:
        match question:
            case AskIndex(series):
                return self.index_of(series)
            case AskCompared(series):
                return self.compared(series)
            case IngestMessage(topic, payload):
                return self.inlet.post(topic, payload)
            case Interrupt(job_id):
                return self.interrupt(job_id)
            case AskMetrics():
                return self.metrics()
            case AskCondition():
                return self.condition()
