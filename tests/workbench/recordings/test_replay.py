"""Replay: every reading once, in the order of time, at the wanted speed, shifted or not."""

from collections import Counter
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insa_anomaly.core.reading.parser import Parser
from insa_anomaly.core.reading.reading import Raw, Reading
from insa_anomaly.core.reading.topics import Acceptance
from insa_anomaly.errors import FileFormatError
from insa_anomaly.workbench.progress import open_console
from insa_anomaly.workbench.recordings.recording import Row, inspect_all
from insa_anomaly.workbench.recordings.replay import (
    Form,
    ReplayPace,
    at_once,
    device_message,
    metric_messages,
    publish,
    replay,
)

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND


class Sent:
    """A feeder that stores the messages."""

    def __init__(self, missing: int = 0) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.missing = missing

    def publish(self, topic: str, payload: bytes) -> None:
        """Store a message."""
        self.messages.append((topic, payload))

    def drain(self, timeout: float) -> int:
        """Return the number of missing messages that the test sets."""
        assert timeout > 0
        return self.missing

    def readings(self) -> list[Reading]:
        """Return the readings that the daemon's own parser finds."""
        parser = Parser(Acceptance(max_age=None))
        out: list[Reading] = []
        for topic, payload in self.messages:
            parsed = parser.parse(Raw(topic, payload, NOW))
            assert isinstance(parsed, list), parsed
            out += parsed
        return out


def write(folder: Path, name: str, times: list[int], metrics: int) -> Path:
    """Write a wide file with these times, in seconds after NOW."""
    lines = [",".join(["timestamp", *(f"m {i}" for i in range(metrics))])]
    for row, time in enumerate(times):
        stamp = datetime.fromtimestamp(NOW // SECOND + time, UTC).strftime("%Y-%m-%d %H:%M:%S")
        lines.append(",".join([stamp, *(str(row + i / 10) for i in range(metrics))]))
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("form", [device_message, metric_messages])
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    files=st.lists(
        st.lists(st.integers(-5000, 0), min_size=1, max_size=15), min_size=1, max_size=4
    ),
    metrics=st.integers(1, 3),
    shift_to=st.one_of(st.none(), st.just(NOW + 7 * SECOND)),
)
def test_every_reading_once_and_in_order(
    tmp_path: Path, form: Form, files: list[list[int]], metrics: int, shift_to: int | None
) -> None:
    """Every reading of any files is sent once, and moved by the same span.

    Each file keeps its order, and all readings are ordered by time where the files are.
    """
    paths = [write(tmp_path, f"d{i}.csv", sorted(times), metrics) for i, times in enumerate(files)]
    sent = Sent()
    counts = replay(
        inspect_all(paths), sent, open_console(StringIO()), shift_to=shift_to, form=form
    )
    shift = 0 if shift_to is None else shift_to - NOW - max(map(max, files)) * SECOND
    expected = [
        (f"d{i}", f"m {m}", NOW + time * SECOND + shift, row + m / 10)
        for i, times in enumerate(files)
        for row, time in enumerate(sorted(times))
        for m in range(metrics)
    ]
    got = [(r.device_id, r.metric_name, r.timestamp, r.value) for r in sent.readings()]
    assert sorted(got) == sorted(expected)
    assert [g[2] for g in got] == sorted(g[2] for g in got)
    assert (counts.readings, counts.rows, counts.messages) == (
        len(expected),
        sum(map(len, files)),
        len(sent.messages),
    )
    assert (counts.first, counts.last, counts.unacknowledged) == (got[0][2], got[-1][2], 0)


def test_equal_readings_stay_two(tmp_path: Path) -> None:
    """Equal values at equal times differ by the id of their row, also at the next replay."""
    (tmp_path / "a.csv").write_text(
        "timestamp,value\n2023-01-01,5\n2023-01-01,5\n", encoding="utf-8"
    )
    both = [Sent(), Sent()]
    for sent in both:
        replay(inspect_all([tmp_path / "a.csv"]), sent, open_console(StringIO()))
    first, second = (sent.readings() for sent in both)
    assert first == second
    assert first[0].discriminator != first[1].discriminator


