"""Alerts of a whole daemon: each is delivered soon and once, and no target slows the stream."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import pytest

from insa_anomaly.core.notification.event import Event
from tests.acceptance.daemon import Daemon
from tests.acceptance.plant import DEVICES, METRICS, machines, stream
from tests.acceptance.site import Heard, Site
from tests.adapters.mail_server import MailServer
from tests.adapters.web_server import Reply, Request, WebServer
from tests.conftest import wait_for

ROWS = 600
READINGS = len(DEVICES) * ROWS * len(METRICS)
STOP_SECONDS = 15.0  # also while targets hang
ALERT_SECONDS = 2.0  # from an event to its alert


@dataclass
class Punctual(Heard):
    """Events, and the time at which each first arrived."""

    at: dict[str, float] = field(default_factory=dict)

    def __call__(self, topic: str, payload: bytes, at: float) -> None:
        """Store the event and the time at which its episode opened."""
        super().__call__(topic, payload, at)
        event = msgspec.json.decode(payload, type=Event)
        if event.kind == "opened":
            self.at.setdefault(event.episode_id, time.monotonic())


@dataclass
class Hearers:
    """A mail server and a webhook, and the times at which the webhook received each episode."""

    mail: MailServer = field(default_factory=MailServer)
    hook: WebServer = field(default_factory=WebServer)
    at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hook.answer = self.answer

    def answer(self, request: Request) -> Reply:
        """Answer a request of the webhook; note when its cause first came."""
        self.at.setdefault(msgspec.json.decode(request.body)["cause"], time.monotonic())
        return Reply()

    @property
    def told(self) -> list[str]:
        """Causes that the webhook received, in order."""
        return [msgspec.json.decode(one.body)["cause"] for one in self.hook.asked]


@pytest.fixture
def hearers(trained: Site) -> Iterator[Hearers]:
    """Run both targets and configure the site to use them."""
    found = Hearers()
    with found.hook.running(), found.mail.running():
        # The plant's readings are old and must count as new.
        trained.put("readings", {"historical_after": 1e10})
        trained.put(
            "mail",
            {
                "host": "127.0.0.1",
                "port": found.mail.port,
                "security": "none",
                "recipients": ["shift@plant.test"],
            },
        )
        webhooks = [{"name": "scada", "url": f"http://127.0.0.1:{found.hook.port}/hook"}]
        trained.put(
            "alerts",
            {
                "webhooks": webhooks,
                "allowed_networks": ["127.0.0.0/8"],
                "first_retry": 0.1,
                "last_retry": 0.5,
            },
        )
        yield found


def feed(site: Site) -> None:
    """Publish all messages of the plant."""
    with site.feeder() as feeder:
        for message in stream(machines(ROWS)):
            feeder.publish(*message)


def opened(site: Site) -> set[str]:
    """Return the ids of the opened episodes."""
    return {str(episode) for (episode,) in site.query("SELECT id FROM anomaly_episodes")}


def test_an_alert_leaves_within_two_seconds_of_its_event(trained: Site, hearers: Hearers) -> None:
    """A mail and a webhook request leave within two seconds of each opened episode.

    Each mail states what is known of the episode.
    """
    trained.put("alerts", {"routes": [{"devices": "press-*", "kinds": ["opened"]}]})
    daemon = trained.daemon()
    heard = Punctual()
    with trained.listen(heard=heard):
        daemon.start()
        feed(trained)
        daemon.wait_idle()
        wait_for(lambda: len(hearers.mail.taken) >= len(opened(trained)) > 0, 10)
        wait_for(lambda: len(heard.at) == len(opened(trained)), 10)
    assert sorted(hearers.told) == sorted(opened(trained))
    late = {cause: at - heard.at[cause] for cause, at in hearers.at.items()}
    print(f"from event to alert: {max(late.values()):.3f} s at most, of {len(late)}")  # noqa: T201 - a figure
    assert max(late.values()) < ALERT_SECONDS, late
    subjects = [str(mail["Subject"]) for mail in hearers.mail.taken]
    assert all("press-" in subject and "expected" in subject for subject in subjects)
    wait_for(
        lambda: daemon.metric("insa_alerts_delivered_total", {"target": "mail"}) == len(subjects)
    )
    wait_for(lambda: daemon.metric("insa_alert_backlog", {"target": "mail"}) == 0)
    assert daemon.terminate() == 0


@pytest.mark.long
def test_whoever_is_away_or_hangs_holds_nothing_up_and_hears_later(
    trained: Site, hearers: Hearers
) -> None:
    """An unreachable target delays no reading, and it receives every alert later.

    The mail server refuses, the webhook hangs, GitHub is unreachable and the daemon is killed
    meanwhile.
    """
    hearers.mail.answer = "451 not now"
    hearers.hook.answer = lambda _: Reply(pause=2.0)
    token = trained.folder / "token"
    token.write_text("t")
    trained.put(
        "github",
        {"repository": "plant/line", "url": "http://127.0.0.1:9", "token_file": str(token)},
    )
    trained.put("alerts", {"deadline": 1.0})
    daemon = trained.daemon()
    with trained.listen() as heard:
        daemon.start()
        feed(trained)
        daemon.wait_idle()
        trained.wait_told(heard)
    assert trained.stored() == READINGS
    wait_for(lambda: any("alerts are not delivered to: mail" in one for one in daemon.troubles), 20)
    assert "Traceback" not in daemon.log
    print(f"the way out was closed within {stopped(daemon):.1f} s")  # noqa: T201 - a figure
    daemon.start()
    daemon.kill()
    assert hearers.mail.taken == []
    hearers.mail.answer = "250 OK"
    hearers.hook.asked.clear()
    hearers.hook.answer = hearers.answer
    daemon.start()
    wait_for(lambda: len(hearers.mail.taken) >= len(opened(trained)), 20)
    wait_for(lambda: set(hearers.told) == opened(trained), 20)
    wait_for(lambda: trained.alerts("SELECT count(*) FROM waiting") == [(0,)], 10)
    assert daemon.terminate() == 0


def stopped(daemon: Daemon) -> float:
    """Stop the daemon in good order; return the seconds that it took."""
    began = time.monotonic()
    assert daemon.terminate() == 0
    assert time.monotonic() - began < STOP_SECONDS
    return time.monotonic() - began


@pytest.mark.long
def test_a_restart_and_an_outage_of_the_broker_page_nobody(trained: Site, hearers: Hearers) -> None:
    """A restart into silence raises a single alert for all devices, their return raises none."""
    trained.put(
        "silence", {"stream_seconds": 2.0, "device_seconds": 4.0, "pauses": 2, "spans": 1.0}
    )
    daemon = trained.daemon()
    daemon.start()
    topic, value = "insa/iiot/telemetry/press-1", b'{"metrics": {"temperature": 60.0}}'
    with trained.feeder() as feeder:
        for _ in range(5):
            feeder.publish(topic, value)
            feeder.publish(topic.replace("1", "2"), value)
            time.sleep(1.1)
    assert daemon.terminate() == 0
    daemon.start()
    wait_for(lambda: hearers.told, 20)
    time.sleep(3.0)
    assert hearers.told == ["silence:"]
    with trained.feeder() as feeder:
        feeder.publish(topic, value)
        feeder.publish(topic.replace("1", "2"), value)
    wait_for(lambda: daemon.metric("insa_silences_total", {"kind": "stream_back"}) == 1, 10)
    assert daemon.terminate() == 0
