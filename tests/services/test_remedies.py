"""Remedies: the daemon that has the model carries out a decision exactly once.

A decision that can no longer be carried out is settled as void.
"""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
import pytest

from insa_anomaly.core.notification.notice import Notice
from insa_anomaly.core.operations.model_health import Decision, Kind
from insa_anomaly.errors import Conflict, InsaError, StateUnwritable, TooMany
from insa_anomaly.ports.audit import Change
from insa_anomaly.ports.model_health import KeptDecision
from insa_anomaly.services.remedies import Remedies
from insa_anomaly.testing.models import MemoryModels
from tests.runtime.streams import SERIES, model_row

HERE = UUID(int=1)


@dataclass
class Desk:
    """All collaborators of `Remedies` in a single object that records its calls."""

    waiting: list[KeptDecision] = field(default_factory=list)
    settled: dict[str, tuple[str, str, str | None]] = field(default_factory=dict)
    done: list[tuple[str, ...]] = field(default_factory=list)
    audited: list[Change] = field(default_factory=list)
    told: list[Notice] = field(default_factory=list)
    trouble: InsaError | None = None

    def __post_init__(self) -> None:
        self.models = MemoryModels()
        desk: Any = self
        self.remedies = Remedies(
            decided=desk, models=self.models, jobs=desk, changes=desk, audit=desk, tell=self.tell
        )

    def decide(self, kind: Kind, instance: str | None = str(HERE), number: int = 0) -> str:
        """Add a decision about model `number`, and return its id."""
        cause: Any = {"retrain": "age", "retire": "silent", "clean_up": "inactive"}.get(
            kind, "failing"
        )
        device_id, metric_name = SERIES[number]
        decision = Decision(
            kind=kind,
            cause=cause,
            reason="why",
            instance=instance,
            device_id=device_id,
            metric_name=metric_name,
            model_id=model_row(number).id,
            model_version=1,
            figures={"failures": 3},
        )
        kept = KeptDecision(
            id=f"decision-{len(self.waiting)}",
            run_id="run",
            at=7,
            decision=decision,
            status="waiting",
            due_at=7,
            settled_at=None,
            outcome="",
            job_id=None,
            job_status=None,
            job_outcome=None,
        )
        self.waiting.append(kept)
        return kept.id

    def step(self) -> int:
        """Run a single step."""
        return self.remedies.step(HERE, 9)

    # The tables, the jobs, the changes, the audit log and the outbox
    def due(self, instance: UUID, now: int, most: int) -> list[KeptDecision]:
        """Return the decisions not settled."""
        assert (instance, now) == (HERE, 9)
        return [one for one in self.waiting if one.id not in self.settled][:most]

    def settle(
        self, decision_id: str, status: str, outcome: str, job_id: str | None, now: int
    ) -> None:
        """Record the outcome of a decision."""
        assert now == 9
        self.settled[decision_id] = status, outcome, job_id

    def retrain(self, model_id: str, author: object, now: int) -> Any:  # noqa: ANN401 - only the id is read
        """Record a retraining, or raise the prepared error."""
        del author, now
        if self.trouble:
            raise self.trouble
        self.done.append(("retrain", model_id))
        return type("Job", (), {"job_id": "job-1"})

    def put_aside(self, model_id: str, status: str, reason: str, author: object) -> None:
        """Record a model put aside, and change its status."""
        del author
        self.done.append((status, model_id, reason))
        self.models.put(msgspec.structs.replace(self.models.row(model_id), status=status), b"")

    def delete(self, model_id: str, author: object) -> None:
        """Record a deletion."""
        del author
        self.done.append(("deleted", model_id))

    def write(self, change: Change) -> None:
        """Record an audit entry."""
        self.audited.append(change)

    def tell(self, notice: Notice) -> None:
        """Record a notice, or raise the prepared error."""
        if isinstance(self.trouble, StateUnwritable):
            raise self.trouble
        self.told.append(notice)


@pytest.fixture
def desk() -> Desk:
    """Return a desk with a serving model."""
    desk = Desk()
    desk.models.put(model_row(0, "active"), b"")
    return desk


@pytest.mark.parametrize(
    ("kind", "done", "outcome", "told"),
    [
        ("retrain", [("retrain", model_row(0).id)], "queued: job job-1", []),
        ("disable", [("disabled", model_row(0).id, "why")], "version 1 is disabled", ["disabled"]),
        ("retire", [("archived", model_row(0).id, "why")], "version 1 is archived", []),
        ("escalate", [], "told", ["failing"]),
        ("recover", [], "told", ["recovered"]),
    ],
)
def test_what_is_decided_is_done_once(
    desk: Desk, kind: Kind, done: list[tuple[str, ...]], outcome: str, told: list[str]
) -> None:
    """A decision is carried out once, with a notice if needed.

    A decision that changes no model is audited here, all others by the service that changes the
    model.
    """
    decision = desk.decide(kind)
    assert (desk.step(), desk.step()) == (1, 0)
    assert desk.done == done
    assert desk.settled[decision][:2] == ("done", outcome)
    assert [one.kind for one in desk.told] == told
    assert [one.action for one in desk.audited] == ([f"health.{kind}"] if outcome == "told" else [])


def test_the_model_that_serves_by_now_is_meant(desk: Desk) -> None:
    """A decision applies to the serving model, even if it was refitted since."""
    newer = msgspec.structs.replace(model_row(0, "active"), id="newer", version=2)
    desk.models.put(newer, b"")
    desk.decide("retrain")
    desk.step()
    assert desk.done == [("retrain", "newer")]


def test_files_of_what_serves_are_not_removed(desk: Desk) -> None:
    """A version activated since the decision is not deleted; the other version is."""
    kept, gone = desk.decide("clean_up"), desk.decide("clean_up", number=1)
    desk.models.put(model_row(1), b"")
    assert desk.step() == 2
    assert desk.done == [("deleted", model_row(1).id)]
    assert (desk.settled[kept][0], desk.settled[gone][0]) == ("void", "done")


@pytest.mark.parametrize(("instance", "status"), [(str(HERE), "void"), (None, None)])
def test_a_model_that_is_not_here(desk: Desk, instance: str | None, status: str | None) -> None:
    """A decision about a missing model of this daemon is void.

    A decision without a daemon waits, because the model may belong to another daemon.
    """
    decision = desk.decide("retrain", instance, number=2)
    desk.step()
    assert desk.settled.get(decision, (None,))[0] == status
    assert desk.done == []


@pytest.mark.parametrize(
    ("trouble", "status"),
    [(Conflict("job 7 trains this series already"), "void"), (TooMany("100 wait"), None)],
)
def test_a_retraining_that_finds_no_room_waits(
    desk: Desk, trouble: InsaError, status: str | None
) -> None:
    """A retraining without room waits, and a retraining under way is not repeated."""
    decision, desk.trouble = desk.decide("retrain"), trouble
    desk.step()
    assert desk.settled.get(decision, (None,))[0] == status
    desk.trouble = None
    assert desk.step() == (status is None)


def test_what_was_done_and_not_told_is_told(desk: Desk) -> None:
    """A remedy whose notice failed publishes only the notice the second time."""
    decision, desk.trouble = desk.decide("disable"), StateUnwritable()
    with pytest.raises(StateUnwritable):
        desk.step()
    assert decision not in desk.settled
    desk.trouble = None
    assert desk.step() == 1
    assert len(desk.done) == 1
    assert [one.kind for one in desk.told] == ["disabled"]
