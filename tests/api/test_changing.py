"""The possible changes: thresholds, versions, feedback.

Each change is audited before it is made, and refused where it cannot be audited.
"""

from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.adapters.postgres.history import PostgresHistory
from insa_anomaly.adapters.postgres.recorder import PostgresRecorder
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.scoring.episodes import EpisodeState, Policy, Transition, step
from insa_anomaly.core.series.detector import INTERVAL_US, Model
from insa_anomaly.ports.recorder import Page, Telemetry
from insa_anomaly.runtime.fleet.fleet import Kept
from insa_anomaly.services.model_changes import opened
from tests.api.office import HOUR, KEY, SECOND, Office, anomaly, episode, now, problem

API = "/api/v1/ml"
CHANGES: list[tuple[str, str, Any]] = [
    ("PUT", "models/{}/threshold", {"threshold": 0.5}),
    ("POST", "models/{}/activate", None),
    ("DELETE", "models/{}", None),
    ("POST", "episodes/{}/feedback", {"verdict": "confirmed"}),
]


# -------------------------------------------------------------------------- every change
@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_a_change_that_cannot_be_audited_is_refused(
    office: Office, method: str, path: str, body: object
) -> None:
    """A change that cannot be audited changes no state."""
    first, second = office.train(), office.train()
    office.record([], [episode(first, now())])
    subject = episode(first, now()).id if "episodes" in path else first.id
    subject = office.get(f"{API}/episodes")["episodes"][0]["id"] if "episodes" in path else subject
    before = (office.get(f"{API}/models"), office.get(f"{API}/episodes"))
    office.query("ALTER TABLE audit_log RENAME TO gone")
    problem(office.ask("write", method, f"{API}/{path.format(subject)}", json=body), 503)
    assert (office.get(f"{API}/models"), office.get(f"{API}/episodes")) == before
    assert office.files.active() == {KEY: second.id}


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_what_is_not_there_cannot_be_changed(
    office: Office, method: str, path: str, body: object
) -> None:
    """A change of an unknown subject is 404, without a line in the audit log.

    A malformed id is refused.
    """
    problem(office.ask("write", method, f"{API}/{path.format(uuid4())}", json=body), 404)
    for hostile in ("x", "%2e%2e", "%00", "x" * 5000):
        assert office.ask(
            "write", method, f"{API}/{path.format(hostile)}", json=body
        ).status_code in {404, 405, 422}
    assert office.query("SELECT count(*) FROM audit_log WHERE action NOT LIKE 'key.%%'") == [(0,)]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *[("threshold", {"threshold": value}) for value in (-0.1, 1.1, True, "0.5", None, [0.5])],
        ("threshold", {}),
        ("threshold", {"threshold": 0.5, "also": 1}),
        ("threshold", []),
        ("feedback", {"verdict": "maybe"}),
        ("feedback", {"verdict": "confirmed", "note": "x" * 2001}),
        ("feedback", {"verdict": "confirmed", "episode": 1}),
        ("feedback", {"note": "x"}),
    ],
)
def test_bodies_that_make_no_sense_are_refused(office: Office, path: str, body: object) -> None:
    """Unknown fields, other types and numbers out of range are refused."""
    method, where = ("PUT", "models") if path == "threshold" else ("POST", "episodes")
    problem(office.ask("write", method, f"{API}/{where}/{uuid4()}/{path}", json=body), 422)


@pytest.mark.parametrize(
    "number",
    [
        b"NaN",
        b"Infinity",
        b"1e999",
        b"-1e999",
        b"1" * 5000,
        b'"\\ud800"',
        b"{" * 2000,
        b"",
        b"0.5]",
        b"\xff",
    ],
)
def test_numbers_that_are_none_are_refused(office: Office, number: bytes) -> None:
    """Invalid numbers that JSON libraries accept without a word are refused on the wire."""
    headers = {"Content-Type": "application/json"}
    content = b'{"threshold": ' + number + b"}"
    answer = office.ask(
        "write", "PUT", f"{API}/models/{uuid4()}/threshold", content=content, headers=headers
    )
    assert answer.status_code in {400, 422}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


