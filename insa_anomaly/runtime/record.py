"""From the log and the results into PostgreSQL, page by page, each page one transaction with the cursor in it.

It follows the score reader, waits out a database that is away, and tells what the log may forget. A page that is refused for what single
rows hold is recorded without them; their messages are dead letters.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

import numpy as np

from insa_anomaly import instrumentation
from insa_anomaly.core.notification.event import Anomaly
from insa_anomaly.core.reading.reading import Raw, Rejected, RejectionReason
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import (
    DatabaseAway,
    DatabaseRefused,
    ModelFileError,
    RowsRefused,
    StateUnwritable,
)
from insa_anomaly.ports.log import Log
from insa_anomaly.ports.models import ModelIndex, ModelRow
from insa_anomaly.ports.recorder import Page, Recorder, Telemetry
from insa_anomaly.ports.state import State
from insa_anomaly.runtime.dead_letters import Quota
from insa_anomaly.runtime.detections import Detections, Late
from insa_anomaly.runtime.feed import Batch, Feed, joined
from insa_anomaly.runtime.page_parts import PageParts
from insa_anomaly.runtime.step import Step
from insa_anomaly.settings.sections import RecordSettings


class RecordReader(Step):
    """The reader of the log that writes the database."""

    def __init__(
        self,
        log: Log,
        feed: Feed,
        state: State,
        recorder: Recorder,
        models: ModelIndex,
        paging: RecordSettings,
    ) -> None:
        self._log = log
        self._feed = feed
        self._state = state
        self._recorder = recorder
        self._models = models
        self._paging = paging
        self.reached = 0  # sequence of the last entry known to be recorded
        self._sure = False  # the database has told how far it is, and nothing went wrong since
        self._retry = paging.first_retry
        self._next_at = 0.0
        self.trouble: str | None = None
        self._quota = Quota(paging.letters_an_hour, paging.letter_bytes_an_hour)
        self._left_out: dict[
            str, int
        ] = {}  # anomalies of readings that were refused, and up to where in the log they may still come

    def adjust(self, paging: RecordSettings) -> None:
        """Size and pace of the pages from now on."""
        self._paging = paging

    def step(self, timeout_s: float) -> float:
        """Record a page where it is due; return the seconds until the next is, `timeout_s` at most."""
        if monotonic() >= self._next_at:
            self._record_next(timeout_s)
        return max(0.0, min(timeout_s, self._next_at - monotonic()))

    def _record_next(self, timeout_s: float) -> None:
        try:
            self._page(timeout_s)
        except DatabaseAway as error:
            self._back_off(str(error), instrumentation.database_away)
        except DatabaseRefused as error:
            self._back_off(str(error), lambda reason, _: instrumentation.database_refused(reason))

    def drain(self, deadline: float) -> None:
        """Record what is scored, until nothing is left or deadline (monotonic) has come; then it stays in the log."""
        while monotonic() < deadline and self.trouble is None and self.reached < self._state.cursor:
            self._next_at = 0.0
            self._record_next(0.0)

    def _page(self, timeout_s: float) -> None:
        if not self._sure:
            self.reached, self._sure = self._recorder.cursor(self._log.id), True
        through = self._state.cursor
        batches = self._feed.read(self.reached, self._paging.readings, through)
        if not batches:
            self.reached = max(
                self.reached, through
            )  # what the log has dropped is not there to be recorded
            self._feed.wait(max(through, self.reached), timeout_s)
            self._next_at = monotonic() + min(self._paging.linger, 0.01)
            return
        letters, dropped, quota = self._quota.sift(
            one for batch in batches for one in batch.rejected
        )
        page = self._compose(batches, through, letters)
        refused = 0
        try:
            self._recorder.record(page)
        except RowsRefused:
            refused, more, quota = self._record_parts(page, batches, through, quota)
            dropped += more
        self._quota = quota
        instrumentation.letters_dropped(dropped)
        self._recorded(page, refused)
        full = len(page.telemetry.value) >= self._paging.readings
        self._next_at = 0.0 if full else monotonic() + self._paging.linger

    def _record_parts(
        self, page: Page, batches: list[Batch], through: int, quota: Quota
    ) -> tuple[int, Counter[RejectionReason], Quota]:
        """All but the rows that are refused: how many these are, of how many messages nothing is kept, and what is left of the quota."""
        parts = PageParts(page, self.reached)
        refused = parts.record(self._recorder)
        found = self._refused_messages(batches, refused)
        letters, dropped, quota = quota.sift(found)
        self._recorder.record(parts.last([*page.rejected, *letters]))
        self._left_out |= {parts.anomaly_ids[row]: through for row in refused}
        for one in found:
            instrumentation.message_unrecordable(one.reason, one.detail, one.raw.topic)
        return len(refused), dropped, quota

    def _refused_messages(self, batches: list[Batch], refused: dict[int, str]) -> list[Rejected]:
        """The messages these rows are of, as they came: the log keeps them until then. One that holds several is one letter."""
        starts = np.cumsum([0, *map(len, batches)]).tolist()
        found: dict[int, Rejected] = {}
        for row in sorted(refused):
            number = bisect_right(starts, row) - 1
            received = int(batches[number].received[row - starts[number]])
            if received not in found:
                [entry] = self._log.read(batches[number].seq - 1, 1)
                raw = Raw(*entry.messages[received - entry.received], received)
                found[received] = Rejected(RejectionReason.UNRECORDABLE, refused[row], raw)
        return list(found.values())

    def _compose(self, batches: list[Batch], through: int, letters: list[Rejected]) -> Page:
        last = batches[-1].seq
        # All there are: after a power cut that took the state back, some are of entries recorded long ago. And those of entries scored
        # together stand at the last of them, which may be on a later page: what is late must be decided with its reading.
        found = {
            seq: Detections.from_bytes(body)
            for seq, body in self._state.results(0, through).items()
        }
        findings = [found[seq] for seq in sorted(found) if seq <= last]
        telemetry = joined(batches)
        return Page(
            self._log.id,
            last,
            telemetry,
            anomalies=[
                anomaly
                for finding in findings
                for anomaly in finding.anomalies
                if anomaly.id not in self._left_out
            ],
            episodes=[episode for finding in findings for episode in finding.episodes],
            rejected=letters,
            models=self._model_rows(batches),
            late=_first_here(
                [late for finding in found.values() for late in finding.late], telemetry, batches
            ),
        )

    def _model_rows(self, batches: list[Batch]) -> list[ModelRow]:
        """The models that took over, and of a series that has none any more those that were put aside."""
        swaps = [swap for batch in batches for swap in batch.swaps]
        ids = {swap.model_id for swap in swaps if swap.model_id is not None}
        left = {swap.key for swap in swaps if swap.model_id is None}
        rows = [row for model_id in sorted(ids) if (row := self._row(model_id)) is not None]
        return rows + [
            row
            for key in sorted(left)
            for row in self._of_series(key)
            if row.status not in {"active", "archived"}
        ]

    def _of_series(self, key: SeriesKey) -> list[ModelRow]:
        try:
            return self._models.of_series(key)
        except ModelFileError:
            return []  # an index that cannot be read holds nothing up

    def _row(self, model_id: str) -> ModelRow | None:
        try:
            return self._models.row(model_id)
        except ModelFileError:
            return None  # gone from the index since; its series has another by now

    def _recorded(self, page: Page, refused: int) -> None:
        if self.trouble is not None:
            instrumentation.database_back()
        self.trouble, self._retry, self.reached = None, self._paging.first_retry, page.seq
        with suppress(StateUnwritable):  # a full disk; a later page forgets these as well
            self._state.forget(page.seq)
        self._left_out = {
            name: through for name, through in self._left_out.items() if through > page.seq
        }
        instrumentation.page_recorded(len(page.telemetry.value) - refused)

    def _back_off(self, reason: str, happening: Callable[[str, float], None]) -> None:
        """The outcome of a commit may be unknown: the cursor in the database decides where to go on."""
        if self.trouble is None:
            happening(reason, self._retry)
        self.trouble, self._sure = reason, False
        self._next_at = monotonic() + self._retry
        self._retry = min(2 * self._retry, self._paging.last_retry)


def _first_here(
    found: Sequence[Late], telemetry: Telemetry, batches: Sequence[Batch]
) -> list[tuple[int, Anomaly]]:
    """The late anomalies whose reading is on this page and comes there for the first time, with its row."""
    if not found:
        return []
    received = np.concatenate([batch.received for batch in batches])
    numbers = {telemetry.keys[number]: number for number in np.unique(telemetry.key).tolist()}
    kept = []
    for one in found:
        number = numbers.get(SeriesKey(one.anomaly.device_id, one.anomaly.metric_name), -1)
        same = (
            (telemetry.key == number)
            & (telemetry.timestamp == one.anomaly.timestamp)
            & (telemetry.discriminator == one.discriminator)
        )
        rows = np.flatnonzero(same)
        if len(rows) and received[rows[0]] == one.received:
            kept.append((int(rows[0]), one.anomaly))
    return kept
