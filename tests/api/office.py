"""The application as its callers see it, over a real database: who asks is one word."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString

import httpx2
import psycopg
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.keys import PostgresKeys
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.api import app
from insa_anomaly.api.app import Admin
from insa_anomaly.services.keys import KeyRing, KeyService, Permission, Wish

HOUR = 3_600_000_000
WISHES = {
    "read": [Permission.READ],
    "write": [Permission.WRITE],
    "telemetry": [Permission.TELEMETRY],
    "admin": [Permission.ADMIN],
}


def now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


@dataclass
class Office:
    """The application, a client, and keys by name: read, write, telemetry, admin, expired, revoked, bad."""

    dsn: str
    pool: Pool
    service: KeyService
    ring: KeyRing
    application: FastAPI
    client: TestClient
    tokens: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, permissions in WISHES.items():
            self.tokens[name] = self.service.create(Wish(name, permissions), "tests", now())[1]
        self.tokens["expired"] = self.service.create(Wish("expired", [Permission.ADMIN], HOUR), "tests", now() - 2 * HOUR)[1]
        revoked, self.tokens["revoked"] = self.service.create(Wish("revoked", [Permission.ADMIN]), "tests", now())
        self.service.revoke(revoked.id, "tests", now())
        self.tokens["bad"] = self.tokens["admin"][:-1] + ("0" if self.tokens["admin"][-1] != "0" else "1")
        self.ring.refresh()

    def ask(self, who: str, method: str, path: str, **more: Any) -> httpx2.Response:  # noqa: ANN401 - what the client takes
        """One request with the key of this name; "nobody" has none."""
        headers = {**more.pop("headers", {}), **({} if who == "nobody" else {"Authorization": f"Bearer {self.tokens[who]}"})}
        answer: httpx2.Response = self.client.request(method, path, headers=headers, **more)
        return answer

    def get(self, path: str, who: str = "read", **params: Any) -> Any:  # noqa: ANN401 - any JSON
        """What a route answers that must succeed."""
        answer = self.ask(who, "GET", path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def query(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the database."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            found = connection.execute(statement, values)
            return found.fetchall() if found.description else []

    def routes(self) -> Iterator[tuple[str, str]]:
        """Method and path of every route there is."""
        for route in self.application.routes:
            assert isinstance(route, APIRoute)
            for method in sorted((route.methods or set()) - {"HEAD", "OPTIONS"}):
                yield method, route.path


def problem(answer: httpx2.Response, status: int) -> Mapping[str, Any]:
    """The document of an answer that must be this problem."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert said["status"] == status
    assert {"type", "title", "detail"} <= said.keys()
    return said


@contextmanager
def opened(dsn: str, host: str = "127.0.0.1") -> Iterator[Office]:
    """The application over this database, as it listens on `host`."""
    with Pool(dsn) as pool:
        keys = PostgresKeys(pool)
        ring = KeyRing(keys, now)
        application = app.create("1.2.3", list, lambda: {"series": 0}, Admin(host, ring))
        with TestClient(application, raise_server_exceptions=False) as client:
            yield Office(dsn, pool, KeyService(keys, PostgresAudit(pool)), ring, application, client)
