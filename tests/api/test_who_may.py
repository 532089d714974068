"""The permissions: every route against every kind of caller, and the parts of a key."""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import psycopg
import pytest
from fastapi import APIRouter
from structlog.testing import capture_logs

from insa_anomaly.api import auth
from insa_anomaly.api.auth import Guard, guarded
from insa_anomaly.errors import DatabaseRefused, NotFound
from insa_anomaly.ports.keys import Key
from insa_anomaly.services import keys
from insa_anomaly.services.keys import Denied, KeyRing, Keys, Permission, Wish
from insa_anomaly.testing.clock import SettableClock
from tests.api.office import Office, now, opened, problem
from tests.conftest import wait_for

CALLERS = ("nobody", "bad", "expired", "revoked", "read", "write", "telemetry", "admin")
OPEN = "open"
# Every route, and the permission it needs. A new route needs a row, or the test fails.
NEEDED = {
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/metrics"): OPEN,
    ("GET", "/metrics/models"): OPEN,
    ("GET", "/api/v1/status"): OPEN,
    ("GET", "/api/v1/openapi.json"): "ml:read",
    ("GET", "/api/v1/ml/models"): "ml:read",
    ("GET", "/api/v1/ml/models/{model_id}"): "ml:read",
    ("GET", "/api/v1/ml/models/{model_id}/performance"): "ml:read",
    ("GET", "/api/v1/ml/anomalies"): "ml:read",
    ("GET", "/api/v1/ml/episodes"): "ml:read",
    ("PUT", "/api/v1/ml/models/{model_id}/threshold"): "ml:write",
    ("POST", "/api/v1/ml/models/{model_id}/activate"): "ml:write",
    ("GET", "/api/v1/ml/models/{model_id}/shadow"): "ml:read",
    ("POST", "/api/v1/ml/models/{model_id}/shadow"): "ml:write",
    ("DELETE", "/api/v1/ml/models/{model_id}/shadow"): "ml:write",
    ("DELETE", "/api/v1/ml/models/{model_id}"): "ml:write",
    ("POST", "/api/v1/ml/episodes/{episode_id}/feedback"): "ml:write",
    ("POST", "/api/v1/telemetry"): "telemetry:write",
    ("POST", "/api/v1/ml/predict"): "ml:read",
    ("POST", "/api/v1/ml/predict/batch"): "ml:read",
    ("POST", "/api/v1/ml/models/train"): "ml:write",
    ("POST", "/api/v1/ml/models/{model_id}/retrain"): "ml:write",
    ("GET", "/api/v1/ml/jobs"): "ml:read",
    ("GET", "/api/v1/ml/jobs/{job_id}"): "ml:read",
    ("DELETE", "/api/v1/ml/jobs/{job_id}"): "ml:write",
    ("POST", "/api/v1/ml/health-check"): "ml:write",
    ("GET", "/api/v1/ml/health-check"): "ml:read",
    ("GET", "/api/v1/ml/health-check/decisions"): "ml:read",
}
MAY = {
    "ml:read": {"read", "write", "admin"},
    "ml:write": {"write", "admin"},
    "telemetry:write": {"telemetry", "admin"},
    OPEN: set(CALLERS),
}
SOME_ID = "00000000-0000-4000-8000-000000000000"


def test_every_route_has_a_row(office: Office) -> None:
    """Every route has a decision about its permission."""
    assert set(office.routes()) == NEEDED.keys()


@pytest.mark.parametrize(("method", "path"), NEEDED)
def test_who_may(office: Office, method: str, path: str) -> None:
    """A route answers 401 without a good key, and 403 with a key good for another permission.

    Otherwise the route itself answers.
    """
    for who in CALLERS:
        answer = office.ask(who, method, re.sub(r"\{\w+\}", SOME_ID, path))
        if who in MAY[NEEDED[method, path]]:
            assert answer.status_code not in {401, 403}, who
        elif who in {"nobody", "bad", "expired", "revoked"}:
            problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
        else:
            assert NEEDED[method, path] in problem(answer, 403)["detail"]


@pytest.mark.parametrize("path", ["/metrics", "/metrics/models", "/api/v1/status"])
def test_on_the_network_what_is_open_on_loopback_needs_a_key(
    database: str, tmp_path: Path, path: str
) -> None:
    """Health stays open: its caller has no key, and learns no more than the health."""
    with opened(database, tmp_path, host="0.0.0.0") as office:  # noqa: S104 - nothing listens
        for who in CALLERS:
            assert office.ask(who, "GET", path).status_code == (
                200 if who in MAY["ml:read"] else 403 if who == "telemetry" else 401
            )
        assert office.ask("nobody", "GET", "/healthz").status_code == 200


