"""Lines between parent and child process: each question brings back its answer.

Lines are pairs of sockets that the child inherits; no other process can reach them. An abandoned
question keeps its number, so that its late answer is recognised and skipped.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from queue import Empty, LifoQueue
from threading import Thread
from time import monotonic

from insa_anomaly.errors import DaemonSilent
from insa_anomaly.instrumentation.admin_port import question_failed

_NUMBER_BYTES = 8
_SILENT = "the daemon does not answer"


class AskingEnd:
    """The end that sends questions, a single question on a line at a time.

    A thread that finds all lines taken waits.
    """

    def __init__(self, descriptors: Sequence[int]) -> None:
        """Take the inherited sockets by their `descriptors`."""
        self._free: LifoQueue[tuple[Connection[bytes, bytes], int]] = LifoQueue()
        for descriptor in descriptors:
            self._free.put((Connection(descriptor), 0))

    def ask(self, question: bytes, seconds: float) -> bytes:
        """Send a question and return its answer. Any thread may call.

        Raises DaemonSilent if no answer arrives within `seconds`.
        """
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
    """The end that answers: a thread a line, which ends when the asking end does."""

    def __init__(self, lines: int) -> None:
        self._lines, self._others = zip(*(Pipe() for _ in range(lines)), strict=True)

    @property
    def descriptors(self) -> list[int]:
        """Descriptors for the child to inherit."""
        return [other.fileno() for other in self._others]

    def given_away(self) -> None:
        """Close our copies of the child's ends once the child has inherited them.

        With a copy open, the exit of the child would go unnoticed.
        """
        for other in self._others:
            other.close()

    def serve(self, answer: Callable[[bytes], bytes]) -> None:
        """Answer from now on; earlier questions have waited."""
        for line in self._lines:
            Thread(target=_serve, args=(line, answer), name="lines", daemon=True).start()


def _serve(line: "Connection[bytes, bytes]", answer: Callable[[bytes], bytes]) -> None:
    with line, suppress(OSError, EOFError):  # the child has ended
        while True:
            said = line.recv_bytes()
            line.send_bytes(said[:_NUMBER_BYTES] + _answered(answer, said[_NUMBER_BYTES:]))


def _answered(answer: Callable[[bytes], bytes], question: bytes) -> bytes:
    try:
        return answer(question)
    except Exception as error:  # noqa: BLE001 - a fault of ours: logged, and answered by no bytes
        question_failed(error)
        return b""
