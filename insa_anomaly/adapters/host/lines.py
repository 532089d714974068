"""Lines between two processes, parent and child: a question goes one way, its answer comes back. Nobody else can reach them.

They are pairs of sockets that the child inherits. A question that was given up keeps its number, so that its late answer is known for
what it is, and passed over.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from queue import Empty, LifoQueue
from threading import Thread
from time import monotonic

from insa_anomaly import instrumentation
from insa_anomaly.errors import DaemonSilent

_NUMBER_BYTES = 8
_SILENT = "the daemon does not answer"


class AskingEnd:
    """Where the questions come from. A line carries one at a time; whoever finds all of them taken waits."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        """Of the sockets this process inherited."""
        self._free: LifoQueue[tuple[Connection[bytes, bytes], int]] = LifoQueue()
        for descriptor in descriptors:
            self._free.put((Connection(descriptor), 0))

    def ask(self, question: bytes, seconds: float) -> bytes:
        """The answer. Raises DaemonSilent where there is none in so many seconds. Any thread may ask."""
        until = monotonic() + seconds
        try:
            line, number = self._free.get(timeout=seconds)
        except Empty as error:
            raise DaemonSilent(_SILENT) from error
        try:
            return _answer(line, (number + 1).to_bytes(_NUMBER_BYTES), question, until)
        except (OSError, EOFError) as error:
            raise DaemonSilent(_SILENT) from error
        finally:
            self._free.put((line, number + 1))


def _answer(
    line: "Connection[bytes, bytes]", number: bytes, question: bytes, until: float
) -> bytes:
    line.send_bytes(number + question)
    while line.poll(max(0.0, until - monotonic())):
        said = line.recv_bytes()
        if said.startswith(number):
            return said[_NUMBER_BYTES:]
    raise DaemonSilent(_SILENT)


class AnsweringEnd:
    """Where the answers come from: a thread a line, which ends when the other end does."""

    def __init__(self, lines: int) -> None:
        self._lines, self._others = zip(*(Pipe() for _ in range(lines)), strict=True)

    @property
    def descriptors(self) -> list[int]:
        """For the child to inherit."""
        return [other.fileno() for other in self._others]

    def given_away(self) -> None:
        """The child has its ends; ours of them are closed, or we would never hear that it is gone."""
        for other in self._others:
            other.close()

    def serve(self, answer: Callable[[bytes], bytes]) -> None:
        """Answer from now on; whoever asked before has waited."""
        for line in self._lines:
            Thread(target=_serve, args=(line, answer), name="lines", daemon=True).start()


def _serve(line: "Connection[bytes, bytes]", answer: Callable[[bytes], bytes]) -> None:
    with line, suppress(OSError, EOFError):  # the child is gone
        while True:
            said = line.recv_bytes()
            line.send_bytes(said[:_NUMBER_BYTES] + _answered(answer, said[_NUMBER_BYTES:]))


def _answered(answer: Callable[[bytes], bytes], question: bytes) -> bytes:
    try:
        return answer(question)
    except Exception as error:  # noqa: BLE001 - a fault of ours: it is told, and nothing is what nobody takes for an answer
        instrumentation.question_failed(error)
        return b""
