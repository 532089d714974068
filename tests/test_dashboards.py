"""The files in dashboards/ for Prometheus and Grafana: generated, consistent, every alert tried."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from insa_anomaly.adapters.embedded import Tools
from insa_anomaly.instrumentation.metrics import definitions
from scripts.dashboards import dashboard as board
from scripts.dashboards.panels import COLUMNS
from tests.conftest import ROOT

FOLDER = ROOT / "dashboards"
RULES = yaml.safe_load((FOLDER / "insa-anomaly.rules.yml").read_text())["groups"][0]["rules"]
BOARD = board.dashboard()
PANELS: list[dict[str, Any]] = BOARD["panels"]
QUERIED = [panel for panel in PANELS if panel["type"] != "row"]
INSTANCE = {"instance": "plant:8787", "job": "insa-anomaly"}


# -------------------------------------------------------------------------- committed files
def test_what_is_committed_is_what_is_generated(tmp_path: Path) -> None:
    """The committed dashboard and table of metrics are up to date; see `make dashboards`."""
    for name in (board.FILE, "README.md"):
        (tmp_path / name).write_text((FOLDER / name).read_text())
    board.main(tmp_path)
    for name in (board.FILE, "README.md"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), "run `make dashboards`"


def test_only_metrics_that_there_are_are_asked_for() -> None:
    """The dashboard and the rules query only metrics that exist."""
    known = {one.name for one in definitions()}
    asked = "\n".join(
        [
            *_expressions(),
            *(rule["expr"] for rule in RULES),
            *(str(rule["annotations"]) for rule in RULES),
        ]
    )
    names = {
        re.sub("_(bucket|count|sum)$", "", name)
        for name in re.findall(r"\b(?:insa|process)_\w+", asked)
    }
    assert names
    assert names <= known


def _expressions() -> Iterator[str]:
    return (target["expr"] for panel in QUERIED for target in panel["targets"] if "expr" in target)


# ------------------------------------------------------------------------------- the dashboard
def test_what_operators_asked_for_is_there() -> None:
    """The panels that operators asked for exist, by kind and title."""
    kinds = {panel["title"]: panel["type"] for panel in PANELS}
    asked = {
        "ML Model Status": "gauge",
        "Anomaly Detection Rate": "timeseries",
        "Model Accuracy": "barchart",
        "Prediction Latency": "timeseries",
        "False Positive Rate, 24 h": "gauge",
    }
    assert asked.items() <= kinds.items()
    [latency] = [panel for panel in PANELS if panel["title"] == "Prediction Latency"]
    assert [target["legendFormat"] for target in latency["targets"]] == ["p50", "p95", "p99"]


def test_no_two_panels_share_a_place() -> None:
    """All panels lie on the grid, none over another, in lines without holes above them."""
    cells = [
        {(x, y) for x in _span(panel, "x", "w") for y in _span(panel, "y", "h")} for panel in PANELS
    ]
    assert all(0 <= x < COLUMNS and y >= 0 for each in cells for x, y in each)
    assert not [pair for pair in combinations(cells, 2) if pair[0] & pair[1]]
    taken = {y for each in cells for _, y in each}
    assert taken == set(range(len(taken)))


def _span(panel: dict[str, Any], begin: str, length: str) -> range:
    return range(panel["gridPos"][begin], panel["gridPos"][begin] + panel["gridPos"][length])


def test_lines_of_panels_are_full() -> None:
    """Each line of panels is full, and its panels are equally high."""
    for y in {panel["gridPos"]["y"] for panel in PANELS}:
        line = [panel["gridPos"] for panel in PANELS if panel["gridPos"]["y"] == y]
        assert sum(place["w"] for place in line) == COLUMNS, [
            panel["title"] for panel in PANELS if panel["gridPos"]["y"] == y
        ]
        assert len({place["h"] for place in line}) == 1


def test_every_panel_can_be_understood() -> None:
    """Every panel has its own title, a description, a unit and an open first threshold.

    Several lines in a panel have names.
    """
    assert (
        len({panel["title"] for panel in PANELS})
        == len({panel["id"] for panel in PANELS})
        == len(PANELS)
    )
    for panel in QUERIED:
        assert panel["description"].endswith("."), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["type"] == "table" or defaults["unit"]
        steps = defaults.get("thresholds", {"steps": [{"value": None}]})["steps"]
        values = [step["value"] for step in steps]
        assert values[0] is None
        assert values[1:] == sorted(values[1:])
        if panel["type"] == "gauge":
            assert defaults["min"] < max(values[1:]) <= defaults["max"]
        if len(panel["targets"]) > 1:
            assert all(target["legendFormat"] != "__auto" for target in panel["targets"])


def test_data_sources_are_the_reader_s_choice() -> None:
    """The data sources are variables of the dashboard, of the kinds that are provisioned."""
    variables = {
        one["name"]: one["query"]
        for one in BOARD["templating"]["list"]
        if one["type"] == "datasource"
    }
    used = {
        (source["type"], source["uid"])
        for panel in QUERIED
        for source in (panel["datasource"], *(t["datasource"] for t in panel["targets"]))
    }
    assert used == {(kind, f"${{{name}}}") for name, kind in variables.items()}
    provisioned = yaml.safe_load((FOLDER / "provisioning/datasources/insa-anomaly.yml").read_text())
    assert {one["type"] for one in provisioned["datasources"]} == set(variables.values())
    assert all(
        set(one.get("secureJsonData", {}).values()) <= {"$INSA_GRAFANA_PASSWORD"}
        for one in provisioned["datasources"]
    )
    [provider] = yaml.safe_load((FOLDER / "provisioning/dashboards/insa-anomaly.yml").read_text())[
        "providers"
    ]
    assert provider["type"] == "file"


# ---------------------------------------------------------------------------------- the alerts
@pytest.fixture(scope="session")
def promtool(tools: Tools) -> list[str]:
    """Return the command of Prometheus' own checker."""
    command = tools.command("promtool")
    if command is None:
        pytest.skip("there is no promtool: run `make deps` where Debian's archive can be reached")
    return command