# ---------------------------------------------------------------------------- thresholds
def test_a_threshold_is_set_audited_and_shown(office: Office) -> None:
    """A threshold is set in the index, in PostgreSQL, and in the next version of the model."""
    row = office.train()
    said = office.do("PUT", f"{API}/models/{row.id}/threshold", {"threshold": 0.625})
    assert (said["success"], said["threshold_before"], said["threshold"]) == (
        True,
        row.threshold,
        0.625,
    )
    assert office.get(f"{API}/models/{row.id}")["info"]["threshold"] == 0.625
    assert office.query("SELECT threshold FROM ml_models WHERE id = %s", row.id) == [(0.625,)]
    assert office.files.thresholds() == {row.id: 0.625}
    [(who, origin, subject, before, after)] = office.audited("model.threshold")
    assert ("(write)" in who, origin, subject, before, after) == (
        True,
        "testclient",
        row.id,
        row.threshold,
        0.625,
    )
    assert office.train().threshold == 0.625


def test_a_threshold_says_what_it_would_have_done(office: Office) -> None:
    """The answer states the episodes a day of the last week, before and after the change."""
    row = office.train(trained_at=now() - 4 * 24 * HOUR)
    office.do("PUT", f"{API}/models/{row.id}/threshold", {"threshold": 0.1})
    spikes = [
        anomaly(row, now() - hour * HOUR, confidence)
        for hour, confidence in ((1, 0.2), (2, 0.4), (3, 0.6), (4, 0.8))
    ]
    office.record([*spikes, anomaly(row, now() - 24 * 9 * HOUR, 0.9)], [])
    said = office.do("PUT", f"{API}/models/{row.id}/threshold", {"threshold": 0.5})
    assert said["alarms_per_day"]["days"] == pytest.approx(4, abs=0.01)
    assert (said["alarms_per_day"]["before"], said["alarms_per_day"]["after"]) == (
        pytest.approx(1, abs=0.01),
        pytest.approx(0.5, abs=0.01),
    )


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 10)), max_size=40),
    st.integers(0, 10),
    st.integers(1, 5),
)
def test_law_counting_from_anomalies_is_counting_from_all_readings(
    steps: list[tuple[int, int]], tenths: int, gap: int
) -> None:
    """The count from anomalies equals the verdict's count over all readings.

    The readings come evenly; readings between two anomalies are ordinary.
    """
    policy, threshold = Policy(merge_gap_readings=gap), tenths / 10
    at, found = 0, []
    for pause, confidence in steps:
        at += pause + 1
        found.append((at, confidence / 10))
    strange, count, standing = dict(found), 0, EpisodeState(0, 0, 0, 0, 0)
    for time in range(at + 1):
        transition, standing = step(standing, time, -strange.get(time, -0.5), threshold, policy)
        count += transition is Transition.OPENED
        standing = EpisodeState(0, 0, 0, 0, 0) if transition is Transition.CLOSED else standing
    assert opened(found, threshold, gap + 0.5) == count


def test_the_stream_takes_the_threshold_with_the_model(office: Office) -> None:
    """A threshold set by hand counts, and is stored in the checkpoint."""
    row = office.train()
    office.fleet.swap(KEY, Model.from_bytes(office.files.scorer(row.id)), 0.875)
    assert office.fleet._models.learnt[0, :].tolist().count(0.875) == 1
    assert msgspec.msgpack.decode(office.fleet.moved()[KEY], type=Kept).threshold == 0.875
    office.serve(row)
    assert 0.875 not in office.fleet._models.learnt[0, :].tolist()


# ------------------------------------------------------------------------------ versions
def test_a_version_is_rolled_back_and_forth(office: Office) -> None:
    """A rollback changes the index at once, and PostgreSQL too; repeating it changes no state."""
    first, second = office.train(), office.train()
    said = office.do("POST", f"{API}/models/{first.id}/activate")
    assert said == {
        "success": True,
        "model_id": first.id,
        "status": "active",
        "replaced_model_id": second.id,
    }
    assert office.files.active() == {KEY: first.id}
    assert office.query("SELECT id::text FROM ml_models WHERE status = 'active'") == [(first.id,)]
    assert office.do("POST", f"{API}/models/{first.id}/activate")["replaced_model_id"] is None
    office.do("POST", f"{API}/models/{second.id}/activate")
    assert office.files.active() == {KEY: second.id}
    assert [line[2] for line in office.audited("model.activate")] == [first.id, first.id, second.id]


