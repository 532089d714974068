"""The model health check over a real database: its measures, records, runs and duration."""

import time
import tracemalloc
from collections.abc import Iterator
from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg
import pytest

from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.jobs import PostgresJobs
from insa_anomaly.adapters.postgres.model_health import PostgresHealth
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.core.operations.model_health import DAY, HOUR, TASK, Action, Limits
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import Conflict, NotFound
from insa_anomaly.ports.jobs import Job
from insa_anomaly.ports.model_health import DecisionFilter, ScoringCounts
from insa_anomaly.runtime.models.failures import Failures
from insa_anomaly.services import model_health as service
from insa_anomaly.services.audit import Author
from insa_anomaly.services.model_health import HealthReport, HealthService
from insa_anomaly.testing.clock import SettableClock
from tests.benchmarks.health import fill
from tests.conftest import wait_for

NOW = 1_800_000_000_000_000 // DAY * DAY + 9 * HOUR
ALL, BOB = tuple(Action), Author("bob", "tests")
HERE, THERE = UUID(int=1), UUID(int=2)


class Clinic:
    """A health check over a database, with a way to insert models."""

    def __init__(self, dsn: str, pool: Pool) -> None:
        self.dsn = dsn
        self.tables = PostgresHealth(pool)
        self.service = HealthService(self.tables, PostgresAudit(pool), Limits(), 2, SettableClock())

    def query(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """Return rows of the database."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            found = connection.execute(statement, values)
            return found.fetchall() if found.description else []

    def model(
        self,
        device: str = "pump",
        version: int = 1,
        status: str = "active",
        at: int = NOW - DAY,
        **more: Any,  # noqa: ANN401
    ) -> str:
        """Insert a model of the device's metric a, and return the model's id.

        `more` holds accuracy, rate of false positives and figures.
        """
        model_id = str(UUID(int=abs(hash((device, version)))))
        figures = {"training": "anew", **more.get("figures", {})}
        row = (model_id, device, status, more.get("accuracy"), more.get("rate"), at, version)
        self.query(
            "INSERT INTO ml_models (id, device_id, metric_name, model_path, status, accuracy,"
            " false_positive_rate, training_samples, trained_at, version, threshold, figures,"
            " sha256)"
            " VALUES (%s, %s, 'a', '', %s, %s, %s, 9, instant(%s::bigint), %s, 0.5, %s, '')",
            *row,
            msgspec.json.encode(figures).decode(),
        )
        return model_id

    def scored(
        self,
        readings: int,
        anomalies: int,
        at: int = NOW - HOUR,
        device: str = "pump",
        instance: UUID = HERE,
    ) -> None:
        """Record counts of scored readings, as a daemon does."""
        self.tables.note(
            instance, ScoringCounts([SeriesKey(device, "a")], [readings], [anomalies], 100, 0), at
        )

    def run(self, now: int = NOW, actions: tuple[Action, ...] = ALL) -> HealthReport:
        """Run a check by hand."""
        return self.service.run(actions, BOB, now)

    def decided(self) -> list[tuple[str, str, str]]:
        """Return device, kind and cause of every decision, oldest first."""
        page = self.service.decisions(DecisionFilter(), None, 1000)
        return [(one.device_id, one.kind, one.cause) for one in reversed(page.decisions)]


@pytest.fixture
def clinic(database: str) -> Iterator[Clinic]:
    """Yield a health check over an empty database."""
    with Pool(database, 60.0, 2) as pool:
        yield Clinic(database, pool)


def standing(clinic: Clinic) -> Any:  # noqa: ANN401
    """Return the figures of the only model."""
    clinic.tables.begin(NOW - 8 * DAY, NOW - 2 * DAY, NOW)
    [one] = clinic.tables.standings(SeriesKey("", ""), NOW - DAY, 10)
    return one


# --------------------------------------------------------------------------------- its measures
def test_a_model_stands_as_it_was_promoted_and_as_it_is(clinic: Clinic) -> None:
    """A model is as old as its newest training anew, even if that was refused.

    Its accuracy at promotion is that of the newest assessed training that was not refused.
    """
    clinic.model(version=1, status="archived", at=NOW - 9 * DAY, accuracy=0.95, rate=0.01)
    clinic.model(
        version=2,
        status="archived",
        at=NOW - 3 * DAY,
        accuracy=0.7,
        rate=0.01,
        figures={"refusal": "worse"},
    )
    figures = {"training": "refit", "predecessor_accuracy": 0.8, "refusal": ""}
    for version in (3, 4, 5):
        clinic.model(
            version=version,
            status="archived" if version < 5 else "active",
            at=NOW - (6 - version) * HOUR,
            figures=figures,
        )
    clinic.scored(1000, 10)
    clinic.scored(500, 20, NOW - 2 * HOUR, instance=THERE)
    clinic.scored(9000, 9000, NOW - 26 * HOUR)
    one = standing(clinic)
    assert (one.version, one.learnt_at, one.trained_at) == (5, NOW - 3 * DAY, NOW - HOUR)
    assert (one.accuracy_at_promotion, one.accuracy, one.measurements) == (
        0.95,
        pytest.approx(0.8),
        3,
    )
    assert (one.readings, one.anomalies, one.last_reading) == (1500, 30, NOW - HOUR)
    assert one.instance == str(HERE)


def test_a_model_of_all_metrics_is_used_when_one_of_them_reports(clinic: Clinic) -> None:
    """A device model is used when any of its metrics reports, and has no figures of its own."""
    clinic.model()
    clinic.query("UPDATE ml_models SET metric_name = '_device'")
    clinic.scored(1000, 900, NOW - 2 * HOUR, instance=THERE)
    one = standing(clinic)
    assert (one.metric_name, one.last_reading, one.instance) == (
        "_device",
        NOW - 2 * HOUR,
        str(THERE),
    )
    assert (one.readings, one.accuracy, one.accuracy_at_promotion) == (0, None, None)


def test_what_was_read_before_the_promotion_is_not_the_new_models(clinic: Clinic) -> None:
    """Only whole hours since its promotion count for a model."""
    clinic.model(at=NOW - 3 * HOUR - HOUR // 2, accuracy=0.9, rate=0.01)
    for hours in range(1, 7):
        clinic.scored(100, 90 if hours >= 3 else 1, NOW - hours * HOUR)
    one = standing(clinic)
    assert (one.readings, one.anomalies) == (300, 92)


def test_confirmed_faults_are_no_false_alarms(clinic: Clinic) -> None:
    """Confirmed readings count neither as readings nor as anomalies."""
    model_id, at = clinic.model(accuracy=0.9, rate=0.01), NOW - 2 * HOUR
    clinic.scored(1000, 300)
    clinic.query(
        "INSERT INTO anomaly_episodes VALUES"
        " (%s, 'pump', 'a', %s, 1, instant(%s), instant(%s), NULL, 250, 1, false)",
        UUID(int=9),
        model_id,
        at,
        at,
    )
    clinic.query(
        "INSERT INTO anomaly_detections SELECT gen_random_uuid(), %s, 'pump', 'a', 1, -1, true, 1,"
        " instant(%s), '{}', %s FROM generate_series(1, 250)",
        model_id,
        at,
        UUID(int=9),
    )
    assert standing(clinic).anomalies == 300
    clinic.query("INSERT INTO feedback VALUES (%s, 'confirmed', '', 'bob', now())", UUID(int=9))
    one = standing(clinic)
    assert (one.readings, one.anomalies) == (750, 50)


def job(clinic: Clinic, hours: float, status: str, kind: str = "retrain") -> None:
    """Insert a training of the pump that ended `hours` ago."""
    at = NOW - int(hours * HOUR)
    row = (HERE, kind, status, at, at, f"{hours} hours ago")
    clinic.query(
        "INSERT INTO training_jobs (id, instance, kind, device_id, metric_name, requested_by,"
        " status, created_at, finished_at, reason)"
        " VALUES (gen_random_uuid(), %s, %s, 'pump', 'a', 'x', %s, instant(%s), instant(%s), %s)",
        *row,
    )


@pytest.mark.parametrize(
    ("jobs", "failures"),
    [
        ([], 0),
        ([(5, "failed")], 1),
        ([(5, "failed"), (4, "failed"), (3, "failed")], 3),
        ([(5, "failed"), (4, "done"), (3, "failed")], 1),
        ([(5, "failed"), (4, "done")], 0),
        ([(5, "failed"), (4, "cancelled"), (3, "failed")], 2),
        ([(30, "failed")], 0),  # the active model was trained later
    ],
)
def test_failures_in_a_row(clinic: Clinic, jobs: list[tuple[float, str]], failures: int) -> None:
    """Failures count from the last success of any kind on."""
    clinic.model()
    for hours, status in jobs:
        job(clinic, hours, status)
    # A training with a window chosen by hand does not count.
    job(clinic, 2, "failed", "train")
    one = standing(clinic)
    assert (one.failures, one.remedied) == (failures, False)
    if failures:
        assert one.failure == f"{jobs[-1][0]} hours ago"


def test_refits_that_fail_count_like_retrainings(clinic: Clinic, database: str) -> None:
    """A failed refit counts once, and the third failure in a row disables the model.

    A version trained since ends the row, even if refused.
    """
    model_id = clinic.model(accuracy=0.9)
    failures, kept = Failures(SettableClock(NOW - HOUR)), list[Job]()
    for _ in range(3):
        failures.add(
            SeriesKey("pump", "a"), model_id, "the training process ended, or took too long"
        )
    failures.write_down(kept.append)
    with Pool(database, 60.0, 1) as pool:
        for one in [*kept, *kept]:
            PostgresJobs(pool, HERE).put_ended(one)
        assert PostgresJobs(pool, HERE).page("failed", None, 9)[0].requested_by == "automatic"
    assert standing(clinic).failures == 3
    clinic.run(actions=(Action.RETRAIN,))
    assert clinic.decided() == [("pump", "disable", "failing")]
    clinic.query("TRUNCATE health_decision")
    clinic.model(
        version=2,
        status="archived",
        at=NOW - HOUR // 2,
        accuracy=0.5,
        figures={"training": "refit", "refusal": "worse"},
    )
    assert standing(clinic).failures == 0


def test_a_training_under_way_is_known(clinic: Clinic) -> None:
    """A queued training of any origin marks the model as remedied."""
    clinic.model()
    job(clinic, 1, "queued", "retrain")
    assert standing(clinic).remedied


# ------------------------------------------------------------------------------------ its records
def test_a_check_leaves_a_report_and_its_decisions(clinic: Clinic) -> None:
    """A check stores a report and its decisions, with reasons, figures and an audit entry."""
    clinic.model("old", at=NOW - 8 * DAY, accuracy=0.95, rate=0.01)
    clinic.model("bad", accuracy=0.95, rate=0.01)
    clinic.model("good", accuracy=0.85, rate=0.01)
    for device, anomalies in (("old", 1), ("bad", 200), ("good", 1)):
        clinic.scored(1000, anomalies, device=device)
    with pytest.raises(NotFound):
        clinic.service.report()
    report = clinic.run()
    assert clinic.service.report() == report
    assert (report.models, report.healthy, report.requested_by) == (3, False, "bob")
    assert report.found == {"degraded": 1, "inaccurate": 1, "old": 1}
    assert report.decided == {"escalate": 1, "retrain": 2}
    assert (
        report.summary
        == "1 of 3 models are below accuracy 0.9, the lowest good/a with 0.85; 1 degraded, 1 old"
    )
    assert [one.device_id for one in report.worst] == ["bad", "good", "old"]
    assert set(clinic.decided()) == {
        ("bad", "retrain", "degraded"),
        ("bad", "escalate", "degraded"),
        ("old", "retrain", "age"),
    }
    page = clinic.service.decisions(DecisionFilter("bad"), None, 1)
    assert page.next
    assert (page.decisions[0].figures["readings"], page.decisions[0].run_id) == (
        1000,
        report.run_id,
    )
    assert clinic.query("SELECT who, action, subject FROM audit_log") == [
        ("bob", "health.check", report.run_id)
    ]


def test_the_worst_goes_first_and_the_rest_are_spread(clinic: Clinic) -> None:
    """The worst model is retrained first, and each retraining has a time of its own."""
    for number in range(5):
        clinic.model(f"d{number}", at=NOW - 8 * DAY, accuracy=0.95, rate=0.01)
        clinic.scored(1000, 900 if number == 3 else 0, device=f"d{number}")
    clinic.run()
    times = clinic.query(
        "SELECT device_id, microseconds(due_at) FROM health_decision"
        " WHERE kind = 'retrain' ORDER BY due_at"
    )
    assert times == [
        (f"d{number}", NOW + 60_000_000 * place) for place, number in enumerate((3, 0, 1, 2, 4))
    ]


def test_nothing_is_decided_twice_while_it_waits(clinic: Clinic) -> None:
    """A waiting decision is not repeated.

    A decision that waits for two days becomes void, and the next check repeats it.
    """
    clinic.model(at=NOW - 8 * DAY)
    clinic.scored(1000, 900)
    clinic.run()
    assert len(clinic.decided()) == 2
    assert clinic.run(NOW + HOUR).decided == {}
    clinic.scored(1000, 900, NOW + 49 * HOUR)
    assert clinic.run(NOW + 50 * HOUR).decided == {"escalate": 1, "retrain": 1}
    assert clinic.query("SELECT status, count(*) FROM health_decision GROUP BY 1 ORDER BY 1") == [
        ("void", 2),
        ("waiting", 2),
    ]


def test_unused_files_go_and_silent_series_end(clinic: Clinic) -> None:
    """Unused versions are cleaned up and silent models retired, once each.

    Deleted versions are left alone.
    """
    clinic.model("idle", 1, "archived", NOW - 31 * DAY)
    clinic.model("idle", 2, "deleted", NOW - 31 * DAY)
    clinic.model("idle", 3, "archived", NOW - 29 * DAY)
    clinic.model("silent", 1, "active", NOW - 31 * DAY)
    clinic.run()
    assert sorted(clinic.decided()) == [
        ("idle", "clean_up", "inactive"),
        ("silent", "retire", "silent"),
    ]
    assert clinic.run(NOW + HOUR).decided == {}


def test_a_slow_daemon_is_told_and_so_is_its_recovery(clinic: Clinic) -> None:
    """A slow daemon is reported once a day, and its recovery once."""
    clinic.tables.note(HERE, ScoringCounts([], [], [], 100, 5), NOW - HOUR)
    assert clinic.run().found == {"slow": 1}
    assert clinic.run(NOW + HOUR).decided == {}
    clinic.tables.note(HERE, ScoringCounts([], [], [], 9900, 5), NOW + HOUR)
    assert clinic.run(NOW + 2 * HOUR).decided == {"recover": 1}
    assert clinic.run(NOW + 3 * HOUR).decided == {}


def test_what_is_old_is_forgotten(clinic: Clinic) -> None:
    """Activity is forgotten after eight days, decisions and reports after two years."""
    clinic.model(at=NOW - 8 * DAY)
    clinic.scored(1000, 900, NOW - 9 * DAY)
    clinic.scored(1000, 900)
    clinic.run()
    assert clinic.query("SELECT count(*) FROM series_activity") == [(1,)]
    clinic.run(NOW + 731 * DAY)
    clinic.run(NOW + 732 * DAY)
    assert clinic.query("SELECT count(*) FROM health_report") == [(2,)]
    assert not clinic.query("SELECT 1 FROM health_decision WHERE at = instant(%s)", NOW)


# -------------------------------------------------------------------------------------- its runs
def test_once_a_day_over_all_daemons(clinic: Clinic, database: str) -> None:
    """The daily run happens once over all daemons, and a missed run is made later."""
    with Pool(database, 60.0, 2) as pool:
        other = HealthService(
            PostgresHealth(pool), PostgresAudit(pool), Limits(), 2, SettableClock()
        )
        assert clinic.service.run_due(NOW)  # never yet
        for day in (1, 2, 7):  # four are missed and made up by a single run
            at = NOW // DAY * DAY + day * DAY + 2 * HOUR
            assert other.run_due(at - 1) is None or day == 7
            assert clinic.service.run_due(at) is not None
            assert other.run_due(at) is None
            assert clinic.service.run_due(at + 21 * HOUR) is None
    assert clinic.tables.last_due(TASK) == at


def test_one_at_a_time(clinic: Clinic, database: str) -> None:
    """A concurrent check by hand raises `Conflict`, and the daily run waits."""
    with Pool(database, 60.0, 2) as pool, PostgresHealth(pool).alone() as alone:
        assert alone
        with pytest.raises(Conflict):
            clinic.run()
        assert clinic.service.run_due(NOW) is None
    # The server notices the end of the connection a little later.
    wait_for(lambda: clinic.service.run_due(NOW))


def test_no_hour_no_daily_run(clinic: Clinic) -> None:
    """A service without an hour has no daily run, but runs by hand."""
    by_hand = HealthService(clinic.tables, clinic.service.audit, Limits(), None, SettableClock())
    assert by_hand.run_due(NOW) is None
    assert by_hand.run(ALL, BOB, NOW).models == 0


# -------------------------------------------------------------------------------- its duration
def test_a_fleet_is_checked_page_by_page(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is left out or judged twice, wherever a page ends."""
    fill(clinic.dsn, 23, NOW)
    monkeypatch.setattr(service, "PAGE", 5)
    report = clinic.run()
    assert (report.models, report.found["degraded"], report.found["old"]) == (23, 2, 3)
    assert len(report.worst) == 5
    [(devices,)] = clinic.query(
        "SELECT count(DISTINCT device_id) FROM health_decision WHERE kind = 'retrain'"
    )
    assert devices == report.decided["retrain"] == 5


@pytest.mark.long
def test_ten_thousand_models_in_a_minute(clinic: Clinic) -> None:
    """Ten thousand models are checked with all decisions in a minute.

    The memory is that of a page, not of the fleet.
    """
    fill(clinic.dsn, 10_000, NOW)
    peaks = []
    for now in (NOW, NOW + HOUR):
        tracemalloc.start()
        began = time.monotonic()
        report = clinic.run(now)
        seconds = time.monotonic() - began
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.models == 10_000
        assert seconds < 60
    assert max(peaks) < 20e6
