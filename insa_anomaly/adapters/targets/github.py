"""Alerts about models as GitHub issues, an issue for each cause.

An issue is opened, commented on, and closed once the cause is over. No step is done twice: each
text carries an invisible marker, which is looked up before a text is written.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import msgspec

from insa_anomaly.adapters.targets.exchange import Exchange, HttpResponse
from insa_anomaly.core.notification.alert import Alert, described
from insa_anomaly.errors import InsaError, TargetAway, TargetRefused

LABEL = "insa-anomaly"
_PAGE = 100
_MOST_PAGES = 50
_LONGEST_TITLE = 200
_REST_SECONDS = 60.0  # where GitHub reports too many requests without naming a time
_MOST_SECONDS = 3900.0  # a limit is reset every hour


@dataclass(frozen=True)
class Repository:
    """The place of the issues: address of the API, `owner/name` and the token.

    `token` is called for each request.
    """

    url: str
    name: str
    token: Callable[[], str | None]


class GitHub:
    """The port `AlertTarget`; `clock` is microseconds since the epoch."""

    def __init__(
        self,
        repository: Repository,
        exchange: Exchange,
        clock: Callable[[], int],
        link: Callable[[Alert], str] = lambda _: "",
    ) -> None:
        self._repository = repository
        self._exchange = exchange
        self._clock = clock
        self._link = link
        # Issues of this run by their marker: GitHub's list may be some seconds behind.
        self._numbers: dict[str, int] = {}

    def deliver(self, delivery_id: str, alert: Alert, decided_at: int) -> None:
        """Open, comment on or close the issue of the alert's cause.

        Raises TargetAway, TargetRefused.
        """
        mark = marker("cause", alert.cause)
        number = self._issue(mark)
        if number is None:
            if not alert.ends:
                self._open(mark, delivery_id, alert)
            return
        self._comment(number, delivery_id, alert, decided_at)
        if alert.ends:
            self._call(
                "PATCH", f"/issues/{number}", {"state": "closed", "state_reason": "completed"}
            )
            self._numbers.pop(mark, None)

    def try_out(self) -> None:
        """Read an issue without writing any. Raises TargetAway, TargetRefused."""
        self._call("GET", "/issues?per_page=1", None, list[dict[str, Any]])

    def interrupt(self) -> None:
        """End a delivery under way."""
        self._exchange.interrupt()

    def _issue(self, mark: str) -> int | None:
        """Return the number of the open issue with this marker; None without such an issue."""
        known = self._numbers.get(mark)
        if known is not None and self._is_open(known):
            return known
        self._numbers.pop(mark, None)
        path = f"/issues?state=open&labels={LABEL}&sort=created&direction=desc"
        found = next(
            (issue for issue in self._pages(path) if mark in (issue.get("body") or "")), None
        )
        if found is not None:
            self._numbers[mark] = int(found["number"])
        return self._numbers.get(mark)

    def _is_open(self, number: int) -> bool:
        answer = self._ask("GET", f"/issues/{number}", None)
        return answer.status == 200 and _decoded(answer).get("state") == "open"

    def _open(self, mark: str, delivery_id: str, alert: Alert) -> None:
        title = "".join(
            one if one.isprintable() else " "
            for one in f"{alert.kind}: {alert.subject}: {alert.text}"
        )[:_LONGEST_TITLE]
        body = f"{self._words(alert)}\n\n{mark}\n{marker('delivery', delivery_id)}\n"
        issue = self._call("POST", "/issues", {"title": title, "body": body, "labels": [LABEL]})
        self._numbers[mark] = int(issue["number"])

    def _comment(self, number: int, delivery_id: str, alert: Alert, decided_at: int) -> None:
        """Write a comment unless the issue, or a comment since the decision, has its marker."""
        mark = marker("delivery", delivery_id)
        since = datetime.fromtimestamp(decided_at / 1e6, UTC) - timedelta(hours=1)
        said = self._call("GET", f"/issues/{number}", None).get("body") or ""
        comments = self._pages(
            f"/issues/{number}/comments?since={quote(since.strftime('%Y-%m-%dT%H:%M:%SZ'))}"
        )
        if mark not in said and not any(
            mark in (comment.get("body") or "") for comment in comments
        ):
            self._call(
                "POST", f"/issues/{number}/comments", {"body": f"{self._words(alert)}\n\n{mark}\n"}
            )

    def _words(self, alert: Alert) -> str:
        # Longer than any fence in the text: the names that devices choose must not become markup.
        fence = "````"
        link = self._link(alert)
        text = described(alert, "").replace("`", "'").replace("<!--", "< !--")
        return f"{fence}text\n{text}{fence}" + (f"\n\n{link}" if link else "")

    # The API
    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        for page in range(1, _MOST_PAGES + 1):
            found = self._call(
                "GET", f"{path}&per_page={_PAGE}&page={page}", None, list[dict[str, Any]]
            )
            yield from found
            if len(found) < _PAGE:
                return

    def _call(
        self,
        method: str,
        path: str,
        said: Mapping[str, object] | None,
        kind: Any = dict[str, Any],  # noqa: ANN401 - JSON
    ) -> Any:  # noqa: ANN401 - JSON
        answer = self._ask(method, path, said)
        if answer.status in {400, 422}:
            raise TargetRefused(f"GitHub answers {answer.status}: {_message(answer)}")
        if not 200 <= answer.status < 300:
            raise TargetAway(
                f"GitHub answers {answer.status}: {_message(answer)}", self._rest(answer)
            )
        return _decoded(answer, kind)

    def _ask(self, method: str, path: str, said: Mapping[str, object] | None) -> HttpResponse:
        headers = {
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "User-Agent": "insa-anomaly",
            "Authorization": f"Bearer {self._token()}",
        }
        body = None if said is None else msgspec.json.encode(said)
        return self._exchange.send(
            method,
            f"{self._repository.url.rstrip('/')}/repos/{self._repository.name}{path}",
            headers,
            body,
        )

    def _token(self) -> str:
        try:
            return self._repository.token() or ""
        except InsaError as error:
            raise TargetAway(str(error)) from error

    def _rest(self, answer: HttpResponse) -> float | None:
        """Return the seconds to wait if GitHub reports too many requests; None otherwise."""
        if answer.status not in {403, 429}:
            return None
        after, left, reset = (
            answer.headers.get(name, "")
            for name in ("retry-after", "x-ratelimit-remaining", "x-ratelimit-reset")
        )
        if after.isdigit():
            return min(float(after), _MOST_SECONDS)
        if left == "0" and reset.isdigit():
            return min(max(float(reset) - self._clock() / 1e6, 1.0), _MOST_SECONDS)
        return _REST_SECONDS


def marker(kind: str, name: str) -> str:
    """Return a marker that is invisible in an issue or a comment but can be searched for."""
    return (
        f"<!-- insa-anomaly {kind} {sha256(name.encode(errors='backslashreplace')).hexdigest()} -->"
    )


def _decoded(answer: HttpResponse, kind: Any = dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.DecodeError as error:
        raise TargetAway(
            f"GitHub answers something that is not JSON as it gives it: {error}"
        ) from error


def _message(answer: HttpResponse) -> str:
    try:
        return str(msgspec.json.decode(answer.body, type=dict[str, Any]).get("message", ""))[:200]
    except msgspec.DecodeError:
        return ""
