"""The trainer: it follows the index of models, and admits new series at a measured pace.

The trainer outlives its child.
"""

import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from subprocess import PIPE, Popen
from threading import Thread, Timer
from threading import enumerate as enumerate_threads
from time import monotonic

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.errors import (
    DatabaseAway,
    DatabaseRefused,
    InsaError,
    ModelFileError,
    NotEnoughData,
    TrainingError,
)
from insa_anomaly.ports.log import Swap
from insa_anomaly.ports.models import ModelRow
from insa_anomaly.processes.trainer import _answered
from insa_anomaly.runtime.models import trainer as training
from insa_anomaly.runtime.models.child import (
    Child,
    FleetTrainingOrder,
    FleetTrainingReply,
    TrainingOrder,
    TrainingReply,
)
from insa_anomaly.runtime.models.trainer import Admission, Trainer
from insa_anomaly.settings.sections import TrainingSettings
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.testing.models import MemoryModels
from tests.runtime.streams import SERIES, model_row, removal, swap

CHILD = """
import json, sys, time
for line in sys.stdin:
    order = json.loads(line)
    if order.pop("type") == "many":
        for device_id, metric_name in reversed(order["keys"]):
            if device_id == "dies":
                sys.exit(3)
            answer = {"seconds": 1.5, "model_id": device_id}
            print(json.dumps({"key": [device_id, metric_name], "answer": answer}), flush=True)
        continue
    if order["device_id"] == "dies":
        sys.exit(3)
    if order["device_id"] == "hangs":
        time.sleep(600)
    if order["device_id"] == "slow":
        print('{"progress":20}', flush=True)
        time.sleep(600)
    if order["device_id"] == "babbles":
        print("hello")
    elif order["device_id"] == "fails":
        print('{"seconds": 0.5, "reason": "too few"}')
    else:
        print(json.dumps({"seconds": 1.5, "model_id": "-".join(order.values())}))
    sys.stdout.flush()
"""


# ------------------------------------------------------------------------ the admission
@given(
    st.integers(0, 5),
    st.sampled_from([7.5, 15.0, 60.0, 240.0]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 4)), max_size=40),
)
def test_admission_is_arithmetic_on_the_times_given(
    burst: int, a_minute: float, steps: list[tuple[int, int]]
) -> None:
    """Admission equals an exact bucket: `burst` at once, then `a_minute`.

    Never more than the burst is saved up.
    """
    now = 1000.0
    admission, tokens = Admission(burst, a_minute, now), Fraction(burst)
    for quarters, asked in steps:
        now += quarters / 4
        tokens = min(Fraction(burst), tokens + Fraction(quarters, 4) * Fraction(a_minute) / 60)
        for _ in range(asked):
            assert admission.admit(now) == (tokens >= 1)
            tokens -= tokens >= 1


# ---------------------------------------------------------------------------- the child
class Nursery:
    """A starter of children that remembers them."""

    def __init__(self) -> None:
        self.born: list[Popen[bytes]] = []
        self.trouble: Exception | None = None

    def start(self) -> "Popen[bytes]":
        """Start another child."""
        if self.trouble:
            raise self.trouble
        self.born.append(Popen([sys.executable, "-IS", "-c", CHILD], stdin=PIPE, stdout=PIPE))
        return self.born[-1]


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """Yield a nursery, and leave none of its children."""
    nursery = Nursery()
    yield nursery
    for child in nursery.born:
        child.kill()
        child.wait()
        assert child.stdin
        assert child.stdout
        child.stdin.close()
        child.stdout.close()


@pytest.fixture
def child(nursery: Nursery) -> Child:
    """Return a child that has a minute for each answer."""
    return Child(nursery.start, 60.0)


def test_one_child_answers_all_questions(child: Child, nursery: Nursery) -> None:
    """The child is started at the first order; an answer holds a model or the reason for none."""
    assert nursery.born == []
    assert child.ask(TrainingOrder("pump", "a")) == TrainingReply(1.5, "pump-a")
    assert child.ask(TrainingOrder("fails", "a")) == TrainingReply(0.5, None, "too few")
    assert child.ask(TrainingOrder("pump", "b")) == TrainingReply(1.5, "pump-b")
    assert len(nursery.born) == 1


