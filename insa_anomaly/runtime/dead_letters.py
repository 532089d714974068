"""Which messages that hold no reading are kept as dead letters: all of them, until there are too many; then a sample.

Counted are all. A flood of poison must neither fill the database nor hide what else is wrong, so every reason has a share of its own.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from insa_anomaly.core.reading.parser import SECOND
from insa_anomaly.core.reading.reading import Rejected, RejectionReason

ONE_OF = 1000  # of those beyond the limit
_HOUR = 3600 * SECOND
SAMPLED_BYTES = 4096  # the longest payload of such a sample


@dataclass(frozen=True)
class Used:
    """What was kept of one reason, as far as it still counts: it fades at the pace of the limit."""

    letters: float = 0.0
    size: float = 0.0
    at: int = 0
    passed_over: int = 0


@dataclass(frozen=True)
class Quota:
    """For every reason so many `letters` an hour, of so many bytes (`size`). A value: a page made again is made of the same letters."""

    letters: float
    size: float
    used: Mapping[RejectionReason, Used] = field(default_factory=dict)

    def sift(
        self, found: Iterable[Rejected]
    ) -> tuple[list[Rejected], Counter[RejectionReason], "Quota"]:
        """Those that are kept, how many of each reason are not, and what is left of the quota after them. Time is that of receipt."""
        kept, dropped, used = [], Counter[RejectionReason](), dict(self.used)
        for one in found:
            before = self._faded(used.get(one.reason, Used(at=one.raw.received)), one.raw.received)
            size = len(one.raw.payload)
            room = before.letters < self.letters and before.size < self.size
            if room or (before.passed_over % ONE_OF == ONE_OF - 1 and size <= SAMPLED_BYTES):
                kept.append(one)
                before = replace(before, letters=before.letters + 1, size=before.size + size)
            else:
                dropped[one.reason] += 1
            used[one.reason] = (
                before if room else replace(before, passed_over=before.passed_over + 1)
            )
        return kept, dropped, replace(self, used=used)

    def _faded(self, used: Used, now: int) -> Used:
        share = max(0, now - used.at) / _HOUR
        return replace(
            used,
            letters=max(0.0, used.letters - share * self.letters),
            size=max(0.0, used.size - share * self.size),
            at=now,
        )
