"""Dead letters: which rejected messages are stored, all of them up to a quota, then a sample.

Every rejected message is counted. A flood of bad messages must neither fill the database nor hide
other faults, so every reason has a quota of its own.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from insa_anomaly.core.reading.reading import Rejected, RejectionReason
from insa_anomaly.core.units import SECOND

SAMPLE_EVERY = 1000  # messages over the quota
SAMPLED_BYTES = 4096  # longest payload of a sample
_HOUR = 3600 * SECOND


@dataclass(frozen=True)
class Used:
    """Part of the quota of a reason that is used up; it fades at the rate of the quota."""

    letters: float = 0.0
    size: float = 0.0
    at: int = 0
    passed_over: int = 0


@dataclass(frozen=True)
class Quota:
    """Quota of `letters`, and of their bytes (`size`), an hour and reason.

    A quota is a value: a page composed again holds the same letters.
    """

    letters: float
    size: float
    used: Mapping[RejectionReason, Used] = field(default_factory=dict)

    def sift(
        self, messages: Iterable[Rejected]
    ) -> tuple[list[Rejected], Counter[RejectionReason], "Quota"]:
        """Return the messages to store, the count of the others by reason, and the quota left.

        The time of a message is that of its receipt.
        """
        stored, dropped, used = [], Counter[RejectionReason](), dict(self.used)
        for message in messages:
            reason, now, size = message.reason, message.raw.received, len(message.raw.payload)
            before = self._faded(used.get(reason, Used(at=now)), now)
            room = before.letters < self.letters and before.size < self.size
            sampled = before.passed_over % SAMPLE_EVERY == SAMPLE_EVERY - 1
            if room or (sampled and size <= SAMPLED_BYTES):
                stored.append(message)
                before = replace(before, letters=before.letters + 1, size=before.size + size)
            else:
                dropped[reason] += 1
            used[reason] = before if room else replace(before, passed_over=before.passed_over + 1)
        return stored, dropped, replace(self, used=used)

    def _faded(self, used: Used, now: int) -> Used:
        share = max(0, now - used.at) / _HOUR
        return replace(
            used,
            letters=max(0.0, used.letters - share * self.letters),
            size=max(0.0, used.size - share * self.size),
            at=now,
        )