def test_a_deleted_model_leaves_its_row(office: Office) -> None:
    """The files of a deleted model are removed, and any later change of it is refused."""
    row, other = office.train(), office.train(SeriesKey("FAN-7", "current"))
    folder = (office.files._directory / row.model_path).parent
    said = office.do("DELETE", f"{API}/models/{row.id}")
    assert said == {
        "success": True,
        "model_id": row.id,
        "status": "deleted",
        "replaced_model_id": None,
    }
    assert [path.name for path in folder.iterdir()] == ["metadata.json"]
    assert office.files.active() == {("FAN-7", "current"): other.id}
    assert office.get(f"{API}/models/{row.id}")["status"] == "deleted"
    assert office.query("SELECT status FROM ml_models WHERE id = %s", row.id) == [("deleted",)]
    for method, path, body in CHANGES[:3]:
        problem(office.ask("write", method, f"{API}/{path.format(row.id)}", json=body), 409)


def test_metadata_still_says_what_made_the_versions(office: Office) -> None:
    """The metadata of a version is complete after a change too."""
    row = office.train()
    path = (office.files._directory / row.model_path).with_name("metadata.json")
    before = path.read_text()
    assert '"numpy"' in before
    office.do("PUT", f"{API}/models/{row.id}/threshold", {"threshold": row.threshold})
    assert (
        path.read_text().replace(f'"set_threshold": {row.threshold}', '"set_threshold": null')
        == before
    )


def test_postgres_follows_later_where_it_refuses_now(office: Office) -> None:
    """A change is made while PostgreSQL refuses: the index on disk is the truth."""
    row = office.train()
    office.query("ALTER TABLE ml_models RENAME TO gone")
    assert office.do("DELETE", f"{API}/models/{row.id}")["status"] == "deleted"
    assert office.files.active() == {}


# ------------------------------------------------------------------------------ feedback
def test_the_last_word_on_an_episode_counts(office: Office) -> None:
    """The last feedback of an episode counts, with its author; the audit log holds the earlier."""
    row, at = office.train(), now()
    one = episode(row, at)
    office.record([], [one])
    path = f"{API}/episodes/{one.id}/feedback"
    assert office.do("POST", path, {"verdict": "dismissed"})["feedback"]["verdict"] == "dismissed"
    said = office.do("POST", path, {"verdict": "confirmed", "note": "bearing \u03a9\x00"})[
        "feedback"
    ]
    assert (said["verdict"], "(write)" in said["given_by"]) == ("confirmed", True)
    [shown] = office.get(f"{API}/episodes")["episodes"]
    assert shown["feedback"]["note"] == "bearing \u03a9\\x00"
    first, second = office.audited("episode.feedback")
    assert (first[3], second[3]["verdict"], second[4]["verdict"]) == (
        None,
        "dismissed",
        "confirmed",
    )
    assert office.get(f"{API}/models/{row.id}/performance")["feedback"] == {
        "confirmed": 1,
        "dismissed": 0,
        "precision": 1.0,
    }


@pytest.mark.parametrize(("verdict", "learnt"), [("confirmed", 9), ("dismissed", 10)])
def test_a_confirmed_fault_is_not_learnt(office: Office, verdict: str, learnt: int) -> None:
    """The anomalous readings of a confirmed episode are left out of the history.

    The readings of a dismissed episode stay in it.
    """
    row, begin = office.train(), now() - HOUR
    zeros, flags = np.zeros(10, np.int64), np.zeros(10, np.int16)
    telemetry = Telemetry(
        keys=[KEY],
        key=np.zeros(10, np.int32),
        timestamp=begin + SECOND * np.arange(10),
        discriminator=zeros,
        value=np.arange(10.0),
        quality=flags,
        flags=flags,
    )
    with PostgresRecorder(office.dsn) as recorder:
        recorder.record(
            Page(
                uuid4(),
                1,
                telemetry,
                [anomaly(row, begin + 4 * SECOND, started_at=begin)],
                [episode(row, begin)],
            )
        )
    office.do("POST", f"{API}/episodes/{episode(row, begin).id}/feedback", {"verdict": verdict})
    with PostgresHistory(office.dsn) as history:
        assert len(history.readings(KEY, 0, 100)[0]) == learnt