@pytest.mark.parametrize("how", ["dies", "babbles"])
def test_a_child_that_is_lost_is_replaced(child: Child, nursery: Nursery, how: str) -> None:
    """The series of the lost child is not trained this time; the next order goes to a new child.

    The old process is gone.
    """
    assert child.ask(TrainingOrder(how, "a")).model_id is None
    assert nursery.born[0].poll() is not None
    assert child.ask(TrainingOrder("pump", "a")) == TrainingReply(1.5, "pump-a")
    assert len(nursery.born) == 2


def test_many_are_asked_for_at_once(child: Child, nursery: Nursery) -> None:
    """Each key has an answer, in any order.

    If the child is lost, earlier answers count, and the next order goes to another child.
    """
    heard: list[FleetTrainingReply] = []
    for keys in (
        (SeriesKey("fan", "a"), SeriesKey("pump", "a")),
        (SeriesKey("dies", "a"), SeriesKey("pump", "b")),
    ):
        child.ask_many(FleetTrainingOrder(keys), heard.append)
    assert [one.key for one in heard] == [("pump", "a"), ("fan", "a"), ("pump", "b")]
    assert {one.answer for one in heard} == {TrainingReply(1.5, "pump"), TrainingReply(1.5, "fan")}
    assert child.ask(TrainingOrder("pump", "a")) == TrainingReply(1.5, "pump-a")
    assert len(nursery.born) == 2


def test_a_child_that_died_between_two_questions_is_replaced(
    child: Child, nursery: Nursery
) -> None:
    """A child killed between two orders fails the next order only."""
    child.ask(TrainingOrder("pump", "a"))
    nursery.born[0].kill()
    nursery.born[0].wait()
    assert child.ask(TrainingOrder("pump", "b")).model_id is None
    assert child.ask(TrainingOrder("pump", "b")).model_id == "pump-b"


def test_a_child_that_hangs_is_killed_at_its_deadline(child: Child, nursery: Nursery) -> None:
    """The order ends at the deadline, and the next goes to a new child."""
    child._deadline = 0.05
    began = monotonic()
    assert child.ask(TrainingOrder("hangs", "a")).model_id is None
    assert 0.05 <= monotonic() - began < 10.0
    assert nursery.born[0].poll() is not None
    child._deadline = 60.0
    assert child.ask(TrainingOrder("pump", "a")).model_id == "pump-a"


def test_a_deadline_that_was_kept_kills_nobody(child: Child, nursery: Nursery) -> None:
    """An answer stops its timer; the next order has its own."""
    for _ in range(3):
        assert child.ask(TrainingOrder("pump", "a")).model_id
        assert all(
            clock.finished.is_set() for clock in enumerate_threads() if isinstance(clock, Timer)
        )
    assert len(nursery.born) == 1


def test_a_child_that_cannot_be_started_is_a_training_that_failed(
    child: Child, nursery: Nursery
) -> None:
    """A child that cannot be started fails its order, and is started with the next."""
    nursery.trouble = OSError("cannot allocate memory")
    assert child.ask(TrainingOrder("pump", "a")).model_id is None
    nursery.trouble = None
    assert child.ask(TrainingOrder("pump", "a")).model_id == "pump-a"


def test_a_child_that_has_done_all_ends_by_itself(child: Child, nursery: Nursery) -> None:
    """A child that has finished ends by itself, and no other child is started."""
    child.ask(TrainingOrder("pump", "a"))
    child.finish()
    assert nursery.born[0].returncode == 0
    assert child.ask(TrainingOrder("pump", "a")).model_id is None
    assert len(nursery.born) == 1


