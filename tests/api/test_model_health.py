"""The health check over the API: an outside orchestrator runs it, and reads report and reasons."""

from uuid import UUID

import pytest

from insa_anomaly.adapters.postgres.model_health import PostgresHealth
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.postgres.recorder import PostgresRecorder
from insa_anomaly.core.operations.model_health import DAY, Action
from insa_anomaly.ports.model_health import ScoringCounts
from insa_anomaly.ports.models import ModelRow
from insa_anomaly.ports.recorder import Page
from tests.api.office import KEY, NOTHING, Office, now, problem

URL = "/api/v1/ml/health-check"
TASK = {"task_type": "ml_model_health_check"}


def old(office: Office) -> ModelRow:
    """Store a model trained eight days ago that has served until now."""
    row = office.train(trained_at=now() - 8 * DAY, accuracy=0.8, false_positive_rate=0.01)
    with PostgresRecorder(office.dsn) as recorder:
        recorder.record(Page(UUID(int=1), 1, NOTHING, models=[row]))
    PostgresHealth(office.pool).note(
        office.instance, ScoringCounts([KEY], [1000], [900], 50, 0), now()
    )
    return row


def test_it_is_run_reported_and_explained(office: Office) -> None:
    """The report is returned at once and can be read again.

    The decisions about a model are listed page by page, with reason and figures.
    """
    problem(office.ask("read", "GET", URL), 404)
    row = old(office)
    report = office.do("POST", URL, {**TASK, "actions": [*Action]})
    assert (report["models"], report["healthy"], report["decided"]) == (
        1,
        False,
        {"escalate": 1, "retrain": 1},
    )
    assert (report["actions"], "(write)" in report["requested_by"]) == ([*Action], True)
    assert office.get(URL) == report
    page = office.get(f"{URL}/decisions", model_id=row.id, limit=1)
    rest = office.get(f"{URL}/decisions", model_id=row.id, limit=1, cursor=page["next"])
    [one, other] = page["decisions"] + rest["decisions"]
    assert {one["kind"], other["kind"]} == {"escalate", "retrain"}
    assert (one["status"], one["run_id"], one["figures"]["readings"]) == (
        "waiting",
        report["run_id"],
        1000,
    )
    assert "90.0 % of its 1000 readings" in one["reason"]
    assert rest["next"] is None
    assert office.get(f"{URL}/decisions", device_id="other")["decisions"] == []
    [(who, origin, subject, _, after)] = office.audited("health.check")
    assert ("(write)" in who, origin, subject, after) == (
        True,
        "testclient",
        report["run_id"],
        {"actions": [*Action]},
    )


def test_only_what_is_asked_for_is_done(office: Office) -> None:
    """A check acts only on demand; an action named twice is done once.

    Without actions, all of them are meant.
    """
    old(office)
    asked = ["check_model_age", "check_model_age", "check_model_accuracy"]
    report = office.do("POST", URL, {**TASK, "actions": asked})
    assert (report["actions"], report["decided"]) == (asked[1:], {})
    assert report["found"] == {"degraded": 1, "inaccurate": 1, "old": 1}
    assert office.do("POST", URL, TASK)["actions"] == [*Action]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"task_type": "something"},
        {"actions": ["check_model_age"]},
        {**TASK, "actions": []},
        {**TASK, "actions": ["drop_all_models"]},
        {**TASK, "actions": "check_model_age"},
        {**TASK, "actions": [1]},
        {**TASK, "actions": ["check_model_age"] * 7},
        {**TASK, "more": 1},
    ],
)
def test_what_makes_no_sense_is_refused(office: Office, body: object) -> None:
    """The refusal names each wrong field, and no check runs."""
    assert problem(office.ask("write", "POST", URL, json=body), 422)["errors"]
    problem(office.ask("read", "GET", URL), 404)


def test_one_at_a_time(office: Office) -> None:
    """A check is refused with 409 while another daemon runs a check."""
    with Pool(office.dsn) as pool, PostgresHealth(pool).alone():
        problem(office.ask("write", "POST", URL, json=TASK), 409)


def test_a_check_that_cannot_be_audited_is_refused(office: Office) -> None:
    """No decision is made then, and the next check runs."""
    old(office)
    office.query("ALTER TABLE audit_log RENAME TO gone")
    problem(office.ask("write", "POST", URL, json=TASK), 503)
    office.query("ALTER TABLE gone RENAME TO audit_log")
    assert office.query("SELECT count(*) FROM health_decision") == [(0,)]
    assert office.do("POST", URL, TASK)["models"] == 1
