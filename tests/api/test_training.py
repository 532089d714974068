"""Training over the API: accepted once a series, run in sequence, published, cancelled.

A restart forgets no job.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread
from uuid import uuid4

import msgspec
import numpy as np
import pytest

from insa_anomaly.adapters.postgres.jobs import PostgresJobs
from insa_anomaly.adapters.postgres.recorder import PostgresRecorder
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import DatabaseRefused
from insa_anomaly.ports.recorder import Page, Telemetry
from insa_anomaly.runtime.models import jobs as jobs_runtime
from insa_anomaly.runtime.models.child import (
    FleetTrainingOrder,
    FleetTrainingReply,
    TrainingOrder,
    TrainingReply,
)
from insa_anomaly.runtime.models.jobs import JobRunner
from insa_anomaly.services import jobs as jobs_service
from insa_anomaly.testing.state import MemoryState
from insa_anomaly.wiring.clock import clock
from tests.api.office import JOBS_MOST, KEY, SECOND, Office, now, problem

API = "/api/v1/ml"
TRAIN = {"device_id": KEY.device_id, "metric_name": KEY.metric_name}


@dataclass
class Trainer:
    """A trainer that trains with the office's models, and waits where a test makes it wait."""

    office: Office
    go: Event = field(default_factory=Event)
    began: Event = field(default_factory=Event)
    reason: str = ""
    closed: bool = False
    orders: list[TrainingOrder] = field(default_factory=list)
    fleets: list[FleetTrainingOrder] = field(default_factory=list)
    figures: dict[str, float | str] = field(default_factory=dict)

    def train(
        self, order: TrainingOrder, name: object, tell: Callable[[int], None]
    ) -> TrainingReply:
        """Train a model like the real trainer, and report progress on the way."""
        del name
        self.orders.append(order)
        tell(0)
        self.began.set()
        self.go.wait(10)
        tell(90)
        if self.reason:
            return TrainingReply(0.1, None, self.reason)
        return TrainingReply(0.5, self.office.train(order.key, None, **self.figures).id)

    def train_many(self, order: FleetTrainingOrder, name: object) -> list[FleetTrainingReply]:
        """Train each series but the metric `missing`, which fails, and `cut`, which is left out."""
        del name
        self.fleets.append(order)
        found = [key for key in order.keys if key.metric_name != "cut"]
        return [
            FleetTrainingReply(key, TrainingReply(0.5, None, "nothing is known"))
            if key.metric_name == "missing"
            else self._made(key)
            for key in found
        ]

    def _made(self, key: SeriesKey) -> FleetTrainingReply:
        return FleetTrainingReply(key, TrainingReply(0.5, self.office.train(key).id))

    def interrupt(self, name: object) -> None:
        """End the training."""
        del name
        self.reason = "the training process ended, or took too long"
        self.go.set()


@dataclass
class School:
    """A runner of the office's jobs."""

    office: Office

    def __post_init__(self) -> None:
        self.trainer = Trainer(self.office)
        self.state = MemoryState()
        self.told: list[object] = []
        self.jobs = PostgresJobs(self.office.pool, self.office.instance)
        self.start()

    def start(self) -> None:
        """Start a new runner, as after a restart."""
        trainer: object = self.trainer
        self.runner = JobRunner(
            jobs=self.jobs,
            trainer=trainer,  # type: ignore[arg-type]
            models=self.office.files,
            state=self.state,
            enqueue=self.told.extend,
            clock=clock,
        )

    def run(self) -> Thread:
        """Run a turn in a thread beside the test."""
        thread = Thread(target=self.runner.step, args=(0.0,))
        thread.start()
        return thread

    def finish(self) -> None:
        """Run a turn to its end."""
        self.trainer.go.set()
        self.runner.step(0.0)


@pytest.fixture
def school(office: Office, monkeypatch: pytest.MonkeyPatch) -> School:
    """Return a school over a known series, whose callers do not wait for an answer."""
    monkeypatch.setattr(jobs_service, "WAIT_SECONDS", 0.0)
    office.stream([1.0])
    return School(office)


