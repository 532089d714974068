"""What is offered to whoever watches, for real: every query of the dashboard on a Prometheus that scraped a daemon, and on its database."""

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
from insa_anomaly.workbench.dashboard import dashboard
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
    """A daemon, its database, and the Prometheus that watches it."""
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
    """The role that the README makes for Grafana."""
    block = (DASHBOARDS / "README.md").read_text().partition("```sql\n")[2].partition("```")[0]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(block.encode())
        yield
        connection.execute("DROP OWNED BY insa_grafana")
        connection.execute("DROP ROLE insa_grafana")


def promql(text: str) -> str:
    """As Grafana sends it."""
    sent = text.replace("$__rate_interval", "1m").replace(
        "$instance", VARIABLES["instance"]["allValue"]
    )
    assert "$" not in sent
    return sent


def sql(text: str, devices: str) -> str:
    """As Grafana sends it."""
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
    """With a number, and without an error."""
    wait_for(
        lambda: any(isfinite(value) for value in plant.prometheus.ask(promql(PROMQL[name]))),
        SECONDS,
    )


@pytest.mark.parametrize("name", SQL)
def test_postgresql_answers_every_panel(plant: Watched, name: str) -> None:
    """With a row that says something, whether all devices are chosen or one; and a device that is none gives no row of another's.

    The role that the README makes may ask all of it.
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
    """Least of all the keys, and it changes nothing."""
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
    """A name and a share each."""
    [(model, accuracy)] = plant.site.query(sql(SQL["Model Accuracy A"], f"'{DEVICE}'"))
    assert model == f"{DEVICE} / {METRIC}"
    assert 0 < accuracy <= 1
    labels = f'{{device_id="{DEVICE}",metric_name="{METRIC}"}}'
    wait_for(lambda: plant.prometheus.ask(f"insa_model_accuracy{labels}") == [accuracy], SECONDS)


def test_the_variables_have_values(plant: Watched) -> None:
    """Every instance that is scraped, and every device that is known."""
    metric, label = re.fullmatch(
        r"label_values\((\w+),(\w+)\)", VARIABLES["instance"]["query"]["query"]
    ).groups()  # type: ignore[union-attr]
    found = plant.prometheus.get(f"label/{label}/values", **{"match[]": metric})
    assert found == [f"127.0.0.1:{plant.daemon.port}"]
    with psycopg.connect(plant.site.database) as connection:
        assert connection.execute(VARIABLES["device"]["query"].encode()).fetchall() == [(DEVICE,)]


def test_the_alert_rules_are_evaluated(plant: Watched) -> None:
    """All of them, without an error; a plant in which all is well has none that fires but what the dead letters are told by."""
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
    """Names, types and words are as Prometheus wants them."""
    for page in ("/metrics", "/metrics/models"):
        said = plant.daemon.get(page)[1]
        argv = [*(tools.command("promtool") or []), "check", "metrics"]
        done = subprocess.run(
            argv, check=False, input=said, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_what_is_scraped_is_what_is_documented(plant: Watched) -> None:
    """Name, type, labels and meaning of every metric, and nothing besides: neither a metric without a line nor a line without a metric."""
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
