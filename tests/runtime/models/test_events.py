"""Events about models are published by way of the outbox, once it accepts them."""

from collections.abc import Sequence

import msgspec
import pytest

from insa_anomaly.core.notification.notice import Notice
from insa_anomaly.core.operations.model_health import Decision, notice
from insa_anomaly.errors import StateUnwritable
from insa_anomaly.ports.state import Outgoing
from insa_anomaly.runtime.models.events import ModelEvents
from insa_anomaly.testing.state import MemoryState
from tests.runtime.streams import model_row


class Disk(MemoryState):
    """An outbox on a disk that may be full."""

    full = False

    def post(self, events: Sequence[tuple[str, bytes]]) -> list[Outgoing]:
        """Store the events, if there is room."""
        if self.full:
            raise StateUnwritable
        return super().post(events)


def said(state: MemoryState) -> list[tuple[str, dict[str, object]]]:
    """Return the events that wait in the outbox."""
    return [(one.topic, msgspec.json.decode(one.payload)) for one in state.outgoing(0, 100)]


def test_a_series_that_trained_itself_is_told() -> None:
    """An automatic training is published like a requested training, without a job.

    A rejected version is published with the reason.
    """
    state, offered = MemoryState(), list[Outgoing]()
    events = ModelEvents(state, offered.extend)
    events.trained_by_itself(model_row(0, "active"), "train", 1.5)
    events.trained_by_itself(msgspec.structs.replace(model_row(1), reason="worse"), "retrain", 2.5)
    [(first, trained), (second, retrained)] = said(state)
    assert (first, second) == ("insa/iiot/ml/model/trained", "insa/iiot/ml/model/retrained")
    assert (trained["job_id"], trained["requested_by"], trained["training_time"]) == (
        None,
        "automatic",
        1.5,
    )
    assert (trained["model_id"], trained["model_version"]) == (model_row(0).id, 1)
    assert (retrained["promoted"], retrained["reason"], retrained["new_model_id"]) == (
        False,
        "worse",
        model_row(1).id,
    )
    assert offered == state.outgoing(0, 100)


def test_a_full_disk_is_waited_for() -> None:
    """A training that met a full disk is published with the next.

    A notice stays with its caller until the outbox accepts it.
    """
    state = Disk()
    events = ModelEvents(state, lambda _: None)
    state.full = True
    events.trained_by_itself(model_row(0, "active"), "train", 1.5)
    decision = Decision(
        kind="disable",
        cause="failing",
        reason="why",
        instance="i",
        device_id="a",
        metric_name="b",
        model_id="m",
        model_version=1,
    )
    one = notice("e", decision, 0)
    assert one
    with pytest.raises(StateUnwritable):
        events.notice(one)
    state.full = False
    events.trained_by_itself(model_row(1, "active"), "train", 1.5)
    events.notice(one)
    assert [topic.rsplit("/", 1)[1] for topic, _ in said(state)] == [
        "trained",
        "trained",
        "disabled",
    ]
    assert msgspec.json.decode(state.outgoing(2, 1)[0].payload, type=Notice) == one