def asked(office: Office, body: object = None, path: str = "models/train") -> str:
    """Return the id of a job that was accepted."""
    answer = office.ask("write", "POST", f"{API}/{path}", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"{API}/jobs/{answer.json()['job_id']}"
    return str(answer.json()["job_id"])


def test_a_training_is_taken_run_and_told(office: Office, school: School) -> None:
    """A job is accepted with 202 and can be polled; then the model is there with its figures.

    The training is published as an event on MQTT.
    """
    school.trainer.figures = {"accuracy": 0.93, "basis": "injected faults"}
    job_id = asked(office, {**TRAIN, "training_window": 14})
    assert office.get(f"{API}/jobs/{job_id}")["status"] == "queued"
    thread = school.run()
    school.trainer.began.wait(10)
    assert office.get(f"{API}/jobs/{job_id}")["status"] == "running"
    school.trainer.go.set()
    thread.join(10)
    said = office.get(f"{API}/jobs/{job_id}")
    [model] = office.get(f"{API}/models")["models"]
    assert (said["status"], said["progress"], said["model_id"], said["new_model_id"]) == (
        "done",
        100,
        model["id"],
        None,
    )
    assert (said["accuracy"], said["basis"], said["training_time"], said["training_samples"]) == (
        0.93,
        "injected faults",
        0.5,
        400,
    )
    assert said["figures"]["accuracy"] == 0.93
    assert school.trainer.orders == [TrainingOrder(*KEY, 14.0)]
    [event] = school.state.outgoing(0, 10)
    told = msgspec.json.decode(event.payload)
    assert (event.topic, told["model_id"], told["job_id"]) == (
        "insa/iiot/ml/model/trained",
        model["id"],
        job_id,
    )
    assert school.told == [event]
    [(who, _, subject, before, after)] = office.audited("model.train")
    assert ("(write)" in who, subject, before, after["device_id"]) == (
        True,
        job_id,
        None,
        KEY.device_id,
    )


def test_an_answer_that_comes_soon_is_waited_for(
    office: Office, school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that ends soon answers 200 with the model, or the reason of its failure."""
    monkeypatch.setattr(jobs_service, "WAIT_SECONDS", 10.0)
    school.trainer.go.set()
    for reason, status in (("", 200), ("40 readings are too few", 422)):
        school.trainer.reason = reason
        stop = Event()
        thread = Thread(
            target=lambda: [school.runner.step(0.0) for _ in iter(lambda: stop.wait(0.02), True)]  # noqa: B023
        )
        thread.start()
        answer = office.ask("write", "POST", f"{API}/models/train", json=TRAIN)
        stop.set()
        thread.join(10)
        assert answer.status_code == status, answer.text
        assert reason in answer.text


def test_a_model_is_retrained(office: Office, school: School) -> None:
    """A retraining names its model, and reports the improvement measured on a single holdout.

    Without a measurement the improvement is unknown, and the reason is stated.
    """
    first = office.train()
    for figures, improvement in (({}, None), ({"improvement_percentage": -1.5}, -1.5)):
        school.trainer.figures = dict(figures)
        job_id = asked(office, None, f"models/{first.id}/retrain")
        school.finish()
        said = office.get(f"{API}/jobs/{job_id}")
        assert (
            said["kind"],
            said["model_id"],
            said["promoted"],
            said["improvement_percentage"],
        ) == ("retrain", first.id, True, improvement)
        assert ("holdout" in said["reason"]) == (improvement is None)
        assert office.files.active() == {KEY: said["new_model_id"]}
    assert [event.topic for event in school.state.outgoing(0, 10)] == [
        "insa/iiot/ml/model/retrained"
    ] * 2


def test_a_series_has_one_job_at_a_time(office: Office, school: School) -> None:
    """A second job of a series is refused with 409, which names the first, also while it runs.

    Afterwards the next job is accepted.
    """
    job_id = asked(office, TRAIN)
    assert (
        job_id
        in problem(office.ask("write", "POST", f"{API}/models/train", json=TRAIN), 409)["detail"]
    )
    thread = school.run()
    school.trainer.began.wait(10)
    problem(office.ask("write", "POST", f"{API}/models/train", json=TRAIN), 409)
    school.trainer.go.set()
    thread.join(10)
    asked(office, TRAIN)


def test_so_many_may_wait(office: Office, school: School) -> None:
    """A job beyond the limit is refused with 429 and a time to retry."""
    del school
    for number in range(JOBS_MOST):
        key = SeriesKey(f"d{number}", "m")
        office.stream([1.0], key)
        asked(office, {"device_id": key.device_id, "metric_name": key.metric_name})
    answer = office.ask("write", "POST", f"{API}/models/train", json=TRAIN)
    problem(answer, 429)
    assert int(answer.headers["retry-after"]) > 0
    page = office.get(f"{API}/jobs", status="queued", limit=2)
    assert (page["total"], len(page["jobs"])) == (JOBS_MOST, 2)
    assert page["next"]
    assert office.get(f"{API}/jobs", limit=2, cursor=page["next"])["jobs"][0]["job_id"] not in {
        job["job_id"] for job in page["jobs"]
    }


def test_a_job_that_waits_is_cancelled(office: Office, school: School) -> None:
    """A cancelled job never begins, and its series is free again; a second attempt is refused."""
    job_id = asked(office, TRAIN)
    said = office.do("DELETE", f"{API}/jobs/{job_id}")
    assert (said["status"], "cancelled by" in said["reason"]) == ("cancelled", True)
    school.finish()
    assert school.trainer.orders == []
    problem(office.ask("write", "DELETE", f"{API}/jobs/{job_id}"), 409)
    asked(office, TRAIN)


def test_a_job_under_way_is_cancelled(office: Office, school: School) -> None:
    """The training of a cancelled job is ended, and the job stays cancelled despite any reply."""
    office.interrupts.append(school.trainer.interrupt)
    job_id = asked(office, TRAIN)
    thread = school.run()
    school.trainer.began.wait(10)
    office.do("DELETE", f"{API}/jobs/{job_id}")
    thread.join(10)
    assert office.get(f"{API}/jobs/{job_id}")["status"] == "cancelled"
    assert school.state.outgoing(0, 10) == []


def test_a_restart_forgets_no_job(office: Office, school: School) -> None:
    """A job under way when the daemon ended begins anew.

    The jobs of another daemon are left to it.
    """
    job_id = asked(office, TRAIN)
    school.trainer.closed, school.trainer.reason = True, "the end"
    school.finish()
    assert office.get(f"{API}/jobs/{job_id}")["status"] == "running"
    other = PostgresJobs(office.pool, uuid4())
    other.resume()
    assert other.begin(now()) is None
    assert office.get(f"{API}/jobs/{job_id}")["status"] == "running"
    school.trainer.closed, school.trainer.reason = False, ""
    school.start()
    school.finish()
    assert office.get(f"{API}/jobs/{job_id}")["status"] == "done"


def test_what_ended_is_written_when_the_database_is_back(
    office: Office, school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was trained is not trained again."""
    job_id = asked(office, TRAIN)

    def refuse(_: object) -> bool:
        raise DatabaseRefused

    with monkeypatch.context() as away:
        away.setattr(school.jobs, "end", refuse)
        school.finish()
    school.runner._next_at = 0.0
    school.finish()
    assert office.get(f"{API}/jobs/{job_id}")["status"] == "done"
    assert len(school.trainer.orders) == 1


@pytest.mark.parametrize(
    "key", [SeriesKey("nobody", "temperature"), SeriesKey(KEY.device_id, "nothing")]
)
def test_what_never_reported_cannot_be_trained(
    office: Office, school: School, key: SeriesKey
) -> None:
    """A series that never reported gets 404 and no job."""
    del school
    problem(
        office.ask(
            "write",
            "POST",
            f"{API}/models/train",
            json={"device_id": key.device_id, "metric_name": key.metric_name},
        ),
        404,
    )
    assert office.get(f"{API}/jobs")["total"] == 0


def test_what_is_only_recorded_can_be_trained(office: Office, school: School) -> None:
    """A series that this run of the daemon has not seen, but that is recorded, can be trained."""
    del school
    office.query("INSERT INTO series (device_id, metric_name) VALUES ('old', 'm')")
    asked(office, {"device_id": "old", "metric_name": "m"})


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"device_id": "a"},
        {**TRAIN, "training_window": 0},
        {**TRAIN, "training_window": -1},
        {**TRAIN, "training_window": "14"},
        {**TRAIN, "training_window": 1e6},
        {**TRAIN, "window": 14},
        {"device_id": "a/b", "metric_name": "m"},
        {"device_id": 7, "metric_name": "m"},
    ],
)
def test_trainings_that_make_no_sense_are_refused(
    office: Office, school: School, body: object
) -> None:
    """The refusal names each wrong field and the reason."""
    del school
    assert problem(office.ask("write", "POST", f"{API}/models/train", json=body), 422)["errors"]


