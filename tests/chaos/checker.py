"""The judgement of a run: its results against the messages and the detector's results."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isclose

import msgspec

from insa_anomaly.core.notification.event import Event
from insa_anomaly.runtime.publish import SAFE_SECONDS, UNDER_WAY
from tests.acceptance.site import Heard, Site
from tests.chaos.oracle import Expected, Standing
from tests.chaos.plant import Message, is_poison

# Events repeated after a break: those in flight, and the ones published before, a hundred a second.
TOLD_AGAIN = UNDER_WAY + int(100 * SAFE_SECONDS)
_SHOWN = 3


@dataclass(frozen=True)
class Left:
    """Rows of the database, and events that a subscriber received."""

    readings: list[tuple[str, str, int, float]]
    dead: list[tuple[str, bytes]]
    anomalies: dict[str, tuple[float, str | None]]  # score and episode by id
    episodes: dict[str, Standing]
    events: list[Event]

    @classmethod
    def of(cls, site: Site, heard: Heard) -> "Left":
        """Collect all rows and events."""
        return cls(
            site.query(
                "SELECT device_id, metric_name, (extract(epoch FROM timestamp) * 1000000)::bigint, "
                "value FROM telemetry_readings"
            ),
            [
                (topic, bytes(payload))
                for topic, payload in site.query("SELECT topic, payload FROM dead_letters")
            ],
            {
                str(row[0]): (row[1], row[2])
                for row in site.query(
                    "SELECT id, anomaly_score, episode_id::text FROM anomaly_detections"
                )
            },
            {
                str(row[0]): Standing(*row[1:])
                for row in site.query(
                    "SELECT id, readings, peak_confidence, "
                    "(extract(epoch FROM closed_at) * 1000000)::bigint FROM anomaly_episodes"
                )
            },
            [msgspec.json.decode(payload, type=Event) for _, payload in heard.told],
        )


@dataclass(frozen=True)
class Excused:
    """Tolerated faults: connection breaks, which repeat events, and messages lost by a broker."""

    breaks: int | None = None  # None: any number
    lost: int = 0


@dataclass(frozen=True)
class Verdict:
    """Figures of a run, and a complaint in words for every fault.

    A `lost` message lacks all of its readings or some.
    """

    stored: int
    lost: int
    duplicates: int
    dead_letters: int
    poison: int
    events_missing: int
    event_duplicates: int
    complaints: list[str]


def judge(
    said: Sequence[Message],
    expected: Expected | None,
    left: Left,
    known: Expected,
    excused: Excused = Excused(),
) -> Verdict:
    """Judge a run.

    `known` holds the readings of the messages; `expected` holds the detector's results in this
    order, or None where the order was lost.
    """
    complaints: list[str] = []
    found = Counter((device, metric, time) for device, metric, time, _ in left.readings)
    missing = known.readings.keys() - found.keys()
    poison = Counter(message for message in said if is_poison(message))
    dead = Counter(left.dead)
    lost = len({(device, time) for device, _, time in missing}) + (poison - dead).total()
    duplicates = found.total() - len(found)
    if lost > excused.lost:
        _complain(complaints, "readings lost", missing)
        _complain(complaints, "dead letters missing", poison - dead)
    _complain(
        complaints,
        "readings stored more than once",
        [key for key, times in found.items() if times > 1],
    )
    _complain(complaints, "readings nobody sent", found.keys() - known.readings.keys())
    _complain(
        complaints,
        "values altered",
        [row for row in left.readings if known.readings.get(row[:3], row[3]) != row[3]],
    )
    _complain(complaints, "dead letters too many", dead - poison)
    heard = Counter(event.event_id for event in left.events)
    wanted = set(expected.events) if expected else set()
    if expected:
        _compare(complaints, expected, left)
    untold = _untold(left)
    missing_events = len(wanted - heard.keys()) if expected else len(untold)
    _complain(complaints, "transitions untold", untold)
    _complain(complaints, "events missing", wanted - heard.keys())
    _complain(
        complaints,
        "events without their rows",
        [event for event in left.events if not _has_rows(event, left)],
    )
    _complain(complaints, "ids told in two ways", _told_in_two_ways(left.events))
    if excused.breaks is not None and heard.total() - len(heard) > excused.breaks * TOLD_AGAIN:
        _complain(
            complaints,
            "events told again for no reason",
            [name for name, times in heard.items() if times > 1],
        )
    return Verdict(
        stored=found.total(),
        lost=lost,
        duplicates=duplicates,
        dead_letters=dead.total(),
        poison=poison.total(),
        events_missing=missing_events,
        event_duplicates=heard.total() - len(heard),
        complaints=complaints,
    )


def _compare(complaints: list[str], expected: Expected, left: Left) -> None:
    _complain(complaints, "anomalies missing", expected.anomalies.keys() - left.anomalies.keys())
    _complain(complaints, "anomalies too many", left.anomalies.keys() - expected.anomalies.keys())
    _complain(
        complaints,
        "anomalies with another score",
        [
            name
            for name, (score, _) in left.anomalies.items()
            if not isclose(expected.anomalies.get(name, score), score, abs_tol=1e-12)
        ],
    )
    _complain(complaints, "episodes missing", expected.episodes.keys() - left.episodes.keys())
    _complain(complaints, "episodes too many", left.episodes.keys() - expected.episodes.keys())
    _complain(
        complaints,
        "episodes that went otherwise",
        [name for name, one in left.episodes.items() if expected.episodes.get(name, one) != one],
    )


def _untold(left: Left) -> set[tuple[str, str]]:
    """Return the beginnings and ends of recorded episodes that were not published."""
    told = {(event.episode_id, event.kind) for event in left.events}
    due = {(name, "opened") for name in left.episodes} | {
        (name, "closed") for name, one in left.episodes.items() if one.closed_at
    }
    return due - told


def _has_rows(event: Event, left: Left) -> bool:
    episode = left.episodes.get(event.episode_id)
    return episode is not None and (event.kind != "closed" or episode.closed_at is not None)


def _told_in_two_ways(events: Sequence[Event]) -> list[str]:
    first: dict[str, Event] = {}
    return [event.event_id for event in events if first.setdefault(event.event_id, event) != event]


def _complain(complaints: list[str], word: str, what: Iterable[object]) -> None:
    found = sorted(map(repr, what))
    if found:
        complaints.append(f"{len(found)} {word}: {', '.join(found[:_SHOWN])[:400]}")