def test_closing_ends_a_training_under_way(child: Child, nursery: Nursery) -> None:
    """A pending order fails at once on close; no process is left, and none is started any more."""
    answers: list[TrainingReply] = []
    asking = Thread(target=lambda: answers.append(child.ask(TrainingOrder("hangs", "a"))))
    asking.start()
    while not nursery.born or child._process is None:
        time.sleep(0.001)
    child.close()
    asking.join(10)
    assert [answer.model_id for answer in answers] == [None]
    assert nursery.born[0].poll() is not None
    assert child.ask(TrainingOrder("pump", "a")).model_id is None
    assert len(nursery.born) == 1


def test_a_training_is_interrupted_by_its_name(nursery: Nursery) -> None:
    """A training of another name is left running; the next order goes to a new child.

    The progress of the interrupted training was received.
    """
    trainer = Trainer(
        MemoryModels(), list[Swap]().extend, nursery.start, TrainingSettings(), SettableClock()
    )
    heard: list[int] = []
    answers: list[TrainingReply] = []
    asking = Thread(
        target=lambda: answers.append(
            trainer.train(TrainingOrder("slow", "a"), "job 1", heard.append)
        )
    )
    asking.start()
    while not heard:
        time.sleep(0.001)
    trainer.interrupt("job 2")
    assert nursery.born[0].poll() is None
    trainer.interrupt("job 1")
    asking.join(10)
    assert (heard, [answer.model_id for answer in answers]) == ([20], [None])
    assert trainer.train(TrainingOrder("pump", "a"), "job 3", heard.append).model_id == "pump-a"
    trainer.interrupt("job 3")
    assert nursery.born[1].poll() is None


def test_what_is_asked_for_by_hand_goes_first(nursery: Nursery) -> None:
    """No automatic training begins while a requested training waits."""
    trainer = Trainer(
        MemoryModels(), list[Swap]().extend, nursery.start, TrainingSettings(), SettableClock()
    )
    trainer.request([SeriesKey("pump", "b")])
    trainer._urgent = 1
    trainer.step(0.5)
    assert nursery.born == []
    trainer._urgent = 0
    trainer.step(0.5)
    assert len(nursery.born) == 1


# ---------------------------------------------------------------------------- the index
class Pupil:
    """A stand-in for the child: it trains model 0, 1 or 2 for its series, or fails."""

    def __init__(self, shelf: MemoryModels) -> None:
        self.orders: list[SeriesKey] = []
        self.metrics: list[tuple[str, ...]] = []
        self.refits: list[bool] = []
        self.fails = self.away = self.closed = False
        self._shelf = shelf

    def ask(self, order: TrainingOrder) -> TrainingReply:
        """Train at once."""
        key = order.key
        self.orders.append(key)
        self.metrics.append(order.metrics)
        self.refits.append(order.refit)
        if key.is_device and not self.fails:
            self._shelf.put(model_row(3, "active", key), b"")
            return TrainingReply(1.0, model_row(3).id)
        if self.fails or key not in SERIES:
            return TrainingReply(0.0, None, "too few readings", self.away)
        number = SERIES.index(key)
        self._shelf.put(model_row(number, "active"), b"")
        return TrainingReply(1.0, model_row(number).id)

    def close(self) -> None:
        """End no process, because there is none."""


class Unreadable(MemoryModels):
    """An index that cannot be read while `broken`."""

    broken = False

    @property
    def revision(self) -> object:
        """The revision, if it can be read."""
        if self.broken:
            raise ModelFileError("database is locked")
        return super().revision