def test_a_training_that_cannot_be_audited_is_refused(office: Office, school: School) -> None:
    """No job is queued then, and none is cancelled."""
    del school
    job_id = asked(office, TRAIN)
    office.query("ALTER TABLE audit_log RENAME TO gone")
    office.stream([1.0], SeriesKey("other", "m"))
    problem(
        office.ask(
            "write", "POST", f"{API}/models/train", json={"device_id": "other", "metric_name": "m"}
        ),
        503,
    )
    problem(office.ask("write", "DELETE", f"{API}/jobs/{job_id}"), 503)
    assert [job["status"] for job in office.get(f"{API}/jobs")["jobs"]] == ["queued"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "jobs/{}"), ("DELETE", "jobs/{}"), ("POST", "models/{}/retrain")]
)
def test_jobs_and_models_there_are_not(office: Office, method: str, path: str) -> None:
    """An unknown job or model is 404; a malformed id is refused."""
    problem(office.ask("write", method, f"{API}/{path.format(uuid4())}"), 404)
    assert office.ask("write", method, f"{API}/{path.format('%00')}").status_code in {404, 422}


# -------------------------------------------------------------------------------- of many
FLEET = (
    SeriesKey("PUMP-1", "a"),
    SeriesKey("PUMP-1", "b"),
    SeriesKey("PUMP-2", "a"),
    SeriesKey("PUMP-2", "missing"),
    SeriesKey("PUMP-3", "cut"),
    SeriesKey("FAN-1", "a"),
)


