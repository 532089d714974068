"""The dashboard for real: its queries run on a daemon's database and its Prometheus."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from insa_anomaly.adapters.embedded import Tools
from scripts.dashboards.dashboard import dashboard
from tests.acceptance.site import empty_database, opened
from tests.acceptance.watched import DASHBOARDS, DEVICE, METRIC, Watched, watched
from tests.conftest import wait_for

BOARD = dashboard()
VARIABLES = {one["name"]: one for one in BOARD["templating"]["list"]}
QUERIES = [
    (f"{panel['title']} {target['refId']}", target)
    for panel in BOARD["panels"]
    for target in panel.get("targets", ())
]
PROMQL = {name: target["expr"] for name, target in QUERIES if "expr" in target}
SQL = {name: target["rawSql"] for name, target in QUERIES if "rawSql" in target}
SECONDS = 20.0


@pytest.fixture(scope="module")
def plant(short_root: Path, tools: Tools, postgres_dsn: str) -> Iterator[Watched]:
    """Run a daemon, its database, and the Prometheus that watches it."""
    program = tools.command("prometheus")
    if program is None:
        pytest.skip("there is no Prometheus: run `make deps` where Debian's archive can be reached")
    folder = short_root / "watched"
    folder.mkdir(mode=0o711)
    with (
        empty_database(postgres_dsn) as database,
        opened(folder, tools, database) as site,
        watched(site, program) as one,
        reader(database),
    ):
        yield one


@contextmanager
def reader(database: str) -> Iterator[None]:
    """Create the role that the README defines for Grafana, for the length of the block."""
    block = (DASHBOARDS / "README.md").read_text().partition("```sql\n")[2].partition("```")[0]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(block.encode())
        yield
        connection.execute("DROP OWNED BY insa_grafana")
        connection.execute("DROP ROLE insa_grafana")


def promql(text: str) -> str:
    """Return the query as Grafana sends it to Prometheus."""
    sent = text.replace("$__rate_interval", "1m").replace(
        "$instance", VARIABLES["instance"]["allValue"]
    )
    assert "$" not in sent
    return sent


def sql(text: str, devices: str) -> str:
    """Return the query as Grafana sends it to PostgreSQL."""
    sent = re.sub(
        r"\$__timeFilter\((\w+)\)",
        r"\1 BETWEEN now() - interval '6 hours' AND now() + interval '1 minute'",
        text,
    )
    sent = sent.replace("${device:sqlstring}", devices)
    assert "$" not in sent
    return sent


@pytest.mark.parametrize("name", PROMQL)
def test_prometheus_answers_every_panel(plant: Watched, name: str) -> None:
    """Prometheus answers every panel with a number and without an error."""
    wait_for(
        lambda: any(isfinite(value) for value in plant.prometheus.ask(promql(PROMQL[name]))),
        SECONDS,
    )


@pytest.mark.parametrize("name", SQL)
def test_postgresql_answers_every_panel(plant: Watched, name: str) -> None:
    """PostgreSQL answers every panel with a filled row, for all devices and for a single device.

    A device without data gets no row of another device. The role that the README defines may run
    every query.
    """
    with psycopg.connect(plant.site.database) as connection:
        connection.execute("SET ROLE insa_grafana")
        for devices in (VARIABLES["device"]["allValue"], f"'{DEVICE}','other'"):
            statement = sql(SQL[name], devices).encode()
            wait_for(partial(_says_something, connection, statement), SECONDS)
        if "${device" in SQL[name]:
            assert connection.execute(sql(SQL[name], "'other'").encode()).fetchall() == []


@pytest.mark.parametrize("name", ["telemetry_readings", "api_keys", "audit_log", "training_jobs"])
def test_the_role_for_grafana_sees_nothing_else(plant: Watched, name: str) -> None:
    """The role for Grafana reads no other table, least of all the keys, and changes no row."""
    with psycopg.connect(plant.site.database) as connection:
        connection.execute("SET ROLE insa_grafana")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"SELECT FROM {name}".encode())
        connection.rollback()
        connection.execute("SET ROLE insa_grafana")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM feedback")


def _says_something(connection: "psycopg.Connection[Any]", statement: bytes) -> bool:
    rows = connection.execute(statement).fetchall()
    connection.commit()
    return any(value is not None for row in rows for value in row)


def test_the_bars_are_of_devices_and_metrics(plant: Watched) -> None:
    """Each bar shows a name and a share."""
    [(model, accuracy)] = plant.site.query(sql(SQL["Model Accuracy A"], f"'{DEVICE}'"))
    assert model == f"{DEVICE} / {METRIC}"
    assert 0 < accuracy <= 1
    labels = f'{{device_id="{DEVICE}",metric_name="{METRIC}"}}'
    wait_for(lambda: plant.prometheus.ask(f"insa_model_accuracy{labels}") == [accuracy], SECONDS)


def test_the_variables_have_values(plant: Watched) -> None:
    """The variables list every scraped instance and every known device."""
    metric, label = re.fullmatch(
        r"label_values\((\w+),(\w+)\)", VARIABLES["instance"]["query"]["query"]
    ).groups()  # type: ignore[union-attr]
    found = plant.prometheus.get(f"label/{label}/values", **{"match[]": metric})
    assert found == [f"127.0.0.1:{plant.daemon.port}"]
    with psycopg.connect(plant.site.database) as connection:
        assert connection.execute(VARIABLES["device"]["query"].encode()).fetchall() == [(DEVICE,)]


def test_the_alert_rules_are_evaluated(plant: Watched) -> None:
    """Every alert rule is evaluated without an error; a healthy plant fires none."""
    expected = [
        rule["alert"]
        for rule in yaml.safe_load((DASHBOARDS / "insa-anomaly.rules.yml").read_text())["groups"][
            0
        ]["rules"]
    ]

    def rules() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [
            rule for group in plant.prometheus.get("rules")["groups"] for rule in group["rules"]
        ]
        return found

    wait_for(lambda: all(rule["health"] == "ok" for rule in rules()), SECONDS)
    assert [rule["name"] for rule in rules()] == expected
    assert [rule["name"] for rule in rules() if rule["state"] == "firing"] == []


def test_prometheus_finds_no_fault_with_the_metrics(plant: Watched, tools: Tools) -> None:
    """Names, types and help texts of the metrics satisfy Prometheus."""
    for page in ("/metrics", "/metrics/models"):
        said = plant.daemon.get(page)[1]
        argv = [*(tools.command("promtool") or []), "check", "metrics"]
        done = subprocess.run(
            argv, check=False, input=said, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_what_is_scraped_is_what_is_documented(plant: Watched) -> None:
    """The documentation lists name, type, labels and meaning of exactly the scraped metrics."""
    lines = (DASHBOARDS / "README.md").read_text().splitlines()
    documented = {
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in lines
        if re.match(r"\| `(insa|process)_", line)
    }
    scraped = {}
    for page in ("/metrics", "/metrics/models"):
        for family in text_string_to_metric_families(plant.daemon.get(page)[1]):
            if not family.name.endswith("_created"):
                name = family.name + "_total" * (family.type == "counter")
                labels = {label for sample in family.samples for label in sample.labels} - {"le"}
                scraped[f"`{name}`"] = (family.type, labels, family.documentation.rstrip("."))
    assert {(name, kind, text) for name, (kind, _, text) in scraped.items()} == {
        (row[0], row[1], row[4]) for row in documented
    }
    for name, _, unit, labelled, _ in documented:
        assert unit
        assert not scraped[name][1] or ", ".join(sorted(scraped[name][1])) == labelled
    hot = {
        label
        for name, (_, found, _) in scraped.items()
        if not name.startswith("`insa_model_")
        for label in found
    }
    assert not hot & {"device_id", "metric_name", "device", "metric", "model_id"}
