"""The daemon with a strand of its safety net cut; the checker must detect each.

`python -m tests.chaos.sabotaged <name> run ...`
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from time import monotonic
from unittest.mock import patch
from uuid import uuid4

import msgspec

from insa_anomaly.adapters.disk.log import LogFile
from insa_anomaly.adapters.disk.state import StateFile
from insa_anomaly.adapters.mqtt import MqttConnection
from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.recorder import PostgresRecorder
from insa_anomaly.cli import main
from insa_anomaly.core.notification.event import Anomaly, Episode, Event, Transition, event_of
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import DatabaseAway, LogBroken
from insa_anomaly.ports.broker import Delivery
from insa_anomaly.ports.log import Entry, Swap
from insa_anomaly.ports.recorder import Page
from insa_anomaly.runtime import score
from insa_anomaly.runtime.intake import Intake
from insa_anomaly.runtime.publish import EventPublisher

FAILING = 40  # every 40th write fails


def acknowledge_before_commit() -> None:
    """Acknowledge messages at once, and write them afterwards."""
    take = Intake.hand_over

    def hand_over(self: Intake, delivery: Delivery) -> bool:
        if self.broker is not None:
            self.broker.acknowledge(delivery)
        return take(self, msgspec.structs.replace(delivery, mids=[]))

    patch.object(Intake, "hand_over", hand_over).start()


def store_whatever_comes() -> None:
    """Insert readings without a check for duplicates; the test drops the table's key."""
    load = queries.load

    def without_conflicts() -> Mapping[str, bytes]:
        known = load()
        return {
            **known,
            "add_telemetry": known["add_telemetry"].replace(b"ON CONFLICT DO NOTHING", b""),
        }

    patch.object(queries, "load", without_conflicts).start()


def go_on_after_a_failed_page() -> None:
    """Count a page that the database did not accept as recorded."""
    record = PostgresRecorder.record

    def swallowing(self: PostgresRecorder, page: Page) -> None:
        try:
            record(self, page)
        except DatabaseAway:
            return

    patch.object(PostgresRecorder, "record", swallowing).start()


def forget_what_is_not_sent() -> None:
    """Count an event as published when it is made, not when the broker has it."""
    commit = StateFile.commit

    def committing(
        self: StateFile, seq: int, results: bytes | None, events: Sequence[tuple[str, bytes]]
    ) -> object:
        outgoing = commit(self, seq, results, events)
        self.told([event.number for event in outgoing])
        return outgoing

    patch.object(StateFile, "commit", committing).start()


def begin_anew_at_every_start() -> None:
    """Discard the stored states of the series."""
    restore = StateFile.restore

    def restoring(self: StateFile) -> tuple[int, dict[SeriesKey, bytes]]:
        return restore(self)[0], {}

    patch.object(StateFile, "restore", restoring).start()


def give_ids_by_chance() -> None:
    """Assign a new id to an event that is computed again."""

    def made(transition: Transition, reading: Anomaly, episode: Episode) -> Event:
        return msgspec.structs.replace(
            event_of(transition, reading, episode), event_id=str(uuid4())
        )

    patch.object(score, "event_of", made).start()


def acknowledge_on_any_connection() -> None:
    """Acknowledge messages of an old connection on the next.

    The number may belong to another message there.
    """

    def acknowledging(self: MqttConnection, *deliveries: Delivery) -> None:
        link = self._link
        if link is not None:
            link.client.acknowledge([mid for one in deliveries for mid in one.mids])

    patch.object(MqttConnection, "acknowledge", acknowledging).start()


def acknowledge_what_fails() -> None:
    """Let a write fail now and then, and acknowledge its messages all the same."""
    append, calls = LogFile.append, count(1)

    def failing(
        self: LogFile, messages: list[tuple[str, bytes]], swaps: list[Swap], now: int
    ) -> Entry:
        if next(calls) % FAILING == 0:
            raise LogBroken
        return append(self, messages, swaps, now)

    def forgiving(
        self: Intake, deliveries: list[tuple[float, Delivery]], swaps: list[Swap], reason: str
    ) -> None:
        del swaps, reason
        for _, delivery in deliveries:
            assert self.broker is not None
            self.broker.acknowledge(delivery)

    patch.object(LogFile, "append", failing).start()
    patch.object(Intake, "_put_back", forgiving).start()


def publish_again_what_is_under_way() -> None:
    """Publish unacknowledged events again on the same connection, once a second."""
    step, seconds = EventPublisher.step, set[int]()

    def stepping(self: EventPublisher, timeout_s: float) -> float:
        if int(monotonic()) not in seconds:
            seconds.add(int(monotonic()))
            self._under_way.clear()
            self._reached = 0
        return step(self, timeout_s)

    patch.object(EventPublisher, "step", stepping).start()


SABOTAGES: dict[str, Callable[[], None]] = {
    cut.__name__: cut
    for cut in (
        acknowledge_before_commit,
        store_whatever_comes,
        go_on_after_a_failed_page,
        forget_what_is_not_sent,
        begin_anew_at_every_start,
        give_ids_by_chance,
        acknowledge_on_any_connection,
        acknowledge_what_fails,
        publish_again_what_is_under_way,
    )
}

if __name__ == "__main__":
    SABOTAGES[sys.argv.pop(1)]()
    main()