@pytest.fixture
def plant(office: Office) -> Office:
    """Return a plant of recorded series."""
    times, keys = now() - SECOND * np.arange(len(FLEET)), np.arange(len(FLEET), dtype=np.int32)
    columns = (
        times,
        times,
        np.ones(len(FLEET)),
        np.zeros(len(FLEET), np.int16),
        np.zeros(len(FLEET), np.int16),
    )
    with PostgresRecorder(office.dsn) as recorder:
        recorder.record(Page(office.instance, 1, Telemetry(FLEET, keys, *columns)))
    return office


def test_a_fleet_is_trained(plant: Office, school: School) -> None:
    """Every series of the matching devices is trained, and the devices themselves.

    Each model is published, and failures are counted.
    """
    job_id = asked(plant, {"device_pattern": "PUMP-*", "training_window": 7})
    waiting = plant.get(f"{API}/jobs/{job_id}")
    assert (
        waiting["kind"],
        waiting["device_id"],
        waiting["metric_name"],
        waiting["fleet"]["series"],
    ) == ("fleet", "PUMP-*", "*", 0)
    for _ in range(2):
        school.finish()
    said = plant.get(f"{API}/jobs/{job_id}")
    assert (said["status"], said["progress"]) == ("done", 100)
    assert said["fleet"] == {
        "series": 7,
        "trained": 5,
        "failed": 2,
        "first_failure": "PUMP-2/missing: nothing is known",
    }
    assert said["reason"] == "2 of 7 were not trained; the first: PUMP-2/missing: nothing is known"
    [order] = school.trainer.fleets
    assert order == FleetTrainingOrder(
        (
            *FLEET[:2],
            SeriesKey.of_device("PUMP-1"),
            *FLEET[2:4],
            SeriesKey.of_device("PUMP-2"),
            FLEET[4],
        ),
        7.0,
    )
    told = [msgspec.json.decode(one.payload) for one in school.state.outgoing(0, 10)]
    assert [(one["device_id"], one["metric_name"]) for one in told] == [
        key for key in order.keys if key.metric_name not in {"missing", "cut"}
    ]
    assert {one["job_id"] for one in told} == {job_id}
    [(_, _, subject, _, after)] = plant.audited("model.fleet")
    assert (subject, after["device_id"]) == (job_id, "PUMP-*")