# ----------------------------------------------------------------------------- telemetry
@pytest.mark.parametrize(
    ("names", "body", "readings"),
    [
        ({}, b'{"device_id": "PUMP-101", "metrics": {"temperature": 71.3, "pressure": 3.2}}', 2),
        (
            {"device_id": "PUMP-101"},
            b'[{"temperature": 71.3}, {"metric_name": "pressure", "value": 3, "id": "7"}]',
            2,
        ),
        ({"device_id": "PUMP-101", "metric_name": "temperature"}, b"71.3", 1),
        ({}, b"pump,device_id=PUMP-101 temperature=71.3,pressure=3.2 1795341600000000000", 2),
    ],
)
def test_readings_are_taken_in_every_form(
    office: Office, names: dict[str, str], body: bytes, readings: int
) -> None:
    """A body goes into the log as it came."""
    answer = office.ask("telemetry", "POST", "/api/v1/telemetry", params=names, content=body)
    assert (answer.status_code, answer.json()) == (200, {"success": True, "readings": readings})
    assert office.log.messages == [("/".join(["$http", *names.values()]), body)]


@pytest.mark.parametrize(
    ("names", "body", "reason"),
    [
        ({}, b'{"temperature": 71.3}', "no_device"),
        ({"device_id": "a"}, b'{"device_id": "b", "metrics": {"t": 1}}', "mismatch"),
        ({"device_id": "a"}, b'{"t": NaN}', "not_finite"),
        ({"device_id": "a"}, b'{"t": true}', "boolean"),
        ({"device_id": "a"}, b"\xff\xfe", "not_utf8"),
        ({"device_id": "a"}, b"", "empty"),
        ({"device_id": "a"}, b'{"t": ' + b" " * 300_000 + b"1}", "too_large"),
    ],
)
def test_readings_that_are_none_are_refused(
    office: Office, names: dict[str, str], body: bytes, reason: str
) -> None:
    """The refusal states the reason that a dead letter would have.

    Rejected readings are not stored, because their sender is informed.
    """
    said = problem(
        office.ask("telemetry", "POST", "/api/v1/telemetry", params=names, content=body), 422
    )
    assert said["detail"].startswith(reason)
    assert office.log.messages == []


@pytest.mark.parametrize(
    "names",
    [
        {"device_id": "a/b"},
        {"device_id": "#"},
        {"metric_name": "t"},
        {"device_id": "\x00"},
        {"other": "x"},
    ],
)
def test_names_that_are_none_are_refused(office: Office, names: dict[str, str]) -> None:
    """An invalid name is refused, because it would become levels of a topic."""
    problem(office.ask("telemetry", "POST", "/api/v1/telemetry", params=names, content=b"1"), 422)


def test_a_disk_that_takes_nothing_is_said(office: Office) -> None:
    """A log that does not accept the readings is 503, which asks the sender to repeat."""
    office.log.writable = False
    answer = office.ask(
        "telemetry", "POST", "/api/v1/telemetry", params={"device_id": "a"}, content=b'{"t": 1}'
    )
    assert "again" in problem(answer, 503)["detail"]


def test_a_body_that_grows_is_cut_off(office: Office) -> None:
    """A body beyond the limit is refused, whether its size was announced or not."""
    for content in (b"x" * 1_000_001, (b"x" * 100_000 for _ in range(11))):
        problem(
            office.ask(
                "telemetry", "POST", "/api/v1/telemetry", params={"device_id": "a"}, content=content
            ),
            413,
        )


def test_the_interval_of_a_model_is_in_microseconds(office: Office) -> None:
    """The effect of a threshold rests on an interval in microseconds."""
    row = office.train()
    assert Model.from_bytes(office.files.scorer(row.id)).learnt[INTERVAL_US] >= SECOND / 1000