def checked(promtool: list[str], *words: str) -> None:
    """Run the checker; fail the test where it complains."""
    done = subprocess.run(
        [*promtool, *words], check=False, capture_output=True, text=True, cwd=FOLDER, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_its_files(promtool: list[str]) -> None:
    """Prometheus accepts the rules, and the configuration that scrapes and loads them."""
    checked(promtool, "check", "rules", "insa-anomaly.rules.yml")
    checked(promtool, "check", "config", "prometheus.yml")


@dataclass(frozen=True)
class Case:
    """Metrics under which an alert fires after `minutes`, and metrics under which it does not.

    The values have promtool's form.
    """

    fires: Mapping[str, str]
    quiet: Mapping[str, str]
    minutes: int
    severity: str
    summary: str
    description: str | None = None  # None: the description of the rule
    labels: Mapping[str, str] = field(default_factory=lambda: INSTANCE)


OF = 'instance="plant:8787",job="insa-anomaly"'
BUCKET = f"insa_receive_to_score_seconds_bucket{{{OF},le="
CASES = {
    "InsaAnomalyDown": Case(
        {f"up{{{OF}}}": "0+0x10"},
        {f"up{{{OF}}}": "0 1+0x10"},
        5,
        "critical",
        "insa-anomaly on plant:8787 does not answer",
    ),
    "InsaAnomalyBrokerAway": Case(
        {f"insa_broker_connected{{{OF}}}": "1 0+0x10"},
        {f"insa_broker_connected{{{OF}}}": "0 1+0x10"},
        5,
        "critical",
        "insa-anomaly on plant:8787 has no connection to the MQTT broker",
    ),
    "InsaAnomalyStreamSilent": Case(
        {f"insa_stream_silent{{{OF}}}": "0 1+0x30", f"insa_broker_connected{{{OF}}}": "1+0x30"},
        {
            f"insa_stream_silent{{{OF}}}": "1+0x30",
            f"insa_broker_connected{{{OF}}}": "1+0x15 0+0x15",
        },
        20,
        "critical",
        "insa-anomaly on plant:8787 hears less than it used to, although the broker is connected",
    ),
    "InsaAnomalyDegraded": Case(
        {
            f"insa_degraded{{{OF}}}": "1+0x10",
            f'insa_trouble{{{OF},what="database"}}': "1+0x10",
            f'insa_trouble{{{OF},what="log"}}': "0+0x10",
        },
        {f"insa_degraded{{{OF}}}": "1+0x3 0+0x7"},
        10,
        "warning",
        "insa-anomaly on plant:8787 does not do all of its job",
        description="In trouble: database. /readyz says more.",
    ),
    "InsaAnomalyReaderLag": Case(
        {f'insa_reader_lag_seconds{{{OF},reader="record"}}': "600+0x10"},
        {f'insa_reader_lag_seconds{{{OF},reader="record"}}': "290+0x10"},
        6,
        "warning",
        "The record reader of insa-anomaly on plant:8787 is 10m 0s behind",
        labels={**INSTANCE, "reader": "record"},
    ),
    "InsaAnomalyLatency": Case(
        {
            f'{BUCKET}"0.1"}}': "0+50x30",
            f'{BUCKET}"0.25"}}': "0+100x30",
            f'{BUCKET}"+Inf"}}': "0+100x30",
        },
        {
            f'{BUCKET}"0.1"}}': "0+100x30",
            f'{BUCKET}"0.25"}}': "0+100x30",
            f'{BUCKET}"+Inf"}}': "0+100x30",
        },
        20,
        "warning",
        "Predictions of insa-anomaly on plant:8787 take 247ms at p99",
    ),
    "InsaAnomalyCertificate": Case(
        {f'insa_certificate_expires_seconds{{{OF},of="broker"}}': "2592600-60x20"},
        {f'insa_certificate_expires_seconds{{{OF},of="broker"}}': "2595000-60x20"},
        16,
        "warning",
        "A certificate that insa-anomaly on plant:8787 needs (broker) ends in 29d 23h 54m 0s",
        labels={**INSTANCE, "of": "broker"},
    ),
    "InsaAnomalyDeadLetters": Case(
        {f'insa_rejected_messages_total{{{OF},reason="malformed"}}': "0+2x60"},
        {f'insa_rejected_messages_total{{{OF},reason="malformed"}}': "0 0 7+0x60"},
        40,
        "warning",
        "insa-anomaly on plant:8787 gets messages again and again that hold no reading",
        description="30 in 15 minutes. The table dead_letters has them with their reasons.",
    ),
    "InsaAnomalyTrainingFailed": Case(
        {f"insa_trainings_failed_total{{{OF}}}": "0+0x90 2+0x60"},
        {f"insa_trainings_failed_total{{{OF}}}": "0+0x20 2+0x130"},
        120,
        "warning",
        "2 trainings of insa-anomaly on plant:8787 failed within an hour",
    ),
    "InsaAnomalyModelDegraded": Case(
        {f'insa_health_decisions_total{{{OF},cause="degraded",kind="escalate"}}': "0 2+0x1470"},
        {
            f'insa_health_decisions_total{{{OF},cause="degraded",kind="escalate"}}': "2+0x1470",
            f'insa_health_decisions_total{{{OF},cause="slow",kind="escalate"}}': "0 1+0x1470",
        },
        1440,
        "warning",
        "The health check of insa-anomaly on plant:8787 found 2 degraded models",
    ),
    "InsaAnomalyModelDisabled": Case(
        {f'insa_health_decisions_total{{{OF},cause="failing",kind="disable"}}': "0+0x20 1+0x20"},
        {f'insa_health_decisions_total{{{OF},cause="failing",kind="escalate"}}': "0+0x20 1+0x20"},
        30,
        "critical",
        "The health check of insa-anomaly on plant:8787 disabled 1 models",
    ),
    "InsaAnomalyModelStorage": Case(
        {f'insa_storage_bytes{{{OF},what="models"}}': "2147483648+0x30"},
        {
            f'insa_storage_bytes{{{OF},what="models"}}': "999999999+0x30",
            f'insa_storage_bytes{{{OF},what="log"}}': "2147483648+0x30",
        },
        20,
        "warning",
        "The models of insa-anomaly on plant:8787 take 2GiB on disk",
        labels={**INSTANCE, "what": "models"},
    ),
    "InsaAnomalyAccuracyLow": Case(
        {
            f'insa_model_accuracy{{{OF},device_id="p",metric_name="{name}"}}': f"{value}+0x90"
            for name, value in {"a": 0.85, "b": 0.95}.items()
        },
        {f'insa_model_accuracy{{{OF},device_id="p",metric_name="a"}}': "0.9+0x90"},
        80,
        "info",
        "1 models of insa-anomaly on plant:8787 have an accuracy below 0.90",
    ),
    "InsaAnomalyFalsePositives": Case(
        {f'insa_model_false_positive_rate{{{OF},device_id="p",metric_name="a"}}': "0.125+0x90"},
        {f'insa_model_false_positive_rate{{{OF},device_id="p",metric_name="a"}}': "0.1+0x90"},
        80,
        "warning",
        "The model of p / a on plant:8787 has a false positive rate of 12.5%",
        labels={**INSTANCE, "device_id": "p", "metric_name": "a"},
    ),
}


def test_every_alert_has_a_case_and_a_line() -> None:
    """Every alert has a case of its severity, and a line of the README."""
    alerts = {rule["alert"]: rule["labels"]["severity"] for rule in RULES}
    assert alerts == {name: case.severity for name, case in CASES.items()}
    assert alerts == dict(
        re.findall(r"^\| `(Insa\w+)` \| (\w+) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    )


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_when_it_should_and_only_then(
    promtool: list[str], tmp_path: Path, name: str
) -> None:
    """An alert fires with its labels and words; under the other metrics it does not."""
    case = CASES[name]
    [rule] = [rule for rule in RULES if rule["alert"] == name]
    words = {
        "summary": case.summary,
        "description": case.description or rule["annotations"]["description"],
    }
    fired = {"exp_labels": {**case.labels, "severity": case.severity}, "exp_annotations": words}
    tests = [
        _test(name, case.fires, case.minutes, [fired]),
        _test(name, case.quiet, case.minutes, []),
    ]
    if "for" in rule:
        tests.append(_test(name, case.fires, 0, []))
    file = {
        "rule_files": [str(FOLDER / "insa-anomaly.rules.yml")],
        "evaluation_interval": "1m",
        "tests": tests,
    }
    (tmp_path / "test.yml").write_text(json.dumps(file))
    checked(promtool, "test", "rules", str(tmp_path / "test.yml"))


def _test(
    name: str, metrics: Mapping[str, str], minutes: int, expected: list[dict[str, Any]]
) -> dict[str, Any]:
    series = [{"series": metric, "values": values} for metric, values in metrics.items()]
    asked = [{"eval_time": f"{minutes}m", "alertname": name, "exp_alerts": expected}]
    return {"interval": "1m", "input_series": series, "alert_rule_test": asked}