def test_a_fleet_of_one_metric_has_no_devices(plant: Office, school: School) -> None:
    """A fleet of a named metric trains that metric only."""
    asked(plant, {"device_pattern": "?*", "metric_name": "a"})
    school.finish()
    assert school.trainer.fleets == [FleetTrainingOrder((FLEET[5], FLEET[0], FLEET[2]))]


def test_a_restart_goes_on_where_a_fleet_was(
    plant: Office, school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet is trained part by part: a trained series is not trained again.

    A part that the end of the daemon cut off is trained again.
    """
    monkeypatch.setattr(jobs_runtime, "AT_ONCE", 2)
    job_id = asked(plant, {"device_pattern": "PUMP-*"})
    school.finish()
    assert plant.get(f"{API}/jobs/{job_id}")["progress"] == 100 * 2 // 7
    school.trainer.closed = True
    school.finish()
    school.trainer.closed = False
    school.start()
    for _ in range(4):
        school.finish()
    assert plant.get(f"{API}/jobs/{job_id}")["status"] == "done"
    parts = [order.keys[0] for order in school.trainer.fleets]
    assert parts == [FLEET[0], ("PUMP-1", "_device"), ("PUMP-1", "_device"), FLEET[3], FLEET[4]]


def test_a_series_does_not_wait_for_a_fleet(
    plant: Office, school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of a single series runs between two parts of a fleet.

    A second fleet begins when the first is done.
    """
    monkeypatch.setattr(jobs_runtime, "AT_ONCE", 4)
    fleets = [asked(plant, {"device_pattern": pattern}) for pattern in ("PUMP-*", "FAN-*")]
    school.finish()
    one = asked(plant, {"device_id": "FAN-1", "metric_name": "a"})
    for _ in range(2):
        school.finish()
    assert [plant.get(f"{API}/jobs/{job_id}")["status"] for job_id in (one, *fleets)] == [
        "done",
        "running",
        "running",
    ]
    for _ in range(4):
        school.finish()
    assert [plant.get(f"{API}/jobs/{job_id}")["status"] for job_id in fleets] == ["done", "done"]
    assert [order.keys[0] for order in school.trainer.fleets] == [FLEET[0], FLEET[3], FLEET[5]]


def test_a_fleet_is_cancelled(
    plant: Office, school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model trained before the cancellation stays; the next job begins."""
    monkeypatch.setattr(jobs_runtime, "AT_ONCE", 2)
    job_id = asked(plant, {"device_pattern": "PUMP-*"})
    school.finish()
    plant.do("DELETE", f"{API}/jobs/{job_id}")
    other = asked(plant, {"device_pattern": "FAN-*"})
    for _ in range(3):
        school.finish()
    said = plant.get(f"{API}/jobs/{job_id}")
    assert (said["status"], said["fleet"]["trained"]) == ("cancelled", 2)
    assert plant.get(f"{API}/jobs/{other}")["status"] == "done"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"device_pattern": "NOTHING-*"}, 404),
        ({"device_pattern": "PUMP-1", "metric_name": "nothing"}, 404),
        ({"device_pattern": ""}, 422),
        ({"device_pattern": "a/b"}, 422),
        ({"device_pattern": "*", "device_id": "PUMP-1"}, 422),
        ({"device_pattern": "*", "training_window": 0}, 422),
    ],
)
def test_fleets_that_make_no_sense_are_refused(
    plant: Office, school: School, body: object, status: int
) -> None:
    """A pattern that matches no device, or is malformed, is refused."""
    del school
    problem(plant.ask("write", "POST", f"{API}/models/train", json=body), status)