def test_a_route_that_names_no_permission_is_closed(office: Office) -> None:
    """A route without a permission is denied, for an admin too."""
    routes = APIRouter(route_class=guarded(Guard(office.ring)))

    @routes.get("/forgotten")
    def forgotten() -> str:
        return "secret"

    office.application.router.routes.extend(routes.routes)
    problem(office.ask("admin", "GET", "/forgotten"), 403)
    problem(office.ask("nobody", "GET", "/forgotten"), 401)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic dTpw"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer insa__"},
        {"Authorization": "Bearer \xff"},
        {"Authorization": "Bearer " + "x" * 5000},
        {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"},
        {"Cookie": "key=1"},
    ],
)
def test_nothing_but_a_key_lets_in(office: Office, headers: dict[str, str]) -> None:
    """No other scheme, no half of a key and no claim to come from nearby is admitted."""
    raw: Any = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    problem(office.client.get("/api/v1/openapi.json", headers=raw), 401)


def test_a_key_is_asked_for_once(office: Office) -> None:
    """A request with two keys is refused: a proxy and the port might use different keys."""
    key = f"Bearer {office.tokens['admin']}"
    problem(
        office.client.get(
            "/api/v1/openapi.json", headers=[("Authorization", key), ("Authorization", key)]
        ),
        401,
    )


def test_who_may_is_asked_before_what(office: Office) -> None:
    """An unknown path is 404 and an unknown method 405, both as problem documents."""
    problem(office.ask("nobody", "GET", "/api/v1/nothing"), 404)
    problem(office.ask("admin", "PATCH", "/api/v1/openapi.json"), 405)


# ------------------------------------------------------------------------------ the keys
def test_a_key_is_256_bits_and_is_stored_by_its_digest_alone(office: Office) -> None:
    """The database holds no part of a key that a caller presents as proof."""
    _, _, secret = office.tokens["admin"].split("_")
    assert len(bytes.fromhex(secret)) == 32
    stored = str(office.query("SELECT * FROM api_keys"))
    audited = str(office.query("SELECT * FROM audit_log"))
    assert not any(token.rsplit("_", 1)[1] in stored + audited for token in office.tokens.values())
    assert len(set(office.tokens.values())) == len(office.tokens)


def test_a_key_ends_when_it_is_revoked(office: Office) -> None:
    """A revoked key is refused as soon as the keys are read again."""
    key, token = office.service.create(Wish("short-lived", [Permission.READ]), "tests", now())
    office.ring.refresh()
    assert office.ring.authenticate(token) == key
    office.service.revoke(key.id, "tests", now())
    office.ring.refresh()
    assert office.ring.authenticate(token) is Denied.REVOKED
    with pytest.raises(NotFound):
        office.service.revoke("nobody", "tests", now())


def test_a_key_ends_by_itself(office: Office) -> None:
    """A key expires at its microsecond, without the database."""
    begin = now()
    _, token = office.service.create(Wish("brief", [Permission.READ], 1000), "tests", begin)
    for at, expected in ((begin + 999, None), (begin + 1000, Denied.EXPIRED)):
        found = KeyRing(office.service.keys, SettableClock(at)).authenticate(token)
        assert (found if isinstance(found, Denied) else None) is expected


def test_when_a_key_was_last_used_is_kept(office: Office) -> None:
    """The time of the last use is stored, precise to the minute."""
    office.get("/api/v1/openapi.json")
    office.ring.refresh()
    used = {key.name: key.last_used_at for key in office.service.all()}
    assert used["write"] is None
    assert used["read"] is not None
    assert abs(used["read"] - now()) < 60_000_000


