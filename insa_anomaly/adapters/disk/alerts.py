"""Alerts on disk: undelivered alerts, the targets' knowledge, usual pauses of series.

A single SQLite file holds them. A dispatch is fsynced before the state deletes the events it was
made of. No part of the daemon but the alerts waits for this file.
"""

from collections.abc import Sequence
from contextlib import suppress

import msgspec
import numpy as np

from insa_anomaly.adapters.disk.sqlite_file import SqliteFile, bring_up
from insa_anomaly.core.notification.alert import Alert, Severity
from insa_anomaly.core.notification.cadence import Cadence
from insa_anomaly.core.notification.routing import DailyBudget, Dispatch, KnownCause
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.units import DAY
from insa_anomaly.errors import AlertsBroken, AlertsDamaged
from insa_anomaly.files.sqlite import is_damage, write_ahead
from insa_anomaly.ports.alerts import DeadAlert, PendingAlert, SilenceState

_AT_ONCE = 500  # causes looked up in one query
_REMEMBERED_DAYS = 90  # for a cause that never ends
_DEAD_DAYS = 30

_SCHEMA = """
    CREATE TABLE waiting (
        number INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, cause TEXT NOT NULL,
        body BLOB NOT NULL, decided_at INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
        due INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX waiting_due ON waiting (target, due, number);
    CREATE INDEX waiting_cause ON waiting (target, cause, number);
    CREATE TABLE dead (
        number INTEGER PRIMARY KEY, target TEXT NOT NULL, body BLOB NOT NULL,
        given_up_at INTEGER NOT NULL, reason TEXT NOT NULL
    );
    CREATE TABLE known (
        target TEXT NOT NULL, cause TEXT NOT NULL, severity INTEGER NOT NULL,
        held INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (cause, target)
    ) WITHOUT ROWID;
    CREATE TABLE accounts (target TEXT PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE recent (event_id TEXT NOT NULL);
    CREATE TABLE cadences (
        device_id TEXT NOT NULL, metric_name TEXT NOT NULL, longest REAL NOT NULL,
        pauses REAL NOT NULL, span REAL NOT NULL, PRIMARY KEY (device_id, metric_name)
    ) WITHOUT ROWID;
    CREATE TABLE silences (device_id TEXT, since INTEGER NOT NULL)
"""
_NEXT = """
    SELECT number, body, decided_at, attempts FROM waiting AS one
    WHERE target = ? AND due <= ? AND NOT EXISTS (
        SELECT 1 FROM waiting AS before WHERE before.target = one.target
            AND before.cause = one.cause AND before.number < one.number
    ) ORDER BY due, number LIMIT 1
"""
_ADD = "INSERT INTO waiting (target, cause, body, decided_at) VALUES (?, ?, ?, ?)"
_encode = msgspec.msgpack.encode


def _read(body: bytes) -> Alert | None:
    """Decode an alert; None if another version wrote it."""
    try:
        return msgspec.msgpack.decode(body, type=Alert)
    except msgspec.DecodeError:
        return None


