"""Dead letters: all are stored until there are too many, then a sample.

A flood hides no other reason, and does not fill the disk.
"""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.core.reading.parser import SECOND
from insa_anomaly.core.reading.reading import Raw, Rejected, RejectionReason
from insa_anomaly.runtime.dead_letters import SAMPLE_EVERY, SAMPLED_BYTES, Quota

HOUR = 3600 * SECOND


def letter(reason: RejectionReason, at: int, size: int = 10) -> Rejected:
    """Build a letter of this reason and size, received at `at`."""
    return Rejected(reason, "", Raw("t", bytes(size), at))


found = st.lists(
    st.builds(
        letter,
        st.sampled_from([RejectionReason.MALFORMED, RejectionReason.EMPTY]),
        st.integers(0, HOUR),
        st.integers(0, 100),
    ),
    max_size=60,
)


@given(found, st.sets(st.integers(0, 60)), st.integers(1, 8), st.integers(50, 500))
def test_law_every_letter_is_kept_or_counted_however_pages_are_cut(
    letters: list[Rejected], cuts: set[int], most: int, size: int
) -> None:
    """The same letters are stored, however pages are cut.

    At most twice the limit of each reason is stored, and a sample.
    """
    kept, dropped, _ = Quota(most, size).sift(letters)
    quota, piecewise, counted = Quota(most, size), list[Rejected](), Counter[RejectionReason]()
    for begin, end in pairwise(
        sorted({0, len(letters), *(cut for cut in cuts if cut < len(letters))})
    ):
        some, others, quota = quota.sift(letters[begin:end])
        piecewise += some
        counted += others
    assert (piecewise, counted) == (kept, dropped)
    assert len(kept) + dropped.total() == len(letters)
    assert max(Counter(one.reason for one in kept).values(), default=0) <= 2 * most + 1


def test_a_flood_is_sampled_and_hides_nothing() -> None:
    """A flood of 100,000 letters of a reason in an hour leaves the limit and a sample.

    A letter of another reason among them is stored.
    """
    quota, kept, dropped = Quota(100, 10**9), list[Rejected](), Counter[RejectionReason]()
    for page in range(100):
        letters = [letter(RejectionReason.MALFORMED, page * 36 * SECOND + i) for i in range(1000)]
        if page == 90:
            letters.append(letter(RejectionReason.EMPTY, page * 36 * SECOND + 1000))
        some, others, quota = quota.sift(letters)
        kept += some
        dropped += others
    assert (
        200
        <= sum(one.reason == RejectionReason.MALFORMED for one in kept)
        <= 200 + 100_000 // SAMPLE_EVERY
    )
    assert sum(one.reason == RejectionReason.EMPTY for one in kept) == 1
    assert len(kept) + dropped.total() == 100_001


def test_bytes_have_a_limit_too() -> None:
    """Large letters use up the limit; then only small letters are sampled."""
    large = [
        letter(RejectionReason.TOO_LARGE, i, SAMPLED_BYTES + 1) for i in range(3 * SAMPLE_EVERY)
    ]
    kept, dropped, quota = Quota(10**9, 10 * SAMPLED_BYTES).sift(large)
    assert len(kept) == 10
    assert dropped[RejectionReason.TOO_LARGE] == len(large) - 10
    kept, _, _ = quota.sift(letter(RejectionReason.TOO_LARGE, i) for i in range(2 * SAMPLE_EVERY))
    assert len(kept) == 2


def test_the_limit_comes_back_with_time() -> None:
    """The limit is available again after an hour."""
    letters = [letter(RejectionReason.EMPTY, 0) for _ in range(50)]
    kept, _, quota = Quota(10, 10**9).sift(letters)
    assert len(kept) == 10
    kept, _, _ = quota.sift(letter(RejectionReason.EMPTY, HOUR) for _ in range(50))
    assert len(kept) == 10
