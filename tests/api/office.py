"""The application as its callers see it, over a real database; a word names the caller's key."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import httpx2
import numpy as np
import psycopg
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from insa_anomaly.adapters.disk.models import ModelFiles
from insa_anomaly.adapters.postgres.audit import PostgresAudit
from insa_anomaly.adapters.postgres.keys import PostgresKeys
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.postgres.recorder import PostgresRecorder
from insa_anomaly.api import app
from insa_anomaly.core.notification.event import Anomaly, Episode, Reason, anomaly_id, episode_id
from insa_anomaly.core.reading.series_key import SeriesKey
from insa_anomaly.core.series.detector import Model
from insa_anomaly.core.series.training import SeriesLearner, Trained
from insa_anomaly.instrumentation.metrics import metrics_text
from insa_anomaly.ports.models import ModelRow
from insa_anomaly.ports.recorder import Page, Telemetry
from insa_anomaly.processes.admin import assembled
from insa_anomaly.runtime.fleet.fleet import Fleet
from insa_anomaly.runtime.fleet.registry import Registry
from insa_anomaly.runtime.fleet.view import SharedStreamView, compared
from insa_anomaly.services.keys import KeyRing, KeyService, Permission, Wish
from insa_anomaly.services.stream import Condition, StreamClient, StreamServer
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.sections import HttpSettings, RedisSettings, TrainingSettings
from insa_anomaly.wiring.clock import clock
from insa_anomaly.wiring.services import Pools, ServiceParts
from tests.runtime.streams import PARAMETERS, POLICY

SECOND = 1_000_000
HOUR = 3600 * SECOND
JOBS_MOST = 3
KEY = SeriesKey("PUMP-101", "temperature")
NOTHING = Telemetry(
    (),
    np.zeros(0, np.int32),
    *(np.zeros(0, np.int64),) * 2,
    np.zeros(0),
    *(np.zeros(0, np.int16),) * 2,
)
WISHES = {
    "read": [Permission.READ],
    "write": [Permission.WRITE],
    "telemetry": [Permission.TELEMETRY],
    "admin": [Permission.ADMIN],
}


@cache
def learnt() -> Trained:
    """Train a small model of noise around 10."""
    values = 10 + np.random.default_rng(0).normal(size=400)
    return SeriesLearner(
        key=KEY, id=str(UUID(int=0)), version=1, parameters=PARAMETERS, policy=POLICY
    ).fit(SECOND * np.arange(400), values)


now = clock.now


def well() -> Condition:
    """Return the condition of a daemon that does all of its job."""
    return Condition([], {"series": 0})


@dataclass
class Log:
    """The way into the log: the messages that arrived, and whether the disk accepts them."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)
    writable: bool = True

    def post(self, topic: str, payload: bytes) -> bool:
        """Store a message if the log is writable; return whether it was stored."""
        if self.writable:
            self.messages.append((topic, payload))
        return self.writable