class AlertFile(SqliteFile):
    """The port `AlertStore`.

    Any call may raise AlertsBroken and has then changed no table.
    """

    def _open(self) -> None:
        write_ahead(self._file)
        self._file.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            bring_up(self._file, [_SCHEMA], f"{self._path} is a file", AlertsBroken)
        if self._rows("PRAGMA quick_check(1)") != [("ok",)]:
            raise AlertsDamaged

    # Decisions
    def recent(self) -> set[str]:
        """Return the ids of the events of the last dispatch."""
        return {event_id for (event_id,) in self._rows("SELECT event_id FROM recent")}

    def known(self, causes: Sequence[str]) -> dict[tuple[str, str], KnownCause]:
        """Return the targets' knowledge of these causes, by (target, cause)."""
        wanted = list(dict.fromkeys(causes))
        found: dict[tuple[str, str], KnownCause] = {}
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT target, cause, severity, held FROM known WHERE cause IN ({marks})"  # noqa: S608 - marks alone
            for target, cause, severity, held in self._rows(query, *some):
                found[target, cause] = KnownCause(Severity(severity), bool(held))
        return found

    def accounts(self) -> dict[str, DailyBudget]:
        """Return every target's account of today."""
        found = {}
        for target, body in self._rows("SELECT target, body FROM accounts"):
            with suppress(msgspec.DecodeError):  # written by another version: the day starts anew
                found[target] = msgspec.msgpack.decode(body, type=DailyBudget)
        return found

    def keep(self, dispatch: Dispatch, event_ids: Sequence[str], now: int) -> None:
        """Store the whole dispatch in a single transaction, on disk when this method returns."""
        gone = [key for key, known in dispatch.known.items() if known is None]
        kept = [
            (*key, int(known.severity), known.held, now)
            for key, known in dispatch.known.items()
            if known is not None
        ]
        with self._transaction():
            many = self._file.executemany
            waiting = [(name, one.cause, _encode(one), now) for name, one in dispatch.sent]
            many(_ADD, waiting)
            many("DELETE FROM known WHERE target = ? AND cause = ?", gone)
            many("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?)", kept)
            accounts = [(name, _encode(one)) for name, one in dispatch.accounts.items()]
            many("INSERT OR REPLACE INTO accounts VALUES (?, ?)", accounts)
            if event_ids:
                self._file.execute("DELETE FROM recent")
                many("INSERT INTO recent VALUES (?)", [(event_id,) for event_id in event_ids])

    def forget(self, now: int) -> None:
        """Delete causes without news for 90 days, and dead letters older than 30 days."""
        with self._transaction():
            self._file.execute("DELETE FROM known WHERE at < ?", (now - _REMEMBERED_DAYS * DAY,))
            self._file.execute("DELETE FROM dead WHERE given_up_at < ?", (now - _DEAD_DAYS * DAY,))

    # Deliveries
    def next(self, target: str, now: int) -> PendingAlert | None:
        """Return the alert due first, None if none is due; alerts of a cause keep their order."""
        for number, body, decided_at, attempts in self._rows(_NEXT, target, now):
            try:
                alert = msgspec.msgpack.decode(body, type=Alert)
                return PendingAlert(number, target, alert, decided_at, attempts)
            except msgspec.DecodeError as error:
                # Written by another version: it must not block the alerts that can be read.
                self._bury(number, f"it cannot be read: {error}", now)
                return self.next(target, now)
        return None

    def done(self, one: PendingAlert) -> None:
        """Delete a delivered alert."""
        self._change("DELETE FROM waiting WHERE number = ?", one.number)

    def postpone(self, one: PendingAlert, due: int) -> None:
        """Count a failed attempt and make the alert due again at `due`."""
        statement = "UPDATE waiting SET attempts = attempts + 1, due = ? WHERE number = ?"
        self._change(statement, due, one.number)

    def hasten(self, target: str) -> None:
        """Make all alerts that wait for a target due now: the target answers again."""
        self._change("UPDATE waiting SET due = 0 WHERE target = ?", target)

    def give_up(self, one: PendingAlert, reason: str, now: int) -> None:
        """Turn an alert that cannot be delivered into a dead letter."""
        self._bury(one.number, reason, now)

    def _bury(self, number: int, reason: str, now: int) -> None:
        with self._transaction():
            self._file.execute(
                "INSERT INTO dead SELECT number, target, body, ?, ? FROM waiting WHERE number = ?",
                (now, reason, number),
            )
            self._file.execute("DELETE FROM waiting WHERE number = ?", (number,))

    def backlog(self) -> dict[str, int]:
        """Return the number of waiting alerts by target."""
        return dict(self._rows("SELECT target, count(*) FROM waiting GROUP BY target"))

    # Requests of operators
    def waiting(self) -> list[PendingAlert]:
        """Return all waiting alerts, in the order of their decisions.

        Alerts that cannot be read are left out; they are soon dead letters.
        """
        query = "SELECT number, target, body, decided_at, attempts FROM waiting ORDER BY number"
        return [
            PendingAlert(number, target, alert, *rest)
            for number, target, body, *rest in self._rows(query)
            if (alert := _read(body)) is not None
        ]

    def dead(self) -> list[DeadAlert]:
        """Return every dead letter, oldest first."""
        rows = self._rows(
            "SELECT number, target, body, given_up_at, reason FROM dead"
            " ORDER BY given_up_at, number"
        )
        return [
            DeadAlert(number, target, _read(body), *rest) for number, target, body, *rest in rows
        ]

    def revive(self, one: DeadAlert, now: int) -> None:
        """Let a dead letter wait again, as if decided now.

        A dead letter that cannot be read, or is no longer stored, is left unchanged.
        """
        if one.alert is None:
            return
        with self._transaction():
            if self._file.execute("DELETE FROM dead WHERE number = ?", (one.number,)).rowcount:
                values = (one.target, one.alert.cause, _encode(one.alert), now)
                self._file.execute(_ADD, values)

    # Silences
    def cadences(self) -> tuple[list[SeriesKey], Cadence]:
        """Return the cadence of each series; the stream has two empty names."""
        rows = self._rows("SELECT * FROM cadences")
        numbers = np.array([row[2:] for row in rows], np.float64).reshape(-1, 3)
        return [SeriesKey(*row[:2]) for row in rows], Cadence(*numbers.T.copy())

    def keep_cadences(self, keys: Sequence[SeriesKey], cadence: Cadence) -> None:
        """Store the cadences of these series, a row each."""
        columns = (cadence.longest.tolist(), cadence.pauses.tolist(), cadence.span.tolist())
        rows = [(*key, *numbers) for key, *numbers in zip(keys, *columns, strict=True)]
        with self._transaction():
            self._file.executemany("INSERT OR REPLACE INTO cadences VALUES (?, ?, ?, ?, ?)", rows)

    def silences(self) -> SilenceState:
        """Return the silences last stored."""
        return SilenceState(dict(self._rows("SELECT device_id, since FROM silences")))

    def keep_silences(self, silences: SilenceState) -> None:
        """Store the present silences in place of the last."""
        with self._transaction():
            self._file.execute("DELETE FROM silences")
            rows = list(silences.since.items())
            self._file.executemany("INSERT INTO silences VALUES (?, ?)", rows)

    def _fault(self, error: Exception) -> AlertsBroken:
        return (AlertsDamaged if is_damage(error) else AlertsBroken)(f"{self._path}: {error}")