def test_keys_that_nobody_refreshes_are_read_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stale keys are read again at a request, so that a revoked key is not good for ever."""
    [key] = [one for one in office.service.all() if one.name == "read"]
    office.service.revoke(key.id, "tests", now())
    assert office.ask("read", "GET", "/api/v1/openapi.json").status_code == 200
    monkeypatch.setattr(keys, "_STALE_SECONDS", 0.0)
    problem(office.ask("read", "GET", "/api/v1/openapi.json"), 401)


def test_known_keys_are_good_while_the_database_is_away(office: Office) -> None:
    """An unknown key is refused; a ring that never read any key raises DatabaseRefused."""
    office.query("ALTER TABLE api_keys RENAME TO gone")
    with pytest.raises(DatabaseRefused):
        office.ring.refresh()
    office.get("/api/v1/openapi.json")
    problem(office.ask("bad", "GET", "/api/v1/openapi.json"), 401)
    with pytest.raises(DatabaseRefused):
        KeyRing(office.service.keys, SettableClock(now())).authenticate(office.tokens["read"])


def test_keys_that_cannot_be_read_are_503(office: Office) -> None:
    """The answer states a time to retry, and does not mention the database."""
    office.query("ALTER TABLE api_keys RENAME TO gone")
    office.ring._keys = None
    answer = office.ask("admin", "GET", "/api/v1/openapi.json")
    assert "api_keys" not in problem(answer, 503)["detail"]
    assert int(answer.headers["retry-after"]) > 0


# ------------------------------------------------------------------------- the audit log
def test_making_and_ending_keys_is_audited(office: Office) -> None:
    """The audit log holds the author, the action and the subject."""
    rows = office.query("SELECT who, action, subject, after FROM audit_log ORDER BY id")
    assert [row[1] for row in rows] == ["key.create"] * 6 + ["key.revoke"]
    assert {row[0] for row in rows} == {"tests"}
    assert rows[0][3]["name"] == "read"


@pytest.mark.parametrize(
    "change", ["UPDATE audit_log SET who = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
)
def test_the_audit_log_is_append_only(office: Office, change: Any) -> None:  # noqa: ANN401 - a literal string
    """The audit log is append-only for a superuser too."""
    before = office.query("SELECT * FROM audit_log")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
        office.query(change)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        office.query("SET session_replication_role = replica; " + change)
    assert office.query("SELECT * FROM audit_log") == before


def test_what_is_older_than_two_years_may_go(office: Office) -> None:
    """Retention may delete lines older than two years."""
    office.query(
        "INSERT INTO audit_log (at, who, origin, action, subject)"
        " VALUES (now() - interval '3 years', 'a', 'b', 'c', 'd')"
    )
    office.query("DELETE FROM audit_log WHERE at < now() - interval '2 years'")
    assert office.query("SELECT count(*) FROM audit_log WHERE who = 'a'") == [(0,)]


def test_a_key_that_cannot_be_audited_is_not_made(office: Office) -> None:
    """A change is refused where it cannot be audited."""
    office.query("ALTER TABLE audit_log RENAME TO gone")
    with pytest.raises(DatabaseRefused):
        office.service.create(Wish("secret", [Permission.ADMIN]), "tests", now())
    with pytest.raises(DatabaseRefused):
        office.service.revoke(office.service.all()[0].id, "tests", now())
    assert "secret" not in {key.name for key in office.service.all()}
    assert office.service.all()[0].revoked_at is None


# ------------------------------------------------------------------------ every request
def test_a_body_has_a_limit(office: Office) -> None:
    """A body beyond the limit is refused before any check, also without a key."""
    problem(office.ask("nobody", "POST", "/healthz", content=b"x" * 1_000_001), 413)


def test_every_answer_forbids_guessing_and_keeping(office: Office) -> None:
    """Every answer carries both headers, and so do problem documents."""
    for answer in (
        office.ask("read", "GET", "/api/v1/openapi.json"),
        office.ask("nobody", "GET", "/api/v1/openapi.json"),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/%2e%2e/%2e%2e/etc/passwd",
        "/api/v1/\x00",
        "/api/v1/openapi.json%00",
        "/" + "a" * 60_000,
    ],
)
def test_hostile_paths_are_unknown(office: Office, path: str) -> None:
    """A hostile path is 404, not an internal error."""
    problem(office.ask("admin", "GET", path.replace("\x00", "%00")), 404)


# ---------------------------------------------------------------- a database that does not answer
class FrozenKeys:
    """The storage of keys behind a database that is frozen from some moment on."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.frozen, self.thawed = Event(), Event()
        self.asked = 0

    def all(self) -> list[Key]:
        """Return every key; wait as long as the database is frozen."""
        self.asked += 1
        if self.frozen.is_set():
            self.thawed.wait(60)
        return self._keys.all()

    def used(self, at: Mapping[str, int]) -> None:
        """Store when the keys were last used."""
        self._keys.used(at)


@pytest.fixture
def frozen(office: Office) -> Iterator[FrozenKeys]:
    """Freeze the database behind the keys of the office."""
    office.get("/api/v1/openapi.json")
    keys = office.ring._store = FrozenKeys(office.service.keys)  # type: ignore[assignment]
    office.ring._read_at -= 1.0  # an unknown key is worth a query again
    keys.frozen.set()
    yield keys
    keys.thawed.set()


def test_unknown_keys_hold_nobody_while_the_database_is_frozen(
    office: Office, frozen: FrozenKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single query is under way, and all else is answered while it waits."""
    monkeypatch.setattr(auth, "LOOK_UP_SECONDS", 5.0)
    unknown = {"Authorization": f"Bearer insa_{'0' * 12}_{'1' * 64}"}

    def flood() -> int:
        return office.client.get("/api/v1/openapi.json", headers=unknown).status_code

    with ThreadPoolExecutor(60) as threads:
        refused = [threads.submit(flood) for _ in range(60)]
        wait_for(lambda: frozen.asked > 0)
        assert office.client.get("/healthz").status_code == 200
        assert office.client.get("/readyz").status_code == 200
        office.get("/api/v1/openapi.json")
        assert not all(answer.done() for answer in refused)
        assert {answer.result(30) for answer in refused} == {401}
    assert frozen.asked == 1


def test_a_key_without_an_id_is_not_looked_up(office: Office, frozen: FrozenKeys) -> None:
    """A token that no key can have is refused without the database."""
    for token in ("x", "insa_", "insa__1", "other_1_2", "insa_1_2_3"):
        headers = {"Authorization": f"Bearer {token}"}
        problem(office.client.get("/api/v1/openapi.json", headers=headers), 401)
    assert frozen.asked == 0


def test_refusals_of_an_address_are_logged_once_a_minute(office: Office) -> None:
    """The line tells the origin and the count since the last line."""
    with capture_logs() as lines:
        for _ in range(5):
            office.ask("bad", "GET", "/api/v1/openapi.json")
    denied = [line for line in lines if line["action"] == "request_denied"]
    assert [(line["origin"], line["denied_since_last"]) for line in denied] == [("testclient", 1)]
