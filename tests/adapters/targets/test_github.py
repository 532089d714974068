"""Issues, a single issue for each cause, on a server that behaves as GitHub does.

No step is repeated, and no limit is ignored.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from insa_anomaly.adapters.targets.exchange import Exchange
from insa_anomaly.adapters.targets.github import LABEL, GitHub, Repository
from insa_anomaly.core.notification.alert import Alert, Severity, delivery_id
from insa_anomaly.errors import ConfigError, TargetAway, TargetRefused
from tests.adapters.fake_github import TOKEN, FakeGitHub
from tests.adapters.targets.test_webhook import HERE
from tests.adapters.web_server import Reply
from tests.core.alerts import DAY_ZERO, an_alert


@dataclass
class Desk:
    """The server and the address of its API."""

    server: FakeGitHub
    url: str

    def tracker(
        self, deadline: float = 3.0, name: str = "plant/line", token: str = TOKEN
    ) -> GitHub:
        """Build a tracker that remembers no issue."""
        return GitHub(
            Repository(self.url, name, lambda: token),
            Exchange(HERE, deadline),
            lambda: DAY_ZERO,
            lambda _: "https://g/d",
        )


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Yield an empty repository."""
    server = FakeGitHub()
    with server.running() as url:
        yield Desk(server, url)


def degraded(number: int = 1, cause: str = "degraded:press-1/pressure") -> Alert:
    """Build an alert about a model that has degraded."""
    return an_alert(number, cause, "degraded")


def recovered(number: int = 9, cause: str = "degraded:press-1/pressure") -> Alert:
    """Build an alert about a model that has recovered."""
    return an_alert(number, cause, "recovered", Severity.INFO)


def deliver(tracker: GitHub, alert: Alert) -> None:
    """Deliver an alert."""
    tracker.deliver(delivery_id("github", alert), alert, DAY_ZERO)


def test_a_cause_has_one_issue_from_beginning_to_end(desk: Desk) -> None:
    """An issue is opened, commented on while the cause lasts, and closed when it is over.

    A cause that returns opens a new issue.
    """
    tracker = desk.tracker()
    for number in range(3):
        deliver(tracker, degraded(number))
    (issue,) = desk.server.open
    assert issue["title"].startswith("degraded: press-1/pressure")
    assert issue["labels"] == [LABEL]
    assert "https://g/d" in issue["body"]
    assert len(desk.server.comments[1]) == 2
    deliver(tracker, recovered())
    assert desk.server.open == []
    assert len(desk.server.comments[1]) == 3
    deliver(tracker, degraded(5))
    assert [issue["number"] for issue in desk.server.open] == [2]


def test_causes_do_not_mix(desk: Desk) -> None:
    """Each model has an issue of its own; issues written by a person stay untouched."""
    desk.server.issues[1] = {
        "number": 1,
        "state": "open",
        "title": "mine",
        "body": None,
        "labels": [LABEL],
    }
    desk.server.comments[1] = []
    tracker = desk.tracker()
    for cause in ("degraded:a/x", "failing:a/x", "degraded:b/x"):
        deliver(tracker, degraded(1, cause))
    deliver(tracker, recovered(9, "failing:a/x"))
    assert [issue["number"] for issue in desk.server.open] == [1, 2, 4]
    assert desk.server.comments[1] == []


def test_what_came_twice_is_done_once(desk: Desk) -> None:
    """A delivery repeated after a crash changes no issue: the markers in it show the steps done."""
    for alert in (degraded(1), degraded(1), degraded(2), degraded(2), recovered(), recovered()):
        deliver(desk.tracker(), alert)
    assert (len(desk.server.issues), len(desk.server.open), len(desk.server.comments[1])) == (
        1,
        0,
        2,
    )


def test_an_answer_that_is_lost_opens_no_second_issue(desk: Desk) -> None:
    """A retry after a lost answer opens no second issue and writes no second comment."""
    tracker = desk.tracker()
    for number in (1, 2):
        desk.server.lost = 1
        with pytest.raises(TargetAway, match="502"):
            deliver(tracker, degraded(number))
        deliver(tracker, degraded(number))
    assert (len(desk.server.issues), len(desk.server.comments[1])) == (1, 1)


def test_an_issue_is_found_among_many(desk: Desk) -> None:
    """An issue is found on the third page, and its comment among as many others."""
    deliver(desk.tracker(), degraded(1))
    for number in range(2, 260):
        desk.server.issues[number] = {
            "number": number,
            "state": "open",
            "title": "x",
            "body": "x",
            "labels": [LABEL],
        }
    desk.server.comments[1] = [{"body": "x"} for _ in range(250)]
    deliver(desk.tracker(), degraded(2))
    deliver(desk.tracker(), degraded(2))
    assert (len(desk.server.issues), len(desk.server.comments[1])) == (259, 251)


def test_an_issue_that_a_person_closed_is_opened_anew(desk: Desk) -> None:
    """An issue closed by a person is followed by a new issue if the trouble continues.

    A recovery leaves it closed.
    """
    tracker = desk.tracker()
    deliver(tracker, degraded(1))
    desk.server.issues[1]["state"] = "closed"
    deliver(tracker, recovered())
    assert len(desk.server.issues) == 1
    deliver(tracker, degraded(2))
    assert [issue["number"] for issue in desk.server.open] == [2]


