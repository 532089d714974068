"""Alerts as the daemon assembles them: a model's trouble opens an issue, recovery closes it."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from insa_anomaly.adapters.disk.alerts import AlertFile
from insa_anomaly.adapters.disk.state import StateFile
from insa_anomaly.core.notification.routing import Dispatch
from insa_anomaly.runtime.fleet.registry import Registry
from insa_anomaly.runtime.publish import EventPublisher
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.sections import (
    AlertsSettings,
    GithubSettings,
    MailSettings,
    StorageSettings,
)
from insa_anomaly.testing.broker import MemoryBroker
from insa_anomaly.testing.clock import SettableClock
from insa_anomaly.wiring import alerts
from insa_anomaly.wiring.alerts import AlertThreads
from tests.adapters.fake_github import TOKEN, FakeGitHub
from tests.adapters.mail_server import MailServer as Server
from tests.adapters.web_server import Reply
from tests.conftest import wait_for
from tests.core.alerts import DAY_ZERO, an_alert


@dataclass
class Office:
    """A state, the dispatcher of its alerts, an issue tracker and a mail server."""

    state: StateFile
    hearing: AlertThreads
    github: FakeGitHub
    mail: Server

    def say(self, kind: str, *, day: int = 0, opens: bool = True) -> None:
        """Publish an event about a model, as the health check does."""
        said = {
            "event_id": f"{kind}-{day}", "kind": kind,
            "severity": "warning" if opens else "info", "cause": "degraded:press-1/pressure",
            "open": opens, "at": time.time_ns() // 1000, "device_id": "press-1",
            "metric_name": "pressure", "model_id": "m1", "model_version": 3,
            "reason": f"accuracy 0.81, 0.92 at promotion ({kind} {day})",
            "figures": {"accuracy": 0.81},
        }  # fmt: skip
        self.state.post([(f"insa/iiot/ml/model/{kind}", msgspec.json.encode(said))])
        self.hearing.dispatcher.step(0.0)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """Open an office on real servers."""
    github, server = FakeGitHub(), Server()
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    with ExitStack() as stack:
        url = stack.enter_context(github.running())
        stack.enter_context(server.running())
        state = stack.enter_context(StateFile(tmp_path / "state.db"))
        settings = Settings(
            storage=StorageSettings(tmp_path),
            alerts=AlertsSettings(first_retry=0.05, last_retry=0.1),
            mail=MailSettings(
                host="127.0.0.1",
                port=server.port,
                security="none",
                recipients=("office@plant.test",),
            ),
            github=GithubSettings("plant/line", token, url),
        )
        hearing = alerts.opened(
            settings,
            state,
            registry=Registry(10),
            publisher=EventPublisher(state, MemoryBroker(), SettableClock()),
            listening=lambda: True,
            stack=stack,
        )
        yield Office(state, hearing, github, server)


def test_a_model_in_trouble_is_one_issue_and_one_mail(office: Office) -> None:
    """A model in trouble opens an issue, which gets a comment a day and is closed in the end.

    A single mail is sent in all.
    """
    office.say("degraded")
    wait_for(lambda: office.github.open)
    for day in (1, 2):
        office.say("degraded", day=day)
    wait_for(lambda: len(office.github.comments[1]) == 2)
    assert "accuracy 0.81, 0.92 at promotion (degraded 2)" in office.github.comments[1][1]["body"]
    office.say("recovered", opens=False)
    wait_for(lambda: not office.github.open)
    assert (len(office.github.issues), len(office.github.comments[1])) == (1, 3)
    wait_for(lambda: office.mail.taken)
    assert len(office.mail.taken) == 1


def test_a_dead_letter_that_is_tried_again_is_delivered(office: Office, tmp_path: Path) -> None:
    """A dead letter that another process revives is delivered by the running daemon."""
    with AlertFile(tmp_path / "alerts.db") as other:
        other.keep(Dispatch(sent=[("nobody", an_alert(1))]), [], DAY_ZERO)
        one = other.next("nobody", DAY_ZERO)
        assert one is not None
        other.give_up(one, "refused", DAY_ZERO)
        (letter,) = other.dead()
        other.revive(msgspec.structs.replace(letter, target="mail"), time.time_ns() // 1000)
    wait_for(lambda: office.mail.taken)


def test_a_tracker_that_is_away_for_a_while_has_it_all_in_the_end(office: Office) -> None:
    """A tracker that is unreachable for a while receives all events in their order."""
    office.github.failing = [Reply(503) for _ in range(4)]
    office.say("degraded")
    office.say("degraded", day=1)
    office.say("recovered", opens=False)
    wait_for(lambda: office.github.issues and not office.github.open, 20)
    assert len(office.github.issues) == 1
