"""Recording of the log and its detections in PostgreSQL, a page and the cursor a transaction.

The record reader follows the score reader, waits while the database is unreachable, and knows which
entries the log may drop. A page that the database refuses for single rows is recorded without them;
their messages are dead letters.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass

import numpy as np

from insa_anomaly import errors
from insa_anomaly.core.notification.event import Anomaly
from insa_anomaly.core.reading.reading import Raw, Rejected, RejectionReason
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.instrumentation import recorder as instruments
from insa_anomaly.ports.clock import Clock
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


@dataclass(eq=False)
class RecordReader(Step):
    """The reader of the log that writes the database."""

    log: Log
    feed: Feed
    state: State
    recorder: Recorder
    models: ModelIndex
    _: KW_ONLY
    settings: RecordSettings
    clock: Clock

    def __post_init__(self) -> None:
        self.reached = 0  # sequence of the last entry known to be recorded
        self._cursor_known = False  # as the database has it, and no attempt failed since
        self._retry_s = self.settings.first_retry
        self._next_at = 0.0
        self.trouble: str | None = None
        self._quota = Quota(self.settings.letters_an_hour, self.settings.letter_bytes_an_hour)
        # Ids of anomalies of refused readings, and the sequence up to which they may still come.
        self._left_out: dict[str, int] = {}

    def adjust(self, settings: RecordSettings) -> None:
        """Change size and pace of the pages."""
        self.settings = settings

    def step(self, timeout_s: float) -> float:
        """Record a page if it is due; return the seconds until the next, at most `timeout_s`."""
        if self.clock.monotonic() >= self._next_at:
            self._attempt(timeout_s)
        return max(0.0, min(timeout_s, self._next_at - self.clock.monotonic()))

    def drain(self, deadline: float) -> None:
        """Record scored entries until `deadline` (monotonic); the rest stays in the log."""
        while self.clock.monotonic() < deadline and self.trouble is None:
            if self.reached >= self.state.cursor:
                return
            self._attempt(0.0)

    def _attempt(self, timeout_s: float) -> None:
        try:
            self._record_next(timeout_s)
        except errors.DatabaseAway as error:
            self._back_off(str(error), instruments.database_away)
        except errors.DatabaseRefused as error:
            self._back_off(str(error), lambda reason, _: instruments.database_refused(reason))

    def _record_next(self, timeout_s: float) -> None:
        if not self._cursor_known:
            self.reached, self._cursor_known = self.recorder.cursor(self.log.id), True
        through, settings = self.state.cursor, self.settings
        batches = self.feed.read(self.reached, settings.readings, through)
        if not batches:
            # Entries that the log has dropped cannot be recorded.
            self.reached = max(self.reached, through)
            self.feed.wait(self.reached, timeout_s)
            self._next_at = self.clock.monotonic() + min(settings.linger, 0.01)
            return
        rejected = (one for batch in batches for one in batch.rejected)
        letters, dropped, quota = self._quota.sift(rejected)
        page, refused = self._compose(batches, through, letters), 0
        try:
            self.recorder.record(page)
        except errors.RowsRefused:
            refused, more, quota = self._record_parts(page, batches, through, quota)
            dropped += more
        self._quota = quota
        instruments.letters_dropped(dropped)
        self._finish(page, refused)
        full = len(page.telemetry.value) >= settings.readings
        self._next_at = 0.0 if full else self.clock.monotonic() + settings.linger

    def _record_parts(
        self, page: Page, batches: list[Batch], through: int, quota: Quota
    ) -> tuple[int, Counter[RejectionReason], Quota]:
        """Record the rows not refused; return the refused, messages dropped, and quota left."""
        parts = PageParts(page, self.reached)
        refused = parts.record(self.recorder, self.clock)
        messages = self._refused_messages(batches, refused)
        letters, dropped, quota = quota.sift(messages)
        self.recorder.record(parts.last([*page.rejected, *letters]))
        self._left_out |= {parts.anomaly_ids[row]: through for row in refused}
        for message in messages:
            instruments.message_unrecordable(message.reason, message.detail, message.raw.topic)
        return len(refused), dropped, quota

    def _refused_messages(self, batches: list[Batch], refused: dict[int, str]) -> list[Rejected]:
        """Return the messages of these rows, which the log still has, each once."""
        starts = np.cumsum([0, *map(len, batches)]).tolist()
        messages: dict[int, Rejected] = {}
        for row in sorted(refused):
            position = bisect_right(starts, row) - 1
            batch = batches[position]
            received = int(batch.received[row - starts[position]])
            if received not in messages:
                [entry] = self.log.read(batch.seq - 1, 1)
                raw = Raw(*entry.messages[received - entry.received], received)
                messages[received] = Rejected(RejectionReason.UNRECORDABLE, refused[row], raw)
        return list(messages.values())

    def _compose(self, batches: list[Batch], through: int, letters: list[Rejected]) -> Page:
        last = batches[-1].seq
        # All detections are read: after a power failure that set the state back, some belong to
        # entries recorded long ago. Detections of entries scored together are stored with the last
        # entry, which may be on a later page; a late anomaly must be decided with its reading.
        found = {
            seq: Detections.from_bytes(body) for seq, body in self.state.results(0, through).items()
        }
        detections = [found[seq] for seq in sorted(found) if seq <= last]
        anomalies = (anomaly for one in detections for anomaly in one.anomalies)
        late = [late for one in found.values() for late in one.late]
        telemetry = joined(batches)
        return Page(
            self.log.id,
            last,
            telemetry,
            anomalies=[anomaly for anomaly in anomalies if anomaly.id not in self._left_out],
            episodes=[episode for one in detections for episode in one.episodes],
            rejected=letters,
            models=self._model_rows(batches),
            late=_first_here(late, telemetry, batches),
        )

    def _model_rows(self, batches: list[Batch]) -> list[ModelRow]:
        """Return the models that took over, and the withdrawn models of series without any."""
        swaps = [swap for batch in batches for swap in batch.swaps]
        ids = {swap.model_id for swap in swaps if swap.model_id is not None}
        without = {swap.key for swap in swaps if swap.model_id is None}
        rows = [row for model_id in sorted(ids) if (row := self._row(model_id)) is not None]
        found = (row for key in sorted(without) for row in self._of_series(key))
        return rows + [row for row in found if row.status not in {"active", "archived"}]

    def _of_series(self, key: SeriesKey) -> list[ModelRow]:
        """Return the models of the series; none if the index cannot be read."""
        try:
            return self.models.of_series(key)
        except errors.ModelFileError:
            return []

    def _row(self, model_id: str) -> ModelRow | None:
        """Return the model; None if it left the index since, when its series has another."""
        try:
            return self.models.row(model_id)
        except errors.ModelFileError:
            return None

    def _finish(self, page: Page, refused: int) -> None:
        if self.trouble is not None:
            instruments.database_back()
        self.trouble = None
        self._retry_s = self.settings.first_retry
        self.reached = page.seq
        with suppress(errors.StateUnwritable):  # a full disk: a later page removes these as well
            self.state.forget(page.seq)
        self._left_out = {one: seq for one, seq in self._left_out.items() if seq > page.seq}
        instruments.page_recorded(len(page.telemetry.value) - refused)

    def _back_off(self, reason: str, log: Callable[[str, float], None]) -> None:
        """Wait, and read the cursor again, because the outcome of the commit may be unknown."""
        if self.trouble is None:
            log(reason, self._retry_s)
        self.trouble = reason
        self._cursor_known = False
        self._next_at = self.clock.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, self.settings.last_retry)


def _first_here(
    late: Sequence[Late], telemetry: Telemetry, batches: Sequence[Batch]
) -> list[tuple[int, Anomaly]]:
    """Return the late anomalies whose reading occurs first on this page, each with its row."""
    if not late:
        return []
    received = np.concatenate([batch.received for batch in batches])
    indices = {telemetry.keys[index]: index for index in np.unique(telemetry.key).tolist()}
    first = []
    for one in late:
        index = indices.get(SeriesKey(one.anomaly.device_id, one.anomaly.metric_name), -1)
        rows = np.flatnonzero(
            (telemetry.key == index)
            & (telemetry.timestamp == one.anomaly.timestamp)
            & (telemetry.discriminator == one.discriminator)
        )
        if len(rows) and received[rows[0]] == one.received:
            first.append((int(rows[0]), one.anomaly))
    return first