class School:
    """A trainer with an index, and all swaps it requested."""

    def __init__(self, *, devices: bool = False, **settings: float) -> None:
        self.shelf = Unreadable()
        self.clock = SettableClock()
        self.swaps: list[Swap] = []
        self.told: list[tuple[str, str]] = []
        self.failed: list[tuple[SeriesKey, str, str]] = []
        self.trainer = Trainer(
            models=self.shelf,
            swap=self.swaps.extend,
            start_child=Nursery().start,
            training=msgspec.convert(settings | {"devices": devices}, TrainingSettings),
            clock=self.clock,
            on_trained=lambda row, kind, _: self.told.append((row.id, kind)),
            on_failed=lambda key, model_id, reason: self.failed.append((key, model_id, reason)),
        )
        self.pupil = Pupil(self.shelf)
        self.trainer._child = self.pupil  # type: ignore[assignment]

    def turn(self) -> None:
        """Run a step when the index is read again."""
        self.clock.sleep(training.INDEX_POLL_SECONDS)
        self.trainer.step(0.0)

    def serving(self) -> dict[SeriesKey, str]:
        """Return the serving models after all swaps."""
        serving: dict[SeriesKey, str] = {}
        for one in self.swaps:
            key = one.key
            assert serving.get(key) != one.model_id
            serving.pop(key, None)
            if one.model_id is not None:
                serving[key] = one.model_id
        return serving


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["active", "archived", "step", "due"]), st.integers(0, 5)),
        max_size=40,
    )
)
def test_swaps_follow_the_index(happenings: list[tuple[str, int]]) -> None:
    """The serving models are the active models of the index, with any writer.

    No swap is without effect.
    """
    school = School()
    for what, number in happenings:
        if what == "step":
            school.turn()
        elif what == "due":
            school.trainer.request([SERIES[number % 3]])
        else:
            school.shelf.put(model_row(number, what), b"")
    school.turn()
    assert school.serving() == school.shelf.active()


def test_what_serves_already_is_not_swapped_again() -> None:
    """The models of the checkpoint are known at the start.

    Only differences from the index go into the log.
    """
    school = School()
    for number in (0, 1, 5):
        school.shelf.put(model_row(number, "active"), b"")
    known = [swap(0), swap(4), replace_key(swap(1), SeriesKey("old", "a"))]
    school.trainer.follow_index(
        {SeriesKey(one.device_id, one.metric_name): one.model_id or "" for one in known}
    )
    assert school.swaps == [swap(1), swap(5), Swap("old", "a", None)]


def replace_key(one: Swap, key: SeriesKey) -> Swap:
    """Return the swap for another series."""
    return Swap(*key, one.model_id)


def test_a_version_that_is_to_score_along_is_swapped_in() -> None:
    """A shadow is swapped in with the serving version, which does not change, and out again."""
    school = School()
    for row in (model_row(0, "active"), model_row(3, "shadow")):
        school.shelf.put(row, b"")
    school.turn()
    school.shelf.put(model_row(3, "archived"), b"")
    school.turn()
    assert school.swaps == [Swap(*SERIES[0], swap(0).model_id, None, swap(3).model_id), swap(0)]


def test_a_threshold_that_is_set_by_hand_is_swapped_in() -> None:
    """A threshold is swapped in with the serving model, once."""
    school = School()
    school.shelf.put(model_row(0, "active"), b"")
    school.trainer.follow_index({})
    for threshold in (0.5, 0.5, 0.75):
        school.shelf.put(
            msgspec.structs.replace(
                model_row(0, "active"), threshold=threshold, set_threshold=threshold
            ),
            b"",
        )
        school.trainer._look()
    assert school.swaps == [
        swap(0),
        Swap(*SERIES[0], swap(0).model_id, 0.5),
        Swap(*SERIES[0], swap(0).model_id, 0.75),
    ]


def test_a_model_that_is_taken_away_is_swapped_out() -> None:
    """A series whose model is deleted continues without."""
    school = School()
    school.shelf.put(model_row(0, "active"), b"")
    school.turn()
    school.shelf.put(model_row(0, "deleted"), b"")
    school.turn()
    assert school.swaps == [swap(0), removal(0)]


def test_an_index_that_cannot_be_read_is_looked_at_again() -> None:
    """An index that cannot be read ends neither the trainer nor the stream."""
    school = School()
    school.shelf.put(model_row(0, "active"), b"")
    school.shelf.broken = True
    school.trainer.request([SERIES[1]])
    school.turn()
    assert school.swaps == []
    school.shelf.broken = False
    school.turn()
    assert set(school.swaps) == {swap(0), swap(1)}


