"""The daemon as its admin port sees it: what the port must know of the stream it asks, one message for one answer.

The port is a process of its own, so that no request takes the interpreter from the stream.

`Stream` asks, `Desk` answers; a pair of them over any way of carrying bytes is the daemon itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from insa_anomaly.ports import SeriesKey
from insa_anomaly.services.stream_view import Compared
from insa_anomaly.services.telemetry import Inlet

ANSWER_SECONDS = 5.0
POST_SECONDS = 60.0  # the daemon itself says no long before


class AskNumber(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The number of a series."""

    series: SeriesKey


class AskCompared(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What became of its shadow."""

    series: SeriesKey


class AskCondition(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """How the daemon is."""


class AskMetrics(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What it has counted."""


class Interrupt(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """End the training of this job, if it is under way."""

    job_id: str


class Post(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Take this message into the log."""

    topic: str
    payload: bytes


Question = AskNumber | AskCompared | AskCondition | AskMetrics | Interrupt | Post


class Condition(msgspec.Struct, frozen=True):
    """What keeps the daemon from doing all of its job, in words, and where every reader of its log is."""

    troubles: list[str]
    figures: dict[str, int]


class Carry(Protocol):
    """Carries a question to the daemon and its answer back. Raises DaemonSilent after so many seconds."""

    def __call__(self, question: bytes, seconds: float) -> bytes:
        """The answer."""


class Stream:
    """The port `Inlet`, and what else is asked of the daemon. Any thread may ask; any call may raise DaemonSilent."""

    def __init__(self, ask: Carry, post: Carry) -> None:
        """`post` carries what waits for the disk, so that nothing else has to."""
        self._carry_question = ask
        self._carry_post = post
        self._encode = msgspec.msgpack.Encoder().encode
        self._numbers: dict[SeriesKey, int] = {}

    def number(self, key: SeriesKey) -> int | None:
        """The number of this series, which it has for as long as the daemon runs; None where it was never seen."""
        found = self._numbers.get(key)
        if found is None:
            found = self._ask(AskNumber(key), int | None)
            if found is not None:
                self._numbers[key] = found
        return found

    def compared(self, key: SeriesKey) -> Compared | None:
        """What became of the series' shadow so far; None where it has none."""
        found: Compared | None = self._ask(AskCompared(key), Compared | None)
        return found

    def condition(self) -> Condition:
        """How the daemon is."""
        found: Condition = self._ask(AskCondition(), Condition)
        return found

    def metrics(self) -> bytes:
        """What it has counted, in Prometheus' text format."""
        found: bytes = self._ask(AskMetrics(), bytes)
        return found

    def interrupt(self, job_id: str) -> None:
        """End the training of this job, if it is under way."""
        self._ask(Interrupt(job_id), None)

    def post(self, topic: str, payload: bytes) -> bool:
        """Take one message; True once it is on disk, False where there was no room or no disk for too long."""
        answer = self._carry_post(self._encode(Post(topic, payload)), POST_SECONDS)
        return msgspec.msgpack.decode(answer, type=bool)

    def _ask(self, question: Question, form: Any) -> Any:  # noqa: ANN401 - a type, and one of it
        return msgspec.msgpack.decode(
            self._carry_question(self._encode(question), ANSWER_SECONDS), type=form
        )


@dataclass(frozen=True)
class Desk:
    """Answers in the daemon. Any thread may."""

    number: Callable[[SeriesKey], int | None]
    compared: Callable[[SeriesKey], Compared | None]
    inlet: Inlet
    interrupt: Callable[[str], object]
    condition: Callable[[], Condition]
    metrics: Callable[[], bytes]

    def answer(self, question: bytes) -> bytes:
        """The answer to what a `Stream` asks."""
        return msgspec.msgpack.encode(self._found(msgspec.msgpack.decode(question, type=Question)))

    def _found(self, question: Question) -> object:
        match question:
            case AskNumber(series):
                return self.number(series)
            case AskCompared(series):
                return self.compared(series)
            case Post(topic, payload):
                return self.inlet.post(topic, payload)
            case Interrupt(job_id):
                return self.interrupt(job_id)
            case AskMetrics():
                return self.metrics()
            case AskCondition():
                return self.condition()