@dataclass
class Office:
    """The application, a client and its keys.

    The keys by name: read, write, telemetry, admin, expired, revoked, bad.
    """

    dsn: str
    pool: Pool
    files: ModelFiles
    fleet: Fleet
    log: Log
    instance: UUID
    interrupts: list[Callable[[object], None]]
    service: KeyService
    ring: KeyRing
    application: FastAPI
    client: TestClient
    tokens: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, permissions in WISHES.items():
            self.tokens[name] = self.service.create(Wish(name, permissions), "tests", now())[1]
        self.tokens["expired"] = self.service.create(
            Wish("expired", [Permission.ADMIN], HOUR), "tests", now() - 2 * HOUR
        )[1]
        revoked, self.tokens["revoked"] = self.service.create(
            Wish("revoked", [Permission.ADMIN]), "tests", now()
        )
        self.service.revoke(revoked.id, "tests", now())
        self.tokens["bad"] = self.tokens["admin"][:-1] + (
            "0" if self.tokens["admin"][-1] != "0" else "1"
        )
        self.ring.refresh()

    def ask(self, who: str, method: str, path: str, **more: Any) -> httpx2.Response:  # noqa: ANN401 - what the client takes
        """Send a request with the key of this name; "nobody" has none."""
        headers = {
            **more.pop("headers", {}),
            **({} if who == "nobody" else {"Authorization": f"Bearer {self.tokens[who]}"}),
        }
        answer: httpx2.Response = self.client.request(method, path, headers=headers, **more)
        return answer

    def get(self, path: str, who: str = "read", **params: Any) -> Any:  # noqa: ANN401 - any JSON
        """Get a route that must succeed, and return its document."""
        answer = self.ask(who, "GET", path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def train(
        self, key: SeriesKey = KEY, trained_at: int | None = None, **figures: float | str
    ) -> ModelRow:
        """Store the next version of a series' model, trained by `learnt`, with further figures."""
        one, version = learnt(), self.files.next_version(key)
        model = replace(
            one.model,
            id=str(uuid4()),
            version=version,
            device_id=key.device_id,
            metric_name=key.metric_name,
        )
        return self.files.save(
            replace(one, model=model, figures={**one.figures, **figures}), trained_at or now()
        )

    def serve(self, row: ModelRow) -> None:
        """Let the model take over its series in the stream."""
        self.fleet.swap(row.key, Model.from_bytes(self.files.scorer(row.id)))

    def stream(
        self, values: Sequence[float], key: SeriesKey = KEY, since: int | None = None
    ) -> None:
        """Feed readings into the stream, a second apart."""
        begin = now() - len(values) * SECOND if since is None else since
        keys, n = self.fleet.registry.keys, len(values)
        number = np.full(n, self.fleet.registry.index_of(key), np.int32)
        times, zeros, good = (
            begin + SECOND * np.arange(n),
            np.zeros(n, np.int64),
            np.zeros(n, np.int16),
        )
        self.fleet.advance(
            Telemetry(
                keys=keys,
                key=number,
                timestamp=times,
                discriminator=zeros,
                value=np.array(values, float),
                quality=good,
                flags=good,
            )
        )

    def record(self, anomalies: Sequence[Anomaly] = (), episodes: Sequence[Episode] = ()) -> None:
        """Record anomalies and episodes."""
        with PostgresRecorder(self.dsn) as recorder:
            recorder.record(Page(UUID(int=1), 1, NOTHING, anomalies, episodes))

    def do(self, method: str, path: str, body: object = None, who: str = "write") -> Any:  # noqa: ANN401 - any JSON
        """Send a request that must succeed, and return its document."""
        answer = self.ask(who, method, path, **({} if body is None else {"json": body}))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def audited(self, action: str) -> list[tuple[Any, ...]]:
        """Return who, origin, subject, before and after of the audit lines with this action."""
        return self.query(
            "SELECT who, origin, subject, before, after FROM audit_log"
            " WHERE action = %s ORDER BY id",
            action,
        )

    def query(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """Query the database and return the rows."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            found = connection.execute(statement, values)
            return found.fetchall() if found.description else []

    def routes(self) -> Iterator[tuple[str, str]]:
        """Yield method and path of every route."""
        for route in self.application.routes:
            assert isinstance(route, APIRoute)
            for method in sorted((route.methods or set()) - {"HEAD", "OPTIONS"}):
                yield method, route.path


def problem(answer: httpx2.Response, status: int) -> Mapping[str, Any]:
    """Return the document of an answer that must be a problem with this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert said["status"] == status
    assert {"type", "title", "detail"} <= said.keys()
    return said


@contextmanager
def opened(
    dsn: str, folder: Path, host: str = "127.0.0.1", redis_url: str | None = None
) -> Iterator[Office]:
    """Open the application over this database, as it listens on `host`."""
    settings = Settings(
        http=HttpSettings(host=host),
        training=TrainingSettings(jobs=JOBS_MOST),
        redis=RedisSettings(redis_url),
    )
    fleet = Fleet(Registry(16), settings.detection, settings.verdict)
    with Pool(dsn) as pool, ModelFiles(folder / "ml_models", folder / "model.key") as files:
        keys = PostgresKeys(pool)
        ring = KeyRing(keys, clock)
        log, instance = Log(), uuid4()
        interrupts: list[Callable[[object], None]] = []

        def interrupt(name: object) -> None:
            for one in interrupts:
                one(name)

        desk = StreamServer(
            index_of=fleet.registry.find,
            compared=partial(compared, fleet),
            inlet=log,
            interrupt=interrupt,
            condition=well,
            metrics=metrics_text,
        )
        stream = StreamClient(
            lambda question, _: desk.answer(question), lambda question, _: desk.answer(question)
        )
        view = SharedStreamView(fleet.windows, clock, stream.index_of, stream.compared)
        admin = assembled(
            settings,
            Pools(pool, pool),
            ring,
            ServiceParts(files, view, stream, instance, stream.interrupt),
        )
        application = app.create("1.2.3", stream.condition, stream.metrics, admin)
        with TestClient(application, raise_server_exceptions=False) as client:
            yield Office(
                dsn=dsn,
                pool=pool,
                files=files,
                fleet=fleet,
                log=log,
                instance=instance,
                interrupts=interrupts,
                service=KeyService(keys, PostgresAudit(pool)),
                ring=ring,
                application=application,
                client=client,
            )


def anomaly(
    row: ModelRow, at: int, confidence: float = 0.5, started_at: int | None = None
) -> Anomaly:
    """Build an anomalous reading, found by this model."""
    key = row.key
    episode = None if started_at is None else episode_id(*key, started_at)
    return Anomaly(
        id=anomaly_id(*key, at, 0),
        model_id=row.id,
        model_version=row.version,
        device_id=row.device_id,
        metric_name=row.metric_name,
        timestamp=at,
        value=9.5,
        score=-confidence,
        raw_score=-0.1,
        confidence=confidence,
        expected=1.0,
        lower=0.0,
        upper=2.0,
        reasons=[Reason("jump", 1.0, "a jump")],
        historical=False,
        episode_id=episode,
    )


def episode(
    row: ModelRow, started_at: int, closed_at: int | None = None, peak: float = 0.5
) -> Episode:
    """Build an episode, found by this model."""
    return Episode(
        id=episode_id(row.device_id, row.metric_name, started_at),
        device_id=row.device_id,
        metric_name=row.metric_name,
        model_id=row.id,
        model_version=row.version,
        started_at=started_at,
        updated_at=closed_at or started_at,
        closed_at=closed_at,
        readings=1,
        peak_confidence=peak,
    )
