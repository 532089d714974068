"""A page that the database refuses for its rows: recorded in parts, until the bad rows are known.

A part is a run of readings with their anomalies, and leaves the cursor where it was. Until the last
part moves the cursor the page counts as not recorded, and repeating it changes nothing in the
database.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from insa_anomaly.core.notification.event import Anomaly, anomaly_id
from insa_anomaly.core.reading.reading import Rejected
from insa_anomaly.errors import RowsRefused
from insa_anomaly.ports.clock import Clock
from insa_anomaly.ports.recorder import Page, Recorder, Telemetry
from insa_anomaly.runtime.feed import COLUMNS

SAMPLE = 32  # rows spread over a page: if the database refuses all of them, no row is at fault
SEARCH_SECONDS = 10.0  # a longer search means that so much is refused that no row is at fault


class PageParts:
    """The readings of a page with their anomalies, and the rest; `before` is the old cursor."""

    def __init__(self, page: Page, before: int) -> None:
        self._page = page
        self._before = before
        self.anomaly_ids = list(_anomaly_ids(page.telemetry))
        # The row of a reading that came twice is the first.
        rows = {name: row for row, name in reversed(list(enumerate(self.anomaly_ids)))}
        self._first_rows = sorted(rows.values())
        self._others: list[Anomaly] = []
        self._of_row: dict[int, list[Anomaly]] = defaultdict(list)
        for anomaly in page.anomalies:
            (self._of_row[rows[anomaly.id]] if anomaly.id in rows else self._others).append(anomaly)

    def record(self, recorder: Recorder, clock: Clock) -> dict[int, str]:
        """Record all rows but the refused, and return these with the database's words.

        The cursor stays. Raises RowsRefused if no single readings are at fault: the rest of the
        page is refused by itself, or none of `SAMPLE` rows is taken, or the search takes too long.
        Raises DatabaseAway and DatabaseRefused. Rows recorded until then may be recorded again.
        """
        until = clock.monotonic() + SEARCH_SECONDS
        recorder.record(self._rest(self._before, self._page.rejected))
        self._check_sample(recorder)
        refused: dict[int, str] = {}
        undecided = [(0, len(self.anomaly_ids))] if self.anomaly_ids else []
        while undecided:
            start, end = undecided.pop()
            error = _refusal(recorder, self._part(start, end))
            if error is None:
                continue
            if clock.monotonic() > until:
                raise error
            if end - start == 1:
                refused[start] = str(error)
            else:
                middle = (start + end) // 2
                undecided += [(middle, end), (start, middle)]
        return refused

    def last(self, rejected: Sequence[Rejected]) -> Page:
        """Return the part that moves the cursor, with these messages for the dead letters."""
        return self._rest(self._page.seq, rejected)

    def _check_sample(self, recorder: Recorder) -> None:
        """Raise the first RowsRefused if no row of a sample of first occurrences is taken."""
        rows, first = self._first_rows, None
        for place in np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int).tolist():
            error = _refusal(recorder, self._part(rows[place], rows[place] + 1))
            if error is None:
                return
            first = first or error
        if first is not None:
            raise first

    def _part(self, start: int, end: int) -> Page:
        page, telemetry = self._page, _rows(self._page.telemetry, start, end)
        found = [anomaly for row in range(start, end) for anomaly in self._of_row.get(row, ())]
        late = [(row - start, anomaly) for row, anomaly in page.late if start <= row < end]
        return Page(page.log_id, self._before, telemetry, anomalies=found, late=late)

    def _rest(self, seq: int, rejected: Sequence[Rejected]) -> Page:
        none, others = _rows(self._page.telemetry, 0, 0), self._others
        page = replace(self._page, seq=seq, telemetry=none, anomalies=others)
        return replace(page, rejected=rejected, late=())


def _refusal(recorder: Recorder, part: Page) -> RowsRefused | None:
    try:
        recorder.record(part)
    except RowsRefused as error:
        return error
    return None


def _rows(telemetry: Telemetry, start: int, end: int) -> Telemetry:
    original = {row - start: text for row, text in telemetry.original.items() if start <= row < end}
    columns = {name: getattr(telemetry, name)[start:end] for name in COLUMNS}
    return replace(telemetry, **columns, original=original)


def _anomaly_ids(telemetry: Telemetry) -> Iterator[str]:
    for row in range(len(telemetry.key)):
        key = telemetry.keys[int(telemetry.key[row])]
        yield anomaly_id(*key, int(telemetry.timestamp[row]), int(telemetry.discriminator[row]))