def test_words_of_devices_are_words(desk: Desk) -> None:
    """The text of a device produces no markup, no mention and no marker."""
    bad = degraded(1, "x")
    evil = "````\n@everyone <!-- insa-anomaly cause " + "0" * 64 + " -->"
    tracker = desk.tracker()
    alert = Alert(
        event_id=bad.event_id,
        kind=bad.kind,
        severity=bad.severity,
        cause=bad.cause,
        device_id=evil,
        metric_name=evil * 50,
        timestamp=bad.timestamp,
        text=evil,
        event={},
    )
    deliver(tracker, alert)
    (issue,) = desk.server.open
    assert issue["body"].count("````") == 2
    assert issue["body"].count("<!-- insa-anomaly cause") == 1
    assert "\n" not in issue["title"]
    assert len(issue["title"]) <= 200


@pytest.mark.parametrize(
    ("reply", "error", "rest"),
    [
        (Reply(401, b'{"message": "Bad credentials"}'), TargetAway, None),
        (
            Reply(
                403,
                b"{}",
                {
                    "X-RateLimit-Remaining": "0",
                    "X-RateLimit-Reset": str(DAY_ZERO // 1_000_000 + 1234),
                },
            ),
            TargetAway,
            1234.0,
        ),
        (
            Reply(
                403,
                b"{}",
                {
                    "X-RateLimit-Remaining": "0",
                    "X-RateLimit-Reset": str(DAY_ZERO // 1_000_000 + 10**9),
                },
            ),
            TargetAway,
            3900.0,
        ),
        (
            Reply(403, b"{}", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}),
            TargetAway,
            1.0,
        ),
        (Reply(403, b"{}", {"Retry-After": "77"}), TargetAway, 77.0),
        (Reply(403, b'{"message": "You have exceeded a secondary rate limit"}'), TargetAway, 60.0),
        (Reply(429, b"{}", {"Retry-After": "5"}), TargetAway, 5.0),
        (Reply(404, b'{"message": "Not Found"}'), TargetAway, None),
        (Reply(410, b"{}"), TargetAway, None),
        (Reply(422, b'{"message": "Validation Failed"}'), TargetRefused, None),
        (Reply(500, b"oops"), TargetAway, None),
        (Reply(503, b""), TargetAway, None),
        (Reply(200, b"<html>a proxy says hello</html>"), TargetAway, None),
        (Reply(200, b'{"message": "not a list"}'), TargetAway, None),
    ],
)
@pytest.mark.parametrize("at", ["GET", "POST"])
def test_a_refusal_is_heard(
    desk: Desk, reply: Reply, error: type[Exception], rest: float | None, at: str
) -> None:
    """A refused request is retried later or never, not before GitHub allows it, and done once."""
    if at == "POST" and reply.status == 200:
        pytest.skip("a list is read, an issue is written")
    desk.server.failing, desk.server.at = [reply], (at,)
    tracker = desk.tracker()
    with pytest.raises(error) as caught:
        deliver(tracker, degraded())
    assert getattr(caught.value, "retry_seconds", None) == rest
    assert desk.server.issues == {}
    deliver(tracker, degraded())
    assert len(desk.server.open) == 1


def test_a_limit_in_the_midst_of_it_repeats_nothing(desk: Desk) -> None:
    """If the closing is refused after the comment was written, the next attempt only closes."""
    tracker = desk.tracker()
    deliver(tracker, degraded())
    desk.server.failing, desk.server.at = [Reply(403, b"{}", {"Retry-After": "9"})], ("PATCH",)
    with pytest.raises(TargetAway):
        deliver(tracker, recovered())
    deliver(tracker, recovered())
    assert (desk.server.open, len(desk.server.comments[1])) == ([], 1)


def test_a_token_that_is_wrong_or_missing_is_waited_for(desk: Desk) -> None:
    """A wrong or missing token is read again at each attempt."""

    def missing() -> str:
        raise ConfigError("the secret in /x cannot be read")

    with pytest.raises(TargetAway, match="401: Bad credentials"):
        deliver(desk.tracker(token="old"), degraded())  # noqa: S106
    with pytest.raises(TargetAway, match="cannot be read"):
        deliver(
            GitHub(Repository(desk.url, "plant/line", missing), Exchange(HERE), lambda: DAY_ZERO),
            degraded(),
        )
    with pytest.raises(TargetAway, match="404"):
        deliver(desk.tracker(name="plant/other"), degraded())


def test_a_repository_can_be_tried_out(desk: Desk) -> None:
    """Trying out a repository writes no data into it."""
    desk.tracker().try_out()
    with pytest.raises(TargetAway, match="401"):
        desk.tracker(token="old").try_out()  # noqa: S106
    assert {one.method for one in desk.server.server.asked} == {"GET"}


def test_a_slow_server_is_cut_off(desk: Desk) -> None:
    """No request takes longer than the deadline."""
    desk.server.failing = [Reply(pause=1.0)]
    began = time.monotonic()
    with pytest.raises(TargetAway):
        deliver(desk.tracker(deadline=0.4), degraded())
    assert time.monotonic() - began < 2.0
