"""The law of every message: readings or a single rejection, finite values, and never an exception.

No message takes long or needs much memory.
"""

import math
import sys
import time
from itertools import count

from insa_anomaly.core.reading.parser import Parser
from insa_anomaly.core.reading.reading import Raw, Reading, Rejected, RejectionReason
from tests.fuzz.payloads import ACCEPTANCE

NOW = 1_763_823_600_000_000
SECONDS = 0.05  # of computing
BYTES = 10 << 20
TRIES = 3


class Judge:
    """A parser of messages in turn, as in the daemon; any breach is an AssertionError."""

    def __init__(self) -> None:
        self._parser = Parser(ACCEPTANCE)
        self._times = count(NOW)
        self.readings = self.rejected = 0

    def _timed(self, raw: Raw) -> tuple[list[Reading] | Rejected, float]:
        tracer = sys.gettrace()
        sys.settrace(None)  # the tracer's work is not part of the measurement
        try:
            began = time.thread_time()
            answer = self._parser.parse(raw)
            return answer, time.thread_time() - began
        finally:
            sys.settrace(tracer)

    def judge(self, topic: str, payload: bytes) -> None:
        """Judge a message."""
        raw = Raw(topic, payload, next(self._times))
        answer, spent = self._timed(raw)
        for _ in range(TRIES):
            if spent < SECONDS:
                break
            # The machine may have been slow, or the memory was collected just then.
            spent = min(spent, self._timed(raw)[1])
        assert spent < SECONDS, f"{spent:.3f} s over {topic[:100]!r} {payload[:200]!r}"
        if isinstance(answer, Rejected):
            self.rejected += 1
            assert (answer.raw, answer.reason in RejectionReason, bool(answer.detail)) == (
                raw,
                True,
                True,
            )
        else:
            self.readings += len(answer)
            assert answer, "neither readings nor a rejection"
            assert all(
                math.isfinite(one.value) and one.device_id and one.metric_name for one in answer
            )