def test_the_index_is_looked_at_now_and_then() -> None:
    """The index is not read at every step, because a look costs a query."""
    school = School()
    school.turn()
    school.shelf.put(model_row(0, "active"), b"")
    school.trainer.step(0.0)
    assert school.swaps == []
    school.turn()
    assert school.swaps == [swap(0)]


# ---------------------------------------------------------------------------- the queue
def test_a_series_that_asks_is_trained_and_its_model_swapped_in() -> None:
    """A series is trained once, however often it asks meanwhile.

    A step trains a single series, in the order they asked.
    """
    school = School()
    school.trainer.request([SERIES[1], SERIES[0]])
    school.trainer.request([SERIES[0]])
    assert school.trainer.step(5.0) == 0.0
    assert (school.pupil.orders, school.swaps) == ([SERIES[1]], [swap(1)])
    assert school.trainer.step(5.0) == 0.0
    assert (school.pupil.orders, school.swaps) == ([SERIES[1], SERIES[0]], [swap(1), swap(0)])


def test_with_nothing_to_train_it_says_how_long_to_wait() -> None:
    """An idle step returns a wait no longer than until the next look at the index."""
    assert School().trainer.step(0.2) == 0.2
    assert School().trainer.step(5.0) == 1.0


def test_where_series_do_not_train_themselves_nobody_waits() -> None:
    """`training.automatic: false` leaves training to commands."""
    school = School(automatic=False)
    school.trainer.request(list(SERIES))
    school.turn()
    assert school.pupil.orders == []


def test_the_queue_is_bounded() -> None:
    """A series that finds no room asks again by itself later."""
    school = School(waiting=2)
    school.trainer.request(list(SERIES))
    for _ in range(4):
        school.turn()
    assert school.pupil.orders == list(SERIES[:2])


def test_new_series_are_admitted_at_a_measured_pace_and_hold_up_no_refit() -> None:
    """New series beyond the burst wait.

    Series that have a model are trained at once though they asked later.
    """
    school = School(burst=1, a_minute=1e-6)
    school.trainer.request(list(SERIES))
    for _ in range(3):
        school.turn()
    assert school.pupil.orders == [SERIES[0]]
    school.trainer.request([SERIES[0]])
    for _ in range(3):
        school.turn()
    assert school.pupil.orders == [SERIES[0], SERIES[0]]
    assert list(school.trainer._waiting) == list(SERIES[1:])


def test_a_training_that_failed_is_tried_again_in_time() -> None:
    """A failed training is tried again after others, in time."""
    school = School(retry_after=60.0)
    school.pupil.fails = True
    school.trainer.request([SERIES[0]])
    school.turn()
    school.pupil.fails = False
    school.trainer.request([SERIES[0], SERIES[1]])
    for _ in range(3):
        school.turn()
    assert school.pupil.orders == [SERIES[0], SERIES[1]]
    school.clock.sleep(50.0)
    school.turn()
    assert len(school.pupil.orders) == 2
    school.clock.sleep(10.0)
    school.turn()
    assert school.swaps == [swap(1), swap(0)]


def test_what_is_trained_is_told() -> None:
    """The first model of a series is published, and each model that follows it."""
    school = School()
    for _ in range(2):
        school.trainer.request([SERIES[0]])
        school.turn()
    school.pupil.fails = True
    school.trainer.request([SERIES[1]])
    school.turn()
    assert school.told == [(model_row(0).id, "train"), (model_row(0).id, "retrain")]


def test_a_refit_that_makes_no_model_is_noted() -> None:
    """A failed refit is noted, and a failed first training is not: no model serves yet.

    Nor is a failure noted that an unreachable database or the end of the daemon caused.
    """
    school = School(retry_after=0.0)
    school.pupil.fails = True
    school.trainer.request([SERIES[0]])
    school.turn()
    school.pupil.fails = False
    school.turn()
    school.pupil.fails = True
    for school.pupil.away, school.pupil.closed in ((True, False), (False, True), (False, False)):
        school.trainer.request([SERIES[0]])
        school.turn()
    assert school.failed == [(SERIES[0], model_row(0).id, "too few readings")]