def test_a_file_out_of_order_keeps_its_order(tmp_path: Path) -> None:
    """A clock set back is part of the recording, and no row is sorted."""
    sent = Sent()
    replay(
        inspect_all([write(tmp_path, "a.csv", [0, 60, 30, 90], 1)]), sent, open_console(StringIO())
    )
    assert [(r.timestamp - NOW) // SECOND for r in sent.readings()] == [0, 60, 30, 90]


def test_pace_holds_the_speed() -> None:
    """A reading is due `speed` times sooner than recorded, counted from the first.

    Waits do not add up, and a reading of the past is due at once.
    """
    now, slept = [100.0], list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds + 0.25  # oversleeps

    pace = ReplayPace(10, clock=lambda: now[0], sleep=sleep)
    for second in (0, 20, 10, 100):
        pace(NOW + second * SECOND)
    assert slept == [pytest.approx(2.0), pytest.approx(7.75)]


def test_nothing_is_sent_of_a_wrong_file(tmp_path: Path) -> None:
    """An error at the end of the last file shows before the first message."""
    good, bad = write(tmp_path, "a.csv", [0, 1], 1), write(tmp_path, "b.csv", [0, 1], 1)
    bad.write_text(bad.read_text(encoding="utf-8") + "oops,1\n", encoding="utf-8")
    sent = Sent()
    with pytest.raises(FileFormatError, match=r"b\.csv, line 4"):
        replay(inspect_all([good, bad]), sent, open_console(StringIO()))
    assert sent.messages == []


def test_ctrl_c_ends_it_and_says_so(tmp_path: Path) -> None:
    """Ctrl-C stops between rows, and the sent readings are still counted."""
    rows = inspect_all([write(tmp_path, "a.csv", list(range(50)), 1)])[0].rows()
    sent = Sent()

    def stop_at_the_tenth(timestamp: int) -> None:
        if timestamp == NOW + 10 * SECOND:
            raise KeyboardInterrupt

    counts = publish(rows, sent, device_message, stop_at_the_tenth, lambda _: None)
    assert (counts.stopped, counts.rows, len(sent.messages)) == (True, 10, 10)


def test_what_people_read(tmp_path: Path) -> None:
    """The notes come once for all files, and the summary has the figures and missing messages."""
    text = StringIO()
    replay(
        inspect_all([write(tmp_path, f"{i}.csv", [0, 1], 2) for i in range(3)]),
        Sent(missing=2),
        open_console(text),
    )
    assert "all files: times carry no zone: taken as UTC" in text.getvalue()
    assert "12 readings in 6 messages" in text.getvalue()
    assert (
        "times 2023-11-14 22:13:20 to 2023-11-14 22:13:21 UTC; 2 not acknowledged"
        in text.getvalue()
    )
    assert "\x1b" not in text.getvalue()


def test_the_forms_are_those_of_the_devices() -> None:
    """A row is a single message, or a message for each metric, each with time and id."""
    row = Row("d", NOW + 1, {"a": 1.5, "b": -2.0}, "file:7")
    ((topic, payload),) = device_message(row)
    assert topic == "insa/iiot/telemetry/d"
    assert msgspec.json.decode(payload) == {
        "id": "file:7",
        "timestamp": "2023-11-14T22:13:20.000001Z",
        "metrics": {"a": 1.5, "b": -2.0},
    }
    singles = [msgspec.json.decode(payload) for _, payload in metric_messages(row)]
    assert [(single["metric_name"], single["value"]) for single in singles] == [
        ("a", 1.5),
        ("b", -2.0),
    ]
    assert Counter({"file:7": 2}) == Counter(single["id"] for single in singles)
    assert at_once(0) is None  # type: ignore[func-returns-value]
