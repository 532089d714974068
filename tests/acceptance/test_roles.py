"""A plant's PostgreSQL with roles of least privilege, set up by a single command."""

import json
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from insa_anomaly.adapters.postgres import roles
from tests.acceptance.site import Site
from tests.conftest import wait_for

LOGIN = "insa-anomaly"


@pytest.fixture
def shared(site: Site) -> Iterator[Site]:
    """Open a site; drop its roles at the end, because they belong to the whole server."""
    yield site
    site.close()
    with psycopg.connect(site.database, autocommit=True) as session:
        for role in (roles.OWNER, *roles.GROUPS, LOGIN):
            session.execute(
                sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.Identifier(role))
            )


def asked(port: int, key: str, path: str, body: object = None) -> int:
    """Return the status of an answer of the admin API."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        with urlopen(
            Request(f"http://127.0.0.1:{port}{path}", data, headers), timeout=30
        ) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


@pytest.mark.long
def test_the_daemon_does_its_work_with_the_least_rights(shared: Site) -> None:
    """The daemon records, answers, creates a key and audits requests under least privilege.

    A second run of the command has nothing to do.
    """
    site = shared
    done = site.run("migrate", "--roles", "--as", site.database)
    assert done.returncode == 0, done.stderr
    assert f"made the role {LOGIN}" in done.stdout
    assert (
        site.run("migrate", "--roles", "--as", site.database).stdout == "the schema is up to date\n"
    )

    site.put("database", {"url": make_conninfo(site.database, user=LOGIN), "roles": True})
    daemon = site.daemon()
    daemon.start()
    with site.feeder() as feeder:
        feeder.publish("insa/iiot/telemetry/P-1", b'{"temperature": 60}')
        feeder.publish("insa/iiot/telemetry/P-1", b"no reading")
    wait_for(lambda: site.stored() == 1)
    wait_for(lambda: site.query("SELECT count(*) FROM dead_letters") == [(1,)])
    made = site.run(*["keys", "create", "--name", "lab", "--permission", "admin"])
    assert made.returncode == 0, made.stderr
    key, port = made.stdout.strip(), site.settings["http"]["port"]
    wait_for(lambda: asked(port, key, "/api/v1/ml/anomalies") == 200)
    order = {"device_id": "P-1", "metric_name": "temperature", "training_window": 1}
    assert asked(port, key, "/api/v1/ml/models/train", order) < 500
    actions = [row[0] for row in site.query("SELECT action FROM audit_log ORDER BY id")]
    assert actions == ["key.create", "model.train"]
    assert daemon.terminate() == 0
    assert "permission denied" not in daemon.log


def test_roles_need_an_administrator(site: Site) -> None:
    """Creating roles needs an administrator, because the daemon's own login may not create them."""
    done = site.run("migrate", "--roles")
    assert (done.returncode, "--as" in done.stderr) == (2, True)
