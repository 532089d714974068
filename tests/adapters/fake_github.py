"""A fake GitHub: the part of its REST API that we use, on a real HTTP server.

The server holds the issues and comments of a repository, and answers with limits and refusals.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.adapters.web_server import Reply, Request, WebServer

TOKEN = "t0ken"  # noqa: S105 - of a test


@dataclass
class FakeGitHub:
    """A GitHub whose repository holds `issues`, by number.

    The `failing` replies answer the first requests, a reply each, whose method is in `at`.
    """

    issues: dict[int, dict[str, Any]] = field(default_factory=dict)
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    failing: list[Reply] = field(default_factory=list)
    at: tuple[str, ...] = ("GET", "POST", "PATCH")
    # answers to a POST that are lost: the request was carried out, and the client gets a 502
    lost: int = 0
    server: WebServer = field(default_factory=WebServer)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve the API and yield its address."""
        self.server.answer = self.answer
        with self.server.running():
            yield f"http://127.0.0.1:{self.server.port}/api/v3"

    @property
    def open(self) -> list[dict[str, Any]]:
        """Issues that are open."""
        return [issue for issue in self.issues.values() if issue["state"] == "open"]

    def answer(self, request: Request) -> Reply:
        """Answer a single request."""
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return _reply(401, {"message": "Bad credentials"})
        if self.failing and request.method in self.at:
            return self.failing.pop(0)
        parts = urlsplit(request.path)
        path, query = (
            parts.path,
            {name: values[0] for name, values in parse_qs(parts.query).items()},
        )
        said = json.loads(request.body or b"{}")
        prefix = "/api/v3/repos/plant/line/issues"
        if not path.startswith(prefix):
            return _reply(404, {"message": "Not Found"})
        reply = self._issues(request.method, path.removeprefix(prefix), query, said)
        if request.method == "POST" and self.lost:
            self.lost -= 1
            return Reply(502, b"")
        return reply

    def _issues(self, method: str, path: str, query: dict[str, str], said: dict[str, Any]) -> Reply:
        if path == "" and method == "GET":
            state, label = query.get("state", "open"), query.get("labels")
            found = [
                one
                for one in self.issues.values()
                if one["state"] == state and (label is None or label in one["labels"])
            ]
            return _page(found[::-1], query)
        if path == "":
            return self._new(said)
        number = int(re.match(r"/(\d+)", path)[1])  # type: ignore[index]
        if number not in self.issues:
            return _reply(404, {"message": "Not Found"})
        if path.endswith("/comments") and method == "GET":
            return _page(self.comments[number], query)
        if path.endswith("/comments"):
            self.comments[number].append({"body": said["body"]})
            return _reply(201, {"id": len(self.comments[number])})
        if method == "PATCH":
            self.issues[number] |= said
        return _reply(200, self.issues[number])

    def _new(self, said: dict[str, Any]) -> Reply:
        if not said.get("title") or len(said["title"]) > 256 or len(said["body"]) > 65536:
            return _reply(422, {"message": "Validation Failed"})
        number = len(self.issues) + 1
        self.issues[number] = {"number": number, "state": "open", **said}
        self.comments[number] = []
        return _reply(201, self.issues[number])


def _page(found: list[dict[str, Any]], query: dict[str, str]) -> Reply:
    size, page = int(query["per_page"]), int(query.get("page", 1))
    return _reply(200, found[size * (page - 1) : size * page])


def _reply(status: int, said: object) -> Reply:
    return Reply(status, json.dumps(said).encode())