# ------------------------------------------------------------------------------- shadows
def test_two_versions_are_compared_and_one_is_promoted(office: Office) -> None:
    """A shadow raises no alert; its results stand beside the champion's until it takes over."""
    second = office.train(trained_at=now() - 2 * HOUR)
    first = office.train(trained_at=now() - HOUR)
    said = office.do("POST", f"{API}/models/{second.id}/shadow")
    assert (said["status"], said["replaced_model_id"]) == ("shadow", None)
    assert office.query("SELECT status FROM ml_models WHERE id = %s", second.id) == [("shadow",)]
    assert office.files.shadows() == {KEY: second.id}
    empty = office.get(f"{API}/models/{second.id}/shadow")
    assert (empty["readings"], empty["agreement"], empty["champion_id"]) == (0, None, first.id)

    office.serve(first)
    office.stream([10.0 + number % 3 / 2 for number in range(100)], since=now() - 300 * SECOND)
    office.fleet.shadow(KEY, Model.from_bytes(office.files.scorer(second.id)))
    office.stream(
        [10.0 + number % 3 / 2 + (40 if number == 50 else 0) for number in range(100)],
        since=now() - 200 * SECOND,
    )
    compared = office.get(f"{API}/models/{second.id}/shadow")
    assert (compared["readings"], compared["agreement"], compared["champion_versions"]) == (
        100,
        1.0,
        1,
    )
    assert compared["champion"] == compared["shadow"]
    assert compared["shadow"]["anomalies"] == compared["both_anomalous"] > 0
    assert compared["since"] < compared["newest"]

    office.do("POST", f"{API}/models/{second.id}/activate")
    assert (office.files.active(), office.files.shadows()) == ({KEY: second.id}, {})
    assert [(before, after) for _, _, _, before, after in office.audited("model.shadow")] == [
        (None, second.id)
    ]


def test_a_series_has_one_shadow(office: Office) -> None:
    """A new shadow replaces the old; an ended shadow is archived.

    A shadow that is requested again continues.
    """
    rows = [office.train(trained_at=now() - hour * HOUR) for hour in (4, 3, 2)]
    for row, before in ((rows[0], None), (rows[1], rows[0].id), (rows[1], None)):
        said = office.do("POST", f"{API}/models/{row.id}/shadow")
        assert (said["replaced_model_id"], office.files.shadows()) == (before, {KEY: row.id})
    assert office.query("SELECT status FROM ml_models WHERE id = %s", rows[0].id) == [("archived",)]
    assert office.do("DELETE", f"{API}/models/{rows[1].id}/shadow")["status"] == "archived"
    assert office.files.shadows() == {}
    for method in ("GET", "DELETE"):
        problem(office.ask("write", method, f"{API}/models/{rows[1].id}/shadow"), 409)


def test_only_what_is_kept_can_score_along(office: Office) -> None:
    """The champion, a model of a device and a deleted model cannot become a shadow."""
    row = office.train()
    together = office.train(SeriesKey.of_device(KEY.device_id), now() - HOUR)
    office.train(SeriesKey.of_device(KEY.device_id))
    for model_id in (row.id, together.id):
        problem(office.ask("write", "POST", f"{API}/models/{model_id}/shadow"), 409)
    problem(office.ask("write", "POST", f"{API}/models/{uuid4()}/shadow"), 404)


def test_a_shadow_that_cannot_be_audited_is_refused(office: Office) -> None:
    """No shadow begins then, and none ends."""
    row = office.train(trained_at=now() - HOUR)
    other = office.train(trained_at=now() - HOUR + SECOND)
    office.train()
    office.do("POST", f"{API}/models/{row.id}/shadow")
    office.query("ALTER TABLE audit_log RENAME TO gone")
    problem(office.ask("write", "POST", f"{API}/models/{other.id}/shadow"), 503)
    problem(office.ask("write", "DELETE", f"{API}/models/{row.id}/shadow"), 503)
    assert office.files.shadows() == {KEY: row.id}