def test_what_is_disabled_trains_no_more_by_itself() -> None:
    """A disabled series is not trained, even if it waited already.

    Once a person activates a model, the series trains again.
    """
    school = School()
    school.trainer.request([SERIES[0]])
    school.shelf.put(model_row(0, "disabled"), b"")
    for _ in range(3):
        school.trainer.request([SERIES[0]])
        school.turn()
    assert (school.pupil.orders, school.swaps) == ([], [])
    school.shelf.put(model_row(0, "active"), b"")
    school.turn()
    school.trainer.request([SERIES[0]])
    school.turn()
    assert (school.pupil.orders, school.swaps) == ([SERIES[0]], [swap(0)])


# -------------------------------------------------------------------------- the devices
def trained(school: School, keys: list[SeriesKey]) -> list[SeriesKey]:
    """Return the keys that are trained when `keys` ask."""
    before = len(school.pupil.orders)
    school.trainer.request(keys)
    for _ in range(len(keys) + 2):
        school.turn()
    return school.pupil.orders[before:]


def test_a_device_of_two_metrics_is_trained_once_both_are() -> None:
    """A device is trained with the metrics that have a model, from two metrics on.

    A device that has its model is not trained anew, but refitted when it asks.
    """
    school, pump = School(devices=True), SeriesKey.of_device("pump")
    assert trained(school, [SERIES[2], SERIES[0]]) == [SERIES[2], SERIES[0]]
    assert trained(school, [SERIES[1]]) == [SERIES[1], pump]
    assert school.pupil.metrics[-1] == ("a", "b")
    assert school.serving()[pump] == model_row(3).id
    assert not school.pupil.refits[-1]
    assert trained(school, [SERIES[0]]) == [SERIES[0]]
    assert trained(school, [pump]) == [pump]
    assert school.pupil.refits[-1]


def test_a_device_that_fails_is_tried_again_in_time() -> None:
    """A device that failed is tried again when a metric was trained again, and not too soon."""
    school, pump = School(devices=True), SeriesKey.of_device("pump")
    trained(school, [SERIES[1]])
    school.trainer.request([SERIES[0]])
    school.turn()
    school.pupil.fails = True
    school.turn()
    assert school.pupil.orders[-1] == pump
    assert not school.trainer._waiting
    school.pupil.fails = False
    assert trained(school, [SERIES[0]]) == [SERIES[0]]
    school.clock.sleep(training.DEVICE_RETRY_SECONDS + 1)
    assert trained(school, [SERIES[0]]) == [SERIES[0], pump]


def test_devices_need_not_be_learnt() -> None:
    """`training.devices: false` trains the metrics only."""
    assert trained(School(), list(SERIES)) == list(SERIES)


def test_a_child_by_the_protocol_makes_models_that_serve(nursery: Nursery) -> None:
    """A real process is ordered, answers, and is closed with the trainer."""
    school = School()
    school.trainer._child = Child(nursery.start, 60.0)
    school.trainer.request([SeriesKey("fails", "a"), SeriesKey("pump", "a")])
    school.turn()
    assert list(school.trainer._waiting) == [("pump", "a"), ("fails", "a")]
    school.turn()
    assert list(school.trainer._waiting) == [("fails", "a")]
    school.trainer.close()
    assert nursery.born[0].poll() is not None


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (DatabaseAway, True),
        (DatabaseRefused, True),
        (ModelFileError, True),
        (TrainingError, False),
        (NotEnoughData, False),
    ],
)
def test_what_is_no_fault_of_the_series_is_said_to_be_none(
    error: type[InsaError], away: bool
) -> None:
    """A database that is unreachable for long disables no model."""

    def train() -> ModelRow:
        raise error("why")

    answer = _answered(train)
    assert (answer.model_id, answer.reason, answer.away) == (None, "why", away)
