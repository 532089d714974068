"""Questions and answers between two processes.

Each question has its own answer, or none in time; each end notices when the other end is gone.
"""

import gc
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from structlog.testing import capture_logs

from insa_anomaly.adapters.host.lines import AnsweringEnd, AskingEnd
from insa_anomaly.errors import DaemonSilent
from tests.conftest import wait_for

Ask = Callable[[bytes, float], bytes]


class Pair:
    """Both ends in the same process."""

    def __init__(self, lines: int, answer: Callable[[bytes], bytes]) -> None:
        answering = AnsweringEnd(lines)
        self.asking = AskingEnd([os.dup(descriptor) for descriptor in answering.descriptors])
        answering.given_away()
        answering.serve(answer)

    def ask(self, question: bytes, seconds: float = 10.0) -> bytes:
        """Return the answer to a question."""
        return self.asking.ask(question, seconds)


def test_every_question_has_its_own_answer() -> None:
    """Every question gets its own answer, of any length, with more callers than lines."""
    pair = Pair(3, bytes.upper)
    questions = [f"question {number} ".encode() * (1 + number * 97 % 5000) for number in range(200)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(pair.ask, questions)) == [question.upper() for question in questions]


def test_a_late_answer_is_not_taken_for_another() -> None:
    """A late answer is dropped; the later questions on the same line get their own answers."""
    slow = Event()

    def answer(question: bytes) -> bytes:
        if question == b"slow":
            slow.wait(10.0)
        return question

    pair = Pair(1, answer)
    with pytest.raises(DaemonSilent):
        pair.ask(b"slow", 0.05)
    slow.set()
    assert [pair.ask(b"one"), pair.ask(b"two")] == [b"one", b"two"]


def test_silence_has_an_end() -> None:
    """A question times out where no answer comes and where every line is taken."""
    free = Event()
    pair = Pair(1, lambda question: question * free.wait(10.0))
    with ThreadPoolExecutor(2) as pool:
        began = time.monotonic()
        asked = [pool.submit(pair.ask, b"?", 0.2) for _ in range(2)]
        for one in asked:
            with pytest.raises(DaemonSilent):
                one.result()
        assert time.monotonic() - began < 5.0
    free.set()


def test_a_fault_of_who_answers_is_told_and_the_line_stays() -> None:
    """A fault of the answering end is logged, its answer is empty, and the line still works."""

    def answer(question: bytes) -> bytes:
        if question == b"bad":
            raise ValueError("no such thing")
        return question

    pair = Pair(1, answer)
    with capture_logs() as said:
        assert pair.ask(b"bad") == b""
    assert [one["action"] for one in said] == ["question_failed"]
    assert pair.ask(b"good") == b"good"


def test_who_answers_is_gone() -> None:
    """An asking end whose answering end is gone fails at once, each time."""
    asking, other = socket.socketpair()
    end = AskingEnd([asking.detach()])
    other.close()
    for _ in range(2):
        with pytest.raises(DaemonSilent):
            end.ask(b"?", 10.0)


def test_who_asks_is_gone() -> None:
    """The threads of the answering end stop when the asking end is gone."""
    before = set(threading.enumerate())
    pair = Pair(3, bytes.upper)
    assert pair.ask(b"?") == b"?"
    answering = set(threading.enumerate()) - before
    assert len(answering) == 3
    del pair
    gc.collect()
    wait_for(lambda: not any(thread.is_alive() for thread in answering))
